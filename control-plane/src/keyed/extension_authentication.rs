//! What a program that serves a group has to know to believe this cluster: whose certificates clients show, by which it
//! knows the front proxy, and in which headers that says for whom it asks.

use copepod_api::{
    Action, Key, Patch, Plan, Request, Timestamp, User,
    k8s_openapi::api::core::v1::ConfigMap,
    resource::{CONFIG_MAPS, NAMESPACES},
};
use copepod_identity::{Authority, FRONT_PROXY};
use copepod_store::{Event, View};
use serde_json::{Value, json};

use super::Controller;

pub const CONTROLLER: Controller = Controller { name: "extension-apiserver-authentication", wakes, all, reconcile };

const NAMESPACE: &str = "kube-system";
const NAME: &str = "extension-apiserver-authentication";

fn wakes(view: &View, event: &Event) -> Vec<Key> {
    let key = &event.object.key;
    let is_map = key.resource == CONFIG_MAPS && key.namespace() == NAMESPACE && key.name() == NAME;
    let is_place = key.resource == NAMESPACES && key.name() == NAMESPACE;
    if is_map || is_place { all(view) } else { Vec::new() }
}

fn all(_: &View) -> Vec<Key> {
    vec![Key::new(CONFIG_MAPS, NAMESPACE, NAME)]
}

fn reconcile(authority: &Authority, view: &View, key: &Key, _: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    if view.object(&Key::new(NAMESPACES, "", NAMESPACE)).is_none_or(|namespace| namespace.meta.is_leaving()) {
        return plan;
    }
    let certificate = authority.certificate_pem();
    let list = |names: &[&str]| json!(names).to_string();
    let data = json!({
        "client-ca-file": certificate,
        "requestheader-allowed-names": list(&[FRONT_PROXY]),
        "requestheader-client-ca-file": certificate,
        "requestheader-extra-headers-prefix": list(&["X-Remote-Extra-"]),
        "requestheader-group-headers": list(&["X-Remote-Group"]),
        "requestheader-uid-headers": list(&["X-Remote-Uid"]),
        "requestheader-username-headers": list(&["X-Remote-User"]),
    });
    let user = User::system("system:bootstrap");
    let action = match view.object(key) {
        None => Action::Create {
            object: json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME, "namespace": NAMESPACE}, "data": data,
            }),
        },
        Some(stands) => {
            let stands: Value = serde_json::from_slice(stands.bytes()).unwrap_or_default();
            let is_whole = data.as_object().into_iter().flatten().all(|(name, text)| stands["data"][name] == *text);
            if is_whole {
                return plan;
            }
            Action::Patch { patch: Patch::Merge(json!({ "data": data })) }
        }
    };
    plan.push(Request::of::<ConfigMap>(&user, NAMESPACE, NAME, "", action));
    plan
}
