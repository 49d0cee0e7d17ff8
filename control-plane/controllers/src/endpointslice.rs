//! Tells the network which pods stand behind a service.
//!
//! A pod that is asked to go stays listed until it is gone, marked `terminating` and no longer `ready`: nodes take it out
//! of their maps at once, and still know connections to it. Endpoints stay in the slice they are in, so that one pod's
//! change is one slice's change.

mod ports;

use std::collections::BTreeMap;

use copepod_api::{
    Action, DeleteOptions, Key, Object, Of, Plan, Request, Timestamp, User,
    k8s_openapi::api::{
        core::v1::{ObjectReference, Service, ServiceSpec},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    resource,
    texts::Labels,
};
use copepod_store::{Event, EventKind, View};
use serde_json::{Value, json};

use crate::{Controller, hash, owned, pods, write};

pub const CONTROLLER: Controller =
    Controller { name: "endpointslice-controller", wakes, all, reconcile, refused: crate::SILENT };

/// Large enough that most services have one slice, small enough that a change of one pod is cheap to send to every node.
const ENDPOINTS_PER_SLICE: usize = 100;

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
pub const HEADLESS: &str = "service.kubernetes.io/headless";
const ZONE: &str = "topology.kubernetes.io/zone";

fn all(view: &View) -> Vec<Key> {
    view.objects(&resource::SERVICES, None).map(|service| service.key.clone()).collect()
}

fn wakes(view: &View, event: &Event) -> Vec<Key> {
    let key = &event.object.key;
    let resource = &key.resource;
    if *resource == resource::SERVICES {
        return vec![key.clone()];
    }
    if *resource == resource::ENDPOINT_SLICES {
        return service_of(&event.object).into_iter().collect();
    }
    if *resource == resource::NODES {
        let zone = |node: &Object| node.meta.labels.get(ZONE).map(str::to_owned);
        let moved = zone(&event.object) != event.previous.as_deref().and_then(zone);
        return if moved { all(view) } else { Vec::new() };
    }
    let is_gone = event.kind == EventKind::Deleted;
    let tells_nothing = || event.previous.as_deref().map(facts) == Some(facts(&event.object));
    if *resource != resource::PODS || (!is_gone && tells_nothing()) {
        return Vec::new();
    }
    let selected = |service: &Of<Service>| {
        let versions = [Some(&event.object), event.previous.as_ref()];
        versions.into_iter().flatten().any(|pod| selects(service, &pod.meta.labels))
    };
    view.list::<Service>(Some(key.namespace())).filter(selected).map(|service| service.key().clone()).collect()
}

/// The service that a slice says it is of.
pub fn service_of(slice: &Object) -> Option<Key> {
    let name = slice.meta.labels.get(SERVICE_NAME)?;
    Some(Key::new(resource::SERVICES, slice.key.namespace(), name))
}

/// The slices that this controller made for a service, and that stay.
pub fn own(view: &View, service: &Of<Service>) -> impl Iterator<Item = Of<EndpointSlice>> {
    let slices = view.dependents_of::<EndpointSlice>(service.uid());
    slices.filter(|slice| {
        let meta = slice.meta();
        !meta.is_leaving() && meta.labels.get(MANAGED_BY).is_some_and(|manager| manager == MANAGER)
    })
}

/// What of a pod can change an endpoint. Most changes of a pod are about something else.
fn facts(pod: &Object) -> impl PartialEq + use<'_> {
    let facts = pod.facts();
    (&pod.meta.labels, pod.meta.is_leaving(), pod.node.as_deref(), facts.is_ready, facts.has_ended(), &facts.addresses)
}

pub fn selector(spec: &ServiceSpec) -> Option<&BTreeMap<String, String>> {
    spec.selector.as_ref().filter(|selector| !selector.is_empty() && spec.type_.as_deref() != Some("ExternalName"))
}

fn selects(service: &Service, labels: &impl Labels) -> bool {
    let selector = service.spec.as_ref().and_then(selector);
    selector.is_some_and(|selector| selector.iter().all(|(key, value)| labels.value(key) == Some(value.as_str())))
}

