//! Every namespace has the certificate of the cluster's authority, so that pods know the API when they see it.

use copepod_api::{
    Action, Key, Patch, Plan, Request, Timestamp, User,
    k8s_openapi::api::core::v1::ConfigMap,
    resource::{CONFIG_MAPS, NAMESPACES},
};
use copepod_identity::Authority;
use copepod_store::{Event, View};
use serde_json::{Value, json};

use super::Controller;

pub const CONTROLLER: Controller = Controller { name: "root-ca-certificate-publisher", wakes, all, reconcile };

const NAME: &str = "kube-root-ca.crt";
const FIELD: &str = "ca.crt";

fn wakes(_: &View, event: &Event) -> Vec<Key> {
    let key = &event.object.key;
    match key.resource == CONFIG_MAPS && key.name() == NAME {
        true => vec![Key::new(NAMESPACES, "", key.namespace())],
        false if key.resource == NAMESPACES => vec![key.clone()],
        false => Vec::new(),
    }
}

fn all(view: &View) -> Vec<Key> {
    view.objects(&NAMESPACES, None).map(|namespace| namespace.key.clone()).collect()
}

fn reconcile(authority: &Authority, view: &View, key: &Key, _: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    if view.object(key).is_none_or(|namespace| namespace.meta.is_leaving()) {
        return plan;
    }
    let data = json!({FIELD: authority.certificate_pem()});
    let user = User::system("system:controller:root-ca-cert-publisher");
    let action = match view.object(&Key::new(CONFIG_MAPS, key.name(), NAME)) {
        None => Action::Create {
            object: json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {
                    "name": NAME, "namespace": key.name(),
                    "annotations": {"kubernetes.io/description": "The certificate of the authority that vouches for \
                        this cluster's API server."},
                },
                "data": data,
            }),
        },
        Some(stands) => {
            let stands: Value = serde_json::from_slice(&stands.bytes()).unwrap_or_default();
            if stands["data"] == data {
                return plan;
            }
            // Whatever else somebody put there goes: the map is what others trust.
            let mut whole = data;
            for name in stands["data"].as_object().into_iter().flatten().map(|(name, _)| name) {
                if name != FIELD {
                    whole[name] = Value::Null;
                }
            }
            Action::Patch { patch: Patch::Merge(json!({ "data": whole })) }
        }
    };
    plan.push(Request::of::<ConfigMap>(&user, key.name(), NAME, "", action));
    plan
}
