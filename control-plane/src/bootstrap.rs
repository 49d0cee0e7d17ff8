//! What a cluster is born with: its namespaces, its roles, its keys for tokens, the authority of its front proxy, and the
//! service under which pods reach the API.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use copepod_api::{
    Action, Key, Patch, Request, Timestamp, Typed, User,
    k8s_openapi::api::{
        core::v1::{Endpoints, Namespace, Secret, Service},
        discovery::v1::EndpointSlice,
        networking::v1::ServiceCIDR,
        scheduling::v1::PriorityClass,
    },
    resource::{NAMESPACES, SECRETS, SERVICES},
};
use copepod_identity::{AccountKeys, FrontProxy};
use copepod_registry::{SERVICE_RANGE_TEXT, SYSTEM_PRIORITIES};
use copepod_replica::Replica;
use copepod_store::{Door, View};
use serde_json::{Value, json};

use crate::{flows, roles};

const NAMESPACES_AT_BIRTH: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// The first address of the service network: where `kubernetes.default` is.
const API_ADDRESS: &str = "10.96.0.1";

/// After a refusal: something else is under way, such as a change of leader.
const RETRY: Duration = Duration::from_secs(1);

/// Makes what is missing, and keeps the endpoints of `kubernetes` at the servers' addresses, while this server leads.
pub async fn run(door: Arc<dyn Door>, replica: Replica) {
    let user = User::system("system:bootstrap");
    let mut membership = replica.membership();
    loop {
        let servers: BTreeMap<(IpAddr, u16), bool> = membership
            .borrow_and_update()
            .iter()
            .filter_map(|member| Some((split(&member.address)?, !member.learner)))
            .collect();
        // In one transaction: nobody sees a cluster that is half born.
        let requests = missing(&door.view(), &user, &servers, Timestamp::now());
        let settled = requests.is_empty()
            || match door.submit(requests).await {
                Ok(_) => true,
                Err(status) => {
                    tracing::debug!(%status, "what a cluster is born with could not be made yet");
                    false
                }
            };
        if !settled {
            tokio::time::sleep(RETRY).await;
        } else if membership.changed().await.is_err() {
            return;
        }
    }
}

fn split(address: &str) -> Option<(IpAddr, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    Some((host.trim_matches(['[', ']']).parse().ok()?, port.parse().ok()?))
}

fn missing(view: &View, user: &User, servers: &BTreeMap<(IpAddr, u16), bool>, now: Timestamp) -> Vec<Request> {
    let mut requests = Vec::new();
    for name in NAMESPACES_AT_BIRTH {
        if view.object(&Key::new(NAMESPACES, "", name)).is_none() {
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            requests.push(Request::of::<Namespace>(user, "", name, "", Action::Create { object: namespace }));
        }
    }
    let port = servers.first_key_value().map_or(6443, |((_, port), _)| *port);
    if view.object(&Key::new(SERVICES, "default", "kubernetes")).is_none() {
        let service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": "default", "name": "kubernetes",
                         "labels": {"component": "apiserver", "provider": "kubernetes"}},
            "spec": {"clusterIP": API_ADDRESS,
                     "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}]},
        });
        requests.push(Request::of::<Service>(user, "default", "kubernetes", "", Action::Create { object: service }));
    }
    requests.extend(service_range(view, user, now));
    requests.extend(roles::missing(view, user));
    requests.extend(flows::missing(view, user));
    requests.extend(priority_classes(view, user));
    requests.extend(account_keys(view, user));
    requests.extend(front_proxy(view, user, now));
    requests.extend(endpoints(view, user, servers, port));
    requests
}

/// The range that services' addresses come from, for those who look it up.
///
/// Its name and condition are KEP-1880's. Further ranges are kept as objects, but no address is taken from them yet.
fn service_range(view: &View, user: &User, now: Timestamp) -> Vec<Request> {
    const NAME: &str = "kubernetes";
    if view.get::<ServiceCIDR>("", NAME).is_some() {
        return Vec::new();
    }
    let range = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": NAME},
        "spec": {"cidrs": [SERVICE_RANGE_TEXT]},
    });
    let ready = json!({"status": {"conditions": [{
        "type": "Ready", "status": "True", "reason": "", "lastTransitionTime": now,
        "message": "Services get their addresses from it.",
    }]}});
    let patch = Action::Patch { patch: Patch::Merge(ready) };
    vec![
        Request::of::<ServiceCIDR>(user, "", NAME, "", Action::Create { object: range }),
        Request::of::<ServiceCIDR>(user, "", NAME, "status", patch),
    ]
}