fn reconcile(view: &View, key: &Key, _now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let Some(service) = view.get::<Service>(key.namespace(), key.name()) else {
        return plan;
    };
    let user = User::system("system:controller:endpointslice-controller");
    let Some(spec) = service.spec.as_ref().filter(|spec| selector(spec).is_some()) else {
        return plan;
    };
    if service.meta().is_leaving() || !write::is_open(view, key.namespace()) {
        return plan;
    }
    let live: Vec<Of<EndpointSlice>> = own(view, &service).collect();
    let mut drafts: Vec<Draft> = live.iter().map(Draft::read).collect();

    let mut wanted = wanted(view, &service, spec);
    if wanted.is_empty() {
        // One empty slice says "nobody", which is not the same as "not known yet".
        let family = families(spec)[0];
        let kept = drafts.iter().find(|draft| draft.family == family);
        let ports = kept.map(|draft| draft.ports.clone()).unwrap_or_default();
        let group = Group { ports, endpoints: BTreeMap::new() };
        wanted.insert(GroupKey { family, ports: ports_key(&group.ports) }, group);
    }
    for (group_key, group) in wanted {
        fill(&mut drafts, &group_key, group);
    }
    let ready = drafts.iter().flat_map(|draft| &draft.endpoints).filter(|endpoint| is_ready(endpoint)).count();
    if ready == 0 {
        plan.because("no pod that the selector matches is ready");
    }
    write_drafts(&mut plan, view, &user, &service, spec, &drafts);
    plan
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false)
}

/// Endpoints of one address family whose named ports mean the same numbers share slices.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct GroupKey {
    family: &'static str,
    ports: String,
}

#[derive(Default)]
struct Group {
    ports: Vec<EndpointPort>,
    /// By the uid of the pod.
    endpoints: BTreeMap<String, Endpoint>,
}

fn ports_key(ports: &[EndpointPort]) -> String {
    serde_json::to_string(ports).unwrap_or_default()
}

pub fn families(spec: &ServiceSpec) -> Vec<&'static str> {
    let named = spec.ip_families.iter().flatten();
    let mut families: Vec<&'static str> = named.map(|family| if family == "IPv6" { "IPv6" } else { "IPv4" }).collect();
    if families.is_empty() {
        families.push("IPv4");
    }
    families
}

/// The endpoints as they should be.
fn wanted(view: &View, service: &Of<Service>, spec: &ServiceSpec) -> BTreeMap<GroupKey, Group> {
    let mut groups: BTreeMap<GroupKey, Group> = BTreeMap::new();
    let families = families(spec);
    let candidates = view.objects(&resource::PODS, Some(service.key().namespace()));
    for object in candidates.filter(|pod| selects(service, &pod.meta.labels)) {
        if pods::has_ended(object) {
            continue;
        }
        for family in &families {
            let addresses = addresses(object, family);
            if addresses.is_empty() {
                continue;
            }
            let ports = ports::resolve(spec, object);
            let key = GroupKey { family, ports: ports_key(&ports) };
            let group = groups.entry(key).or_default();
            group.ports = ports;
            group.endpoints.insert(object.meta.uid.clone(), endpoint(view, service, spec, object, addresses));
        }
    }
    groups
}

/// The first address of a family: an endpoint has exactly one.
fn addresses(pod: &Object, family: &str) -> Vec<String> {
    let mut addresses = pod.facts().addresses.iter().map(|address| &**address);
    let found = addresses.find(|address| address.contains(':') == (family == "IPv6"));
    found.map(str::to_owned).into_iter().collect()
}

