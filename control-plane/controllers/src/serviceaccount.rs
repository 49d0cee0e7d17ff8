//! Every namespace has a service account for pods that name none, also after somebody deleted it.

use copepod_api::{Action, Key, Plan, Request, Timestamp, User, k8s_openapi::api::core::v1::ServiceAccount, resource};
use copepod_store::{Event, EventKind, View};
use serde_json::json;

use crate::{Controller, write};

pub const CONTROLLER: Controller =
    Controller { name: "serviceaccount-controller", wakes, all, reconcile, refused: crate::SILENT };

const DEFAULT: &str = "default";

fn wakes(_: &View, event: &Event) -> Vec<Key> {
    let key = &event.object.key;
    if key.resource == resource::NAMESPACES {
        return vec![key.clone()];
    }
    let is_gone = event.kind == EventKind::Deleted && key.resource == resource::SERVICE_ACCOUNTS;
    match is_gone && key.name() == DEFAULT {
        true => vec![Key::new(resource::NAMESPACES, "", key.namespace())],
        false => Vec::new(),
    }
}

fn all(view: &View) -> Vec<Key> {
    view.objects(&resource::NAMESPACES, None).map(|namespace| namespace.key.clone()).collect()
}

fn reconcile(view: &View, key: &Key, _: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let account = Key::new(resource::SERVICE_ACCOUNTS, key.name(), DEFAULT);
    if write::is_open(view, key.name()) && view.object(&account).is_none() {
        let user = User::system("system:controller:service-account-controller");
        let object = json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": DEFAULT, "namespace": key.name()},
        });
        plan.push(Request::of::<ServiceAccount>(&user, key.name(), DEFAULT, "", Action::Create { object }));
    }
    plan
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::world::World;

    #[test]
    fn a_namespace_has_its_account_until_it_goes() {
        let mut world = World::read("configmap x");
        let plan = |world: &World| world.plan(&super::CONTROLLER, "namespaces default").requests.len();
        assert_eq!(plan(&world), 1);
        world.create("", "serviceaccounts", "ServiceAccount", "default", "default", json!({}));
        assert_eq!(plan(&world), 0);
        world.delete("serviceaccounts default/default");
        assert_eq!(plan(&world), 1);
        world.close("default");
        assert_eq!(plan(&world), 0);
    }
}
