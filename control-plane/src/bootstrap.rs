//! What a cluster is born with: its namespaces, its roles, its keys for tokens, and the service under which pods reach the API.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use copepod_api::{
    Action, Key, Patch, Request, User,
    k8s_openapi::api::{
        core::v1::{Namespace, Secret, Service},
        discovery::v1::EndpointSlice,
        scheduling::v1::PriorityClass,
    },
    resource::{ENDPOINT_SLICES, NAMESPACES, SECRETS, SERVICES},
};
use copepod_identity::AccountKeys;
use copepod_registry::SYSTEM_PRIORITIES;
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
        let requests = missing(&door.view(), &user, &servers);
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

fn missing(view: &View, user: &User, servers: &BTreeMap<(IpAddr, u16), bool>) -> Vec<Request> {
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
    requests.extend(roles::missing(view, user));
    requests.extend(flows::missing(view, user));
    requests.extend(priority_classes(view, user));
    requests.extend(account_keys(view, user));
    requests.extend(endpoints(view, user, servers, port));
    requests
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

/// A server that does not vote yet is not offered: one that fails now would take the cluster with it.
fn endpoints(view: &View, user: &User, servers: &BTreeMap<(IpAddr, u16), bool>, port: u16) -> Option<Request> {
    let endpoints: Vec<Value> = servers
        .iter()
        .map(|((address, _), votes)| json!({"addresses": [address.to_string()], "conditions": {"ready": votes}}))
        .collect();
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"namespace": "default", "name": "kubernetes",
                     "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": "IPv4",
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        "endpoints": endpoints,
    });
    let action = match view.object(&Key::new(ENDPOINT_SLICES, "default", "kubernetes")) {
        None => Action::Create { object: slice },
        Some(stands) if stands.value()["endpoints"] != slice["endpoints"] => {
            Action::Patch { patch: Patch::Merge(json!({"endpoints": slice["endpoints"], "ports": slice["ports"]})) }
        }
        Some(_) => return None,
    };
    Some(Request::of::<EndpointSlice>(user, "default", "kubernetes", "", action))
}
