//! What a program that serves a group has to know to believe this cluster: whose certificates clients show, by which it
//! knows the front proxy, and in which headers that says for whom it asks.

use copepod_api::{
    Action, Key, Patch, Plan, Request, Timestamp, User,
    k8s_openapi::api::core::v1::ConfigMap,
    resource::{CONFIG_MAPS, NAMESPACES, SECRETS},
};
use copepod_apiserver::front_proxy;
use copepod_identity::{Authority, FRONT_PROXY, FrontProxy};
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
    let is_authority =
        key.resource == SECRETS && key.namespace() == FrontProxy::NAMESPACE && key.name() == FrontProxy::SECRET;
    if is_map || is_place || is_authority { all(view) } else { Vec::new() }
}

fn all(_: &View) -> Vec<Key> {
    vec![Key::new(CONFIG_MAPS, NAMESPACE, NAME)]
}

fn reconcile(authority: &Authority, view: &View, key: &Key, _: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    if view.object(&Key::new(NAMESPACES, "", NAMESPACE)).is_none_or(|namespace| namespace.meta.is_leaving()) {
        return plan;
    }
    // Without it there is nothing to be believed yet; what stands is left as it is.
    let Ok(proxy) = front_proxy(view) else { return plan };
    let list = |names: &[&str]| json!(names).to_string();
    let data = json!({
        "client-ca-file": authority.certificate_pem(),
        "requestheader-allowed-names": list(&[FRONT_PROXY]),
        "requestheader-client-ca-file": proxy.bundle(),
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
            let stands: Value = serde_json::from_slice(&stands.bytes()).unwrap_or_default();
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

#[cfg(test)]
mod tests {
    use copepod_api::k8s_openapi::api::core::v1::{Namespace, Secret};
    use copepod_registry::{Env, transact};

    use super::*;

    fn after(view: &View, requests: &[Request]) -> View {
        let mut dice = || 7;
        transact(view, requests, &mut Env { now: Timestamp::UNIX_EPOCH, dice: &mut dice }).unwrap().view
    }

    #[test]
    fn programs_are_told_of_two_authorities_and_again_when_one_changes() {
        let (now, user) = (Timestamp::now(), User::system("somebody"));
        let authority = Authority::create(now).unwrap();
        let told =
            |view: &View| -> Value { serde_json::from_slice(&view.object(&all(view)[0]).unwrap().bytes()).unwrap() };
        let plan = |view: &View| reconcile(&authority, view, &all(view)[0], now).requests;
        let place = Action::Create { object: json!({"metadata": {"name": NAMESPACE}}) };
        let view = after(&View::default(), &[Request::of::<Namespace>(&user, "", NAMESPACE, "", place)]);
        assert!(plan(&view).is_empty(), "there is no authority of the proxy yet");

        let secret = FrontProxy::create(now).unwrap();
        let own = FrontProxy::read(&secret).unwrap();
        let action = Action::Create { object: secret };
        let view = after(&view, &[Request::of::<Secret>(&user, NAMESPACE, FrontProxy::SECRET, "", action)]);
        let view = after(&view, &plan(&view));
        assert_eq!(told(&view)["data"]["client-ca-file"], authority.certificate_pem());
        assert_eq!(told(&view)["data"]["requestheader-client-ca-file"], own.bundle());
        assert!(plan(&view).is_empty());

        let other = FrontProxy::create(now).unwrap();
        let patch = json!({"metadata": {"annotations": other["metadata"]["annotations"]}, "data": other["data"]});
        let view = after(&view, &[Request::merge::<Secret>(&user, NAMESPACE, FrontProxy::SECRET, patch)]);
        let view = after(&view, &plan(&view));
        let bundle = told(&view)["data"]["requestheader-client-ca-file"].as_str().unwrap().to_owned();
        assert_eq!(bundle.matches("BEGIN CERTIFICATE").count(), 2);
    }
}
