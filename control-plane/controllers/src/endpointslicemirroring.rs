//! Tells the network of endpoints that somebody keeps by hand: an Endpoints object of a service without a selector is
//! mirrored into slices, which is what nodes read (KEP-752).

use std::collections::BTreeMap;

use copepod_api::{
    Action, DeleteOptions, Key, Of, Plan, Request, Timestamp, Typed, User,
    k8s_openapi::api::{
        core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service},
        discovery::v1::EndpointSlice,
    },
    resource,
};
use copepod_store::{Event, View};
use serde_json::{Value, json};

use crate::{Controller, hash, owned, write};

pub const CONTROLLER: Controller =
    Controller { name: "endpointslicemirroring-controller", wakes, all, reconcile, refused: crate::SILENT };

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

/// How many addresses of a subset are mirrored. Kubernetes mirrors as many.
const ADDRESSES_MAX: usize = 1000;

fn all(view: &View) -> Vec<Key> {
    view.objects(&Endpoints::resource(), None).map(|endpoints| endpoints.key.clone()).collect()
}

/// Endpoints, their service and their slices go by one name.
fn wakes(view: &View, event: &Event) -> Vec<Key> {
    let key = &event.object.key;
    let name = match &key.resource {
        own if *own == Endpoints::resource() || *own == resource::SERVICES => Some(key.name()),
        own if *own == resource::ENDPOINT_SLICES => {
            let labels = &event.object.meta.labels;
            let is_own = labels.get(MANAGED_BY).is_some_and(|manager| manager == MANAGER);
            labels.get(SERVICE_NAME).filter(|_| is_own)
        }
        _ => None,
    };
    let Some(name) = name else { return Vec::new() };
    let endpoints = Key::new(Endpoints::resource(), key.namespace(), name);
    let is_own = key.resource != resource::SERVICES || view.object(&endpoints).is_some();
    is_own.then_some(endpoints).into_iter().collect()
}

fn reconcile(view: &View, key: &Key, _: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    if !write::is_open(view, key.namespace()) {
        return plan;
    }
    let user = User::system("system:controller:endpointslicemirroring-controller");
    let wanted = wanted(view, key);
    let known = view.list::<EndpointSlice>(Some(key.namespace())).filter(|slice| {
        let labels = &slice.meta().labels;
        labels.get(MANAGED_BY).is_some_and(|manager| manager == MANAGER)
            && labels.get(SERVICE_NAME).is_some_and(|service| service == key.name())
    });
    let known: BTreeMap<String, Of<EndpointSlice>> =
        known.map(|slice| (slice.key().name().to_owned(), slice)).collect();
    for (name, slice) in &known {
        if !wanted.contains_key(name) && !slice.meta().is_leaving() {
            plan.push(write::delete(&user, slice.object(), DeleteOptions::default()));
        }
    }
    for (name, object) in wanted {
        match known.get(&name) {
            None => {
                plan.push(Request::of::<EndpointSlice>(&user, key.namespace(), &name, "", Action::Create { object }));
            }
            Some(slice) => {
                let stands = slice.object().value();
                let differs = ["endpoints", "ports"].iter().any(|field| stands[*field] != object[*field]);
                if differs {
                    let patch = json!({"endpoints": object["endpoints"], "ports": object["ports"]});
                    plan.push(write::patch(&user, slice.object(), patch));
                }
            }
        }
    }
    plan
}

/// The slices that there should be, by name: one for each subset and family of addresses.
fn wanted(view: &View, key: &Key) -> BTreeMap<String, Value> {
    let mut slices = BTreeMap::new();
    let Some(endpoints) = view.get::<Endpoints>(key.namespace(), key.name()) else { return slices };
    let meta = endpoints.meta();
    let is_skipped = meta.labels.get(SKIP).is_some_and(|skip| skip == "true") || meta.annotations.contains_key(LEADER);
    let service = view.get::<Service>(key.namespace(), key.name());
    // A service that selects pods has slices of its own.
    let is_by_hand = service.is_some_and(|service| {
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        selector.is_none_or(BTreeMap::is_empty)
    });
    if is_skipped || meta.is_leaving() || !is_by_hand {
        return slices;
    }
    for (place, subset) in endpoints.subsets.iter().flatten().enumerate() {
        for (family, is_own) in [("IPv4", false), ("IPv6", true)] {
            let told = mirrored(subset, is_own);
            if told.is_empty() {
                continue;
            }
            let parts = [endpoints.uid().as_bytes(), &place.to_be_bytes(), family.as_bytes()];
            let name = format!("{}-{}", key.name(), hash::letters(hash::fnv1a(&parts), 5));
            let mut labels: BTreeMap<&str, &str> = meta.labels.iter().collect();
            labels.extend([(SERVICE_NAME, key.name()), (MANAGED_BY, MANAGER)]);
            let slice = json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "name": name, "namespace": key.namespace(), "labels": labels,
                    "ownerReferences": [owned::reference(&endpoints)],
                },
                "addressType": family, "endpoints": told, "ports": ports(subset),
            });
            slices.insert(name, slice);
        }
    }
    slices
}

