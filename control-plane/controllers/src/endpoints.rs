//! Endpoints objects of services that select pods, for those who have not learned of slices yet.
//!
//! They say nothing that the slices do not say, so they are made of them: a change of one pod is looked at once. Readers
//! are rare and Kubernetes calls the kind deprecated, but ingress controllers and monitors still come with it.

use std::collections::BTreeMap;

use copepod_api::{
    Action, DeleteOptions, Key, Of, Plan, Request, Timestamp, Typed, User,
    k8s_openapi::api::{
        core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service, ServiceSpec},
        discovery::v1::{Endpoint, EndpointSlice},
    },
    resource,
};
use copepod_store::{Event, View};
use serde_json::{Value, json};

use crate::{
    Controller,
    endpointslice::{self, HEADLESS},
    write,
};

pub const CONTROLLER: Controller =
    Controller { name: "endpoint-controller", wakes, all, reconcile, refused: crate::SILENT };

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";

/// How many addresses one object tells: each change writes all of them. Kubernetes tells as many.
const ADDRESSES_MAX: usize = 1000;

fn all(view: &View) -> Vec<Key> {
    let services = view.objects(&resource::SERVICES, None).map(|service| service.key.clone());
    // Services that are gone may have left theirs behind.
    let left = view.list::<Endpoints>(None).filter(is_ours).map(|endpoints| service_of(endpoints.key()));
    services.chain(left).collect()
}

fn is_ours(endpoints: &Of<Endpoints>) -> bool {
    endpoints.meta().labels.get(MANAGED_BY).is_some_and(|manager| manager == MANAGER)
}

/// Endpoints go by the name of their service.
fn service_of(endpoints: &Key) -> Key {
    Key::new(resource::SERVICES, endpoints.namespace(), endpoints.name())
}

fn wakes(_: &View, event: &Event) -> Vec<Key> {
    let key = &event.object.key;
    let service = match &key.resource {
        own if *own == resource::SERVICES => Some(key.clone()),
        own if *own == resource::ENDPOINT_SLICES => endpointslice::service_of(&event.object),
        own if *own == Endpoints::resource() => Some(service_of(key)),
        _ => None,
    };
    service.into_iter().collect()
}

fn reconcile(view: &View, key: &Key, _: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let user = User::system("system:controller:endpoint-controller");
    let known = view.get::<Endpoints>(key.namespace(), key.name());
    let service = view.get::<Service>(key.namespace(), key.name()).filter(|service| !service.meta().is_leaving());
    let Some(service) = service else {
        if let Some(known) = known.filter(is_ours) {
            plan.push(write::delete(&user, known.object(), DeleteOptions::default()));
        }
        return plan;
    };
    let Some(spec) = service.spec.as_ref().filter(|spec| endpointslice::selector(spec).is_some()) else {
        return plan;
    };
    if !write::is_open(view, key.namespace()) {
        return plan;
    }
    let slices: Vec<Of<EndpointSlice>> = endpointslice::own(view, &service).collect();
    if slices.is_empty() {
        plan.because("the slices of the service are not written yet");
        return plan;
    }
    let (subsets, is_cut) = subsets(spec, &slices);
    let labels = labels(&service, spec);
    match known {
        None => {
            let mut object = json!({
                "apiVersion": "v1", "kind": "Endpoints",
                "metadata": {"name": key.name(), "namespace": key.namespace(), "labels": labels},
                "subsets": subsets,
            });
            if is_cut {
                object["metadata"]["annotations"] = json!({OVER_CAPACITY: "truncated"});
            }
            plan.push(Request::of::<Endpoints>(&user, key.namespace(), key.name(), "", Action::Create { object }));
        }
        Some(known) => {
            if let Some(patch) = patch(&known, &subsets, &labels, is_cut) {
                plan.push(write::patch(&user, known.object(), patch));
            }
        }
    }
    plan
}

/// What has changed.
fn patch(
    known: &Of<Endpoints>,
    subsets: &[EndpointSubset],
    labels: &BTreeMap<String, String>,
    is_cut: bool,
) -> Option<Value> {
    let mut patch = json!({});
    if known.subsets.as_deref().unwrap_or_default() != subsets {
        patch["subsets"] = json!(subsets);
    }
    let meta = known.meta();
    for (name, value) in labels.iter().filter(|(name, value)| meta.labels.get(name) != Some(value.as_str())) {
        patch["metadata"]["labels"][name] = json!(value);
    }
    for name in meta.labels.keys().filter(|name| !labels.contains_key(*name)) {
        patch["metadata"]["labels"][name] = Value::Null;
    }
    if meta.annotations.contains_key(OVER_CAPACITY) != is_cut {
        patch["metadata"]["annotations"][OVER_CAPACITY] = if is_cut { json!("truncated") } else { Value::Null };
    }
    (patch != json!({})).then_some(patch)
}

fn labels(service: &Of<Service>, spec: &ServiceSpec) -> BTreeMap<String, String> {
    let mut labels = service.meta().labels.to_map();
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if spec.cluster_ip.as_deref() == Some("None") {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels
}

/// What the slices say, by their ports, in the order of addresses; and whether that is not all of it.
fn subsets(spec: &ServiceSpec, slices: &[Of<EndpointSlice>]) -> (Vec<EndpointSubset>, bool) {
    let family = endpointslice::families(spec)[0];
    let tells_all = spec.publish_not_ready_addresses == Some(true);
    let mut by_ports: BTreeMap<String, EndpointSubset> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.address_type == family) {
        let ports = ports(slice);
        let subset = by_ports.entry(serde_json::to_string(&ports).unwrap_or_default()).or_default();
        subset.ports = (!ports.is_empty()).then_some(ports);
        for endpoint in slice.endpoints.iter().flatten() {
            let conditions = endpoint.conditions.as_ref();
            let is_leaving = conditions.and_then(|conditions| conditions.terminating) == Some(true);
            if is_leaving && !tells_all {
                continue;
            }
            let is_ready = conditions.and_then(|conditions| conditions.ready) != Some(false);
            let side = if is_ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
            side.get_or_insert_default().extend(address(endpoint));
        }
    }
    let mut subsets: Vec<EndpointSubset> = by_ports.into_values().collect();
    let is_cut = cut(&mut subsets);
    subsets.retain(|subset| subset.addresses.is_some() || subset.not_ready_addresses.is_some());
    (subsets, is_cut)
}

