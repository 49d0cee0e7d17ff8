//! What a new cluster begins with.

use copepod_api::{Action, Request, User, k8s_openapi::api::core::v1 as core, resource};
use copepod_store::View;
use serde_json::json;

/// The namespaces that clients count on.
const NAMESPACES: &[&str] = &["default", "kube-node-lease", "kube-public", "kube-system"];

/// Creates what a cluster begins with and `view` does not have yet: the namespaces and the service `kubernetes`.
/// Nothing to do is an empty list. Its endpoints are the servers', which only their assembly knows.
pub fn bootstrap(view: &View) -> Vec<Request> {
    let user = User::system("system:apiserver");
    let missing = |namespace: &str, resource: &copepod_api::Resource, name: &str| {
        view.object(&copepod_api::Key::new(resource.clone(), namespace, name)).is_none()
    };
    let mut requests: Vec<Request> = NAMESPACES
        .iter()
        .filter(|name| missing("", &resource::NAMESPACES, name))
        .map(|name| {
            let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            Request::of::<core::Namespace>(&user, "", name, "", Action::Create { object })
        })
        .collect();
    if missing("default", &resource::SERVICES, "kubernetes") {
        let object = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": "kubernetes", "namespace": "default",
                "labels": {"component": "apiserver", "provider": "kubernetes"},
            },
            "spec": {
                "clusterIP": crate::core::allocate::KUBERNETES_ADDRESS.to_string(),
                "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}],
            },
        });
        requests.push(Request::of::<core::Service>(&user, "default", "kubernetes", "", Action::Create { object }));
    }
    requests
}