fn mirrored(subset: &EndpointSubset, is_ipv6: bool) -> Vec<Value> {
    let ready = subset.addresses.iter().flatten().map(|address| (address, true));
    let others = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
    let own = ready.chain(others).filter(|(address, _)| address.ip.contains(':') == is_ipv6);
    own.take(ADDRESSES_MAX).map(|(address, is_ready)| endpoint(address, is_ready)).collect()
}

fn endpoint(address: &EndpointAddress, is_ready: bool) -> Value {
    let mut endpoint = json!({"addresses": [address.ip], "conditions": {"ready": is_ready}});
    let more = [
        ("hostname", address.hostname.as_ref().map(|name| json!(name))),
        ("nodeName", address.node_name.as_ref().map(|name| json!(name))),
        ("targetRef", address.target_ref.as_ref().map(|target| json!(target))),
    ];
    for (field, value) in more {
        if let Some(value) = value {
            endpoint[field] = value;
        }
    }
    endpoint
}

fn ports(subset: &EndpointSubset) -> Vec<Value> {
    let port = |port: &copepod_api::k8s_openapi::api::core::v1::EndpointPort| {
        let mut told = json!({
            "name": port.name.clone().unwrap_or_default(),
            "protocol": port.protocol.clone().unwrap_or("TCP".to_owned()), "port": port.port,
        });
        if let Some(protocol) = &port.app_protocol {
            told["appProtocol"] = json!(protocol);
        }
        told
    };
    subset.ports.iter().flatten().map(port).collect()
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use serde_json::json;

    use crate::world::World;

    const KEY: &str = "endpoints default/db";

    fn look(world: &mut World) -> String {
        let plan = world.plan(&super::CONTROLLER, KEY);
        world.apply(&plan);
        world.print(&plan)
    }

    #[test]
    fn endpoints_kept_by_hand_are_mirrored_and_follow() {
        let mut world = World::read("node n1");
        world.create("", "services", "Service", "default", "db", json!({"spec": {"ports": [{"port": 5432}]}}));
        let subsets = json!([{
            "addresses": [{"ip": "192.0.2.7"}], "notReadyAddresses": [{"ip": "192.0.2.8"}, {"ip": "2001:db8::1"}],
            "ports": [{"port": 5432, "protocol": "TCP"}],
        }]);
        world.create("", "endpoints", "Endpoints", "default", "db", json!({"subsets": subsets}));
        assert_snapshot!(look(&mut world), @r"
            create endpointslice db-bpqm6 [2001:db8::1] :5432
            create endpointslice db-snkdq [192.0.2.7 ready][192.0.2.8] :5432
        ");
        assert_eq!(look(&mut world), "");
        world.edit(KEY, |endpoints| endpoints["subsets"][0]["addresses"][0]["ip"] = json!("192.0.2.9"));
        assert_snapshot!(look(&mut world), @"patch endpointslice db-snkdq [192.0.2.9 ready][192.0.2.8]");
        world.delete(KEY);
        assert_snapshot!(look(&mut world), @r"
            delete endpointslice db-bpqm6
            delete endpointslice db-snkdq
        ");
    }

    #[test]
    fn services_with_selectors_have_slices_of_their_own() {
        let mut world = World::read("service db 80");
        world.create(
            "",
            "endpoints",
            "Endpoints",
            "default",
            "db",
            json!({"subsets": [{"addresses": [{"ip": "192.0.2.7"}]}]}),
        );
        assert_eq!(look(&mut world), "");
    }
}