fn address(endpoint: &Endpoint) -> Option<EndpointAddress> {
    Some(EndpointAddress {
        ip: endpoint.addresses.first()?.clone(),
        hostname: endpoint.hostname.clone(),
        node_name: endpoint.node_name.clone(),
        target_ref: endpoint.target_ref.clone(),
    })
}

fn ports(slice: &EndpointSlice) -> Vec<EndpointPort> {
    let known = slice.ports.iter().flatten().filter_map(|port| {
        Some(EndpointPort {
            name: port.name.clone().filter(|name| !name.is_empty()),
            port: port.port?,
            protocol: port.protocol.clone(),
            app_protocol: port.app_protocol.clone(),
        })
    });
    known.collect()
}

/// Puts addresses in order and keeps as many as may be, those that are ready first. Says whether any is left out.
fn cut(subsets: &mut [EndpointSubset]) -> bool {
    let mut room = ADDRESSES_MAX;
    let mut is_cut = false;
    let mut keep = |side: &mut Option<Vec<EndpointAddress>>| {
        let Some(addresses) = side else { return };
        addresses.sort_by(|one, other| one.ip.cmp(&other.ip));
        is_cut |= addresses.len() > room;
        addresses.truncate(room);
        room -= addresses.len();
        if addresses.is_empty() {
            *side = None;
        }
    };
    subsets.iter_mut().for_each(|subset| keep(&mut subset.addresses));
    subsets.iter_mut().for_each(|subset| keep(&mut subset.not_ready_addresses));
    is_cut
}

#[cfg(test)]
mod tests {
    use copepod_api::{Key, Of, k8s_openapi::api::core::v1::Endpoints};
    use serde_json::{Value, json};

    use crate::world::World;

    /// The world after both controllers looked once.
    fn settled(fixture: &str) -> World {
        let mut world = World::read(fixture);
        for controller in [&crate::endpointslice::CONTROLLER, &super::CONTROLLER] {
            let plan = world.plan(controller, "services default/web");
            world.apply(&plan);
        }
        world
    }

    fn told(world: &World) -> Option<Of<Endpoints>> {
        world.view.get::<Endpoints>("default", "web")
    }

    fn ips(side: &Value) -> Vec<&str> {
        side.as_array().into_iter().flatten().filter_map(|address| address["ip"].as_str()).collect()
    }

    #[test]
    fn pods_are_told_by_whether_they_are_ready_and_those_that_leave_are_not() {
        let world = settled(
            "node n1 | service web 80 | pod b - app=web ready ip=10.0.0.2 on=n1 | pod a - app=web ready ip=10.0.0.1 \
             | pod c - app=web ip=10.0.0.3 | pod d - app=web ready ip=10.0.0.4 leaving",
        );
        let endpoints = told(&world).unwrap();
        let subset = &endpoints.object().value()["subsets"][0];
        assert_eq!(ips(&subset["addresses"]), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(ips(&subset["notReadyAddresses"]), ["10.0.0.3"]);
        assert_eq!(subset["ports"], json!([{"port": 80, "protocol": "TCP"}]));
        assert_eq!(subset["addresses"][1]["nodeName"], "n1");
        assert_eq!(subset["addresses"][1]["targetRef"]["name"], "b");
        assert_eq!(&endpoints.meta().labels["endpoints.kubernetes.io/managed-by"], "endpoint-controller");
    }

    #[test]
    fn they_go_with_the_service_and_with_nothing_to_say_nothing_is_written() {
        let mut world = settled("service web 80 | pod a - app=web ready ip=10.0.0.1");
        assert!(world.plan(&super::CONTROLLER, "services default/web").requests.is_empty());
        world.delete("services default/web");
        world.settle();
        assert!(told(&world).is_none());
    }

    #[test]
    fn a_thousand_are_told_and_that_there_are_more() {
        let mut fixture = "service web 80".to_owned();
        for n in 0..1003 {
            fixture.push_str(&format!(" | pod p{n} - app=web ready ip=10.0.{}.{}", n / 250, n % 250));
        }
        let world = settled(&fixture);
        let endpoints = told(&world).unwrap();
        let count = endpoints.subsets.iter().flatten().flat_map(|subset| subset.addresses.iter().flatten()).count();
        assert_eq!(count, 1000);
        assert_eq!(&endpoints.meta().annotations["endpoints.kubernetes.io/over-capacity"], "truncated");
    }

    #[test]
    fn what_somebody_keeps_by_hand_is_left_alone() {
        let mut world = World::read("node n1");
        let object =
            json!({"apiVersion": "v1", "kind": "Endpoints", "subsets": [{"addresses": [{"ip": "192.0.2.1"}]}]});
        world.create("", "endpoints", "Endpoints", "default", "web", object);
        world.settle();
        assert!(told(&world).is_some());
        assert!(world.view.object(&Key::new(copepod_api::resource::SERVICES, "default", "web")).is_none());
    }
}