/// The classes of what a cluster cannot do without.
fn priority_classes(view: &View, user: &User) -> impl Iterator<Item = Request> {
    let missing = SYSTEM_PRIORITIES.iter().filter(|(name, _)| view.get::<PriorityClass>("", name).is_none());
    missing.map(|(name, value)| {
        let class = json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value,
            "description": "Pods that the cluster cannot do without.",
        });
        Request::of::<PriorityClass>(user, "", name, "", Action::Create { object: class })
    })
}

/// The keys that tokens of service accounts are signed with.
fn account_keys(view: &View, user: &User) -> Option<Request> {
    if view.object(&Key::new(SECRETS, AccountKeys::NAMESPACE, AccountKeys::SECRET)).is_some() {
        return None;
    }
    let secret =
        AccountKeys::create().inspect_err(|error| tracing::error!(%error, "no key for tokens can be made")).ok()?;
    let action = Action::Create { object: secret };
    Some(Request::of::<Secret>(user, AccountKeys::NAMESPACE, AccountKeys::SECRET, "", action))
}

/// The authority by which programs that serve groups know this cluster's servers.
fn front_proxy(view: &View, user: &User, now: Timestamp) -> Option<Request> {
    if view.object(&Key::new(SECRETS, FrontProxy::NAMESPACE, FrontProxy::SECRET)).is_some() {
        return None;
    }
    let secret = FrontProxy::create(now)
        .inspect_err(|error| tracing::error!(%error, "no authority for the front proxy can be made"))
        .ok()?;
    let action = Action::Create { object: secret };
    Some(Request::of::<Secret>(user, FrontProxy::NAMESPACE, FrontProxy::SECRET, "", action))
}

/// A server that does not vote yet is not offered: one that fails now would take the cluster with it.
fn endpoints(view: &View, user: &User, servers: &BTreeMap<(IpAddr, u16), bool>, port: u16) -> Vec<Request> {
    let all: Vec<Value> = servers
        .iter()
        .map(|((address, _), votes)| json!({"addresses": [address.to_string()], "conditions": {"ready": votes}}))
        .collect();
    let ports = json!([{"name": "https", "port": port, "protocol": "TCP"}]);
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"namespace": "default", "name": "kubernetes",
                     "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": "IPv4", "ports": ports, "endpoints": all,
    });
    let voting: Vec<Value> = servers
        .iter()
        .filter(|(_, votes)| **votes)
        .map(|((address, _), _)| json!({"ip": address.to_string()}))
        .collect();
    let subsets = if voting.is_empty() { json!([]) } else { json!([{"addresses": voting, "ports": ports}]) };
    // There is a slice already: nobody needs to make one of these.
    let older = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"namespace": "default", "name": "kubernetes",
                     "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": subsets,
    });
    let kept = [
        kept::<EndpointSlice>(view, user, slice, &["endpoints", "ports"]),
        kept::<Endpoints>(view, user, older, &["subsets"]),
    ];
    kept.into_iter().flatten().collect()
}

/// What makes an object be there with these fields as they are in `wanted`.
fn kept<T: Typed>(view: &View, user: &User, wanted: Value, fields: &[&str]) -> Option<Request> {
    let action = match view.object(&Key::new(T::resource(), "default", "kubernetes")) {
        None => Action::Create { object: wanted },
        Some(stands) => {
            let stands: Value = serde_json::from_slice(&stands.bytes()).unwrap_or_default();
            if fields.iter().all(|field| stands[*field] == wanted[*field]) {
                return None;
            }
            let own = fields.iter().map(|field| ((*field).to_owned(), wanted[*field].clone()));
            Action::Patch { patch: Patch::Merge(Value::Object(own.collect())) }
        }
    };
    Some(Request::of::<T>(user, "default", "kubernetes", "", action))
}