fn endpoint(view: &View, service: &Of<Service>, spec: &ServiceSpec, pod: &Object, addresses: Vec<String>) -> Endpoint {
    let (serving, terminating) = (pods::is_ready(pod), pod.meta.is_leaving());
    let facts = pod.facts();
    let is_named = facts.subdomain.as_deref() == Some(service.key().name());
    let node = pod.node.as_ref().and_then(|node| view.object(&Key::new(resource::NODES, "", node.clone())));
    Endpoint {
        addresses,
        conditions: Some(EndpointConditions {
            ready: Some(spec.publish_not_ready_addresses == Some(true) || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: facts.hostname.as_deref().filter(|_| is_named).map(str::to_owned),
        zone: node.and_then(|node| node.meta.labels.get(ZONE).map(str::to_owned)),
        node_name: pod.node.as_deref().map(str::to_owned),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            name: Some(pod.key.name().to_owned()),
            namespace: Some(pod.key.namespace().to_owned()),
            uid: Some(pod.meta.uid.clone()),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    }
}

/// One slice as it is and as it should be.
struct Draft {
    live: Option<Of<EndpointSlice>>,
    family: String,
    ports: Vec<EndpointPort>,
    endpoints: Vec<Endpoint>,
    used: bool,
}

impl Draft {
    fn read(live: &Of<EndpointSlice>) -> Draft {
        Draft {
            family: live.address_type.clone(),
            ports: live.ports.clone().unwrap_or_default(),
            endpoints: live.endpoints.clone().unwrap_or_default(),
            live: Some(live.clone()),
            used: false,
        }
    }
}

/// Puts a group into slices: first where an endpoint is already, then where there is room, then into new ones.
fn fill(drafts: &mut Vec<Draft>, key: &GroupKey, mut group: Group) {
    let is_own = |draft: &Draft| draft.family == key.family && ports_key(&draft.ports) == key.ports;
    for draft in drafts.iter_mut().filter(|draft| is_own(draft)) {
        draft.used = true;
        let present = std::mem::take(&mut draft.endpoints);
        draft.endpoints = present
            .iter()
            .filter_map(|endpoint| endpoint.target_ref.as_ref()?.uid.as_deref())
            .filter_map(|uid| group.endpoints.remove(uid))
            .collect();
    }
    let mut rest = group.endpoints.into_values();
    for draft in drafts.iter_mut().filter(|draft| is_own(draft)) {
        let room = ENDPOINTS_PER_SLICE.saturating_sub(draft.endpoints.len());
        draft.endpoints.extend(rest.by_ref().take(room));
    }
    // An empty slice is kept only where it is the group's only one.
    let mut full = drafts.iter().filter(|draft| is_own(draft) && !draft.endpoints.is_empty()).count();
    for draft in drafts.iter_mut().filter(|draft| is_own(draft) && draft.endpoints.is_empty()) {
        draft.used = full == 0;
        full += 1;
    }
    let rest: Vec<Endpoint> = rest.collect();
    let new = |endpoints: &[Endpoint]| Draft {
        live: None,
        family: key.family.to_owned(),
        ports: group.ports.clone(),
        endpoints: endpoints.to_vec(),
        used: true,
    };
    drafts.extend(rest.chunks(ENDPOINTS_PER_SLICE).map(new));
    if full == 0 && rest.is_empty() {
        drafts.push(new(&[]));
    }
}

fn write_drafts(
    plan: &mut Plan,
    view: &View,
    user: &User,
    service: &Of<Service>,
    spec: &ServiceSpec,
    drafts: &[Draft],
) {
    let labels = labels(service, spec);
    let mut taken = Vec::new();
    for draft in drafts {
        match &draft.live {
            Some(live) if !draft.used => plan.push(write::delete(user, live.object(), DeleteOptions::default())),
            Some(live) => {
                let mut patch = json!({});
                if live.endpoints.as_deref().unwrap_or_default() != draft.endpoints {
                    patch["endpoints"] = json!(draft.endpoints);
                }
                for (key, value) in &labels {
                    if live.meta().labels.get(key) != Some(value) {
                        patch["metadata"]["labels"][key] = json!(value);
                    }
                }
                for key in live.meta().labels.keys().filter(|key| !labels.contains_key(*key)) {
                    patch["metadata"]["labels"][key] = Value::Null;
                }
                if patch != json!({}) {
                    plan.push(write::patch(user, live.object(), patch));
                }
            }
            None => {
                let name = free_name(view, service, &mut taken);
                let object = json!({
                    "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                    "metadata": {
                        "name": name, "generateName": format!("{}-", service.key().name()),
                        "namespace": service.key().namespace(), "labels": labels,
                        "ownerReferences": [owned::reference(service)],
                    },
                    "addressType": draft.family, "ports": draft.ports, "endpoints": draft.endpoints,
                });
                let create = Action::Create { object };
                plan.push(Request::of::<EndpointSlice>(user, service.key().namespace(), &name, "", create));
            }
        }
    }
}

fn labels(service: &Of<Service>, spec: &ServiceSpec) -> BTreeMap<String, String> {
    let mut labels = service.meta().labels.to_map();
    labels.insert(SERVICE_NAME.to_owned(), service.key().name().to_owned());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if spec.cluster_ip.as_deref() == Some("None") {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels
}

fn free_name(view: &View, service: &Of<Service>, taken: &mut Vec<String>) -> String {
    let mut index = 0_u64;
    loop {
        let suffix = hash::letters(hash::fnv1a(&[service.uid().as_bytes(), &index.to_be_bytes()]), 5);
        let name = format!("{}-{suffix}", service.key().name());
        let key = Key::new(resource::ENDPOINT_SLICES, service.key().namespace(), name.as_str());
        if view.object(&key).is_none() && !taken.contains(&name) {
            taken.push(name.clone());
            return name;
        }
        index += 1;
    }
}

#[cfg(test)]
mod tests {
    use copepod_api::{Expect, Op, Txn};
    use insta::assert_snapshot;

    use crate::world::World;

    fn plan(fixture: &str) -> String {
        let world = World::read(fixture);
        world.print(&world.plan(&super::CONTROLLER, "services default/web"))
    }

    #[test]
    fn a_service_without_pods_has_one_empty_slice() {
        assert_snapshot!(plan("service web 80"), @r"
            create endpointslice web-5t2kr 
            because no pod that the selector matches is ready
        ");
    }

    #[test]
    fn terminating_pods_stay_listed_but_are_not_ready() {
        assert_snapshot!(
            plan("service web 80 | pod a - app=web ready ip=10.0.0.1 on=n1 | pod b - app=web ready ip=10.0.0.2 leaving \
                  | pod c - app=web ip=10.0.0.3 | pod d - app=web | pod e - app=web failed ip=10.0.0.5"),
            @"create endpointslice web-5t2kr [10.0.0.1 ready serving][10.0.0.2 serving terminating][10.0.0.3] :80");
    }

    #[test]
    fn a_pod_that_is_gone_wakes_its_services_whatever_was_known_of_it() {
        let world = World::read("service web 80 | pod a - app=web ready ip=10.0.0.1");
        let gone = Op::Delete { key: world.key("pods default/a"), expect: Expect::Present };
        let (view, events) = world.view.apply(&Txn { ops: vec![gone] }, world.now).unwrap();
        assert_eq!((super::CONTROLLER.wakes)(&view, &events[0]), [world.key("services default/web")]);
    }

    #[test]
    fn a_slice_holds_a_hundred() {
        let mut fixture = "service web 80".to_owned();
        for n in 0..250 {
            fixture.push_str(&format!(" | pod p{n} - app=web ready ip=10.0.1.{n}"));
        }
        let mut world = World::read(&fixture);
        world.settle();
        assert_snapshot!(world.summary_of("endpointslices.discovery.k8s.io"), @r"
            2 × 100 endpoints
            50 endpoints
        ");
        world.edit("pods default/p7", |pod| pod["metadata"]["labels"]["app"] = "other".into());
        assert_snapshot!(world.print(&world.plan(&super::CONTROLLER, "services default/web")).len(), @"2590");
    }

    #[test]
    fn named_ports_of_different_numbers_do_not_share_a_slice() {
        assert_snapshot!(
            plan("service web http | pod a - app=web ready ip=10.0.0.1 port=http:8080 \
                  | pod b - app=web ready ip=10.0.0.2 port=http:9090"),
            @r"
    create endpointslice web-5t2kr [10.0.0.1 ready serving] :8080
    create endpointslice web-4xgtx [10.0.0.2 ready serving] :9090
");
    }
}
