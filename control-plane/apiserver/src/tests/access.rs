//! Several people on one server: what roles give them, as whom they may act, what they are told about their rights.

use http::Method;
use serde_json::{Value, json};

use super::{
    MAPS, PODS,
    client::{As, Http, Server},
    cluster, map, pod,
};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const REVIEWS: &str = "/apis/authorization.k8s.io/v1";

/// Gives `ada` a role in the namespace `default`.
async fn give_ada(admin: &Http, rules: Value) {
    let role = json!({"metadata": {"name": "own"}, "rules": rules});
    assert_eq!(admin.post(&format!("{RBAC}/namespaces/default/roles"), &role).await.code, 201);
    let binding = json!({
        "metadata": {"name": "own"}, "roleRef": {"kind": "Role", "name": "own"},
        "subjects": [{"kind": "User", "name": "ada"}],
    });
    assert_eq!(admin.post(&format!("{RBAC}/namespaces/default/rolebindings"), &binding).await.code, 201);
}

/// Gives `ada` a role everywhere.
async fn give_ada_everywhere(admin: &Http, rules: Value) {
    let role = json!({"metadata": {"name": "own"}, "rules": rules});
    assert_eq!(admin.post(&format!("{RBAC}/clusterroles"), &role).await.code, 201);
    let binding = json!({
        "metadata": {"name": "own"}, "roleRef": {"kind": "ClusterRole", "name": "own"},
        "subjects": [{"kind": "User", "name": "ada"}],
    });
    assert_eq!(admin.post(&format!("{RBAC}/clusterrolebindings"), &binding).await.code, 201);
}

async fn three() -> (Server, Http, Http) {
    let (server, admin) = cluster().await;
    let ada = server.client(As::User("ada"));
    (server, admin, ada)
}

#[tokio::test]
async fn a_role_opens_what_it_names() {
    let (server, admin, ada) = three().await;
    for name in ["a", "b"] {
        server.memory.write("configmaps", map(name));
    }
    assert_eq!(
        ada.get(MAPS).await.refusal(),
        "403 Forbidden: configmaps is forbidden: User \"ada\" cannot list resource \"configmaps\" in API group \"\" \
         in the namespace \"default\""
    );
    give_ada(
        &admin,
        json!([
            {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["a"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get"]},
        ]),
    )
    .await;
    assert_eq!(ada.get(&format!("{MAPS}/a")).await.code, 200);
    assert_eq!(ada.get(&format!("{MAPS}/b")).await.code, 403);
    // A right to one name is a right to the selection of that name.
    assert_eq!(ada.get(&format!("{MAPS}?fieldSelector=metadata.name%3Da")).await.names(), ["a"]);
    assert_eq!(ada.get(MAPS).await.code, 403);
    // A namespace is in itself.
    assert_eq!(ada.get("/api/v1/namespaces/default").await.code, 200);
    assert_eq!(ada.get("/api/v1/namespaces/kube-system").await.code, 403);
    assert_eq!(ada.post(MAPS, &map("c")).await.code, 403);
}

#[tokio::test]
async fn whoever_has_a_name_may_find_out_what_there_is() {
    let (server, _admin, ada) = three().await;
    let nobody = server.client(As::Nobody);
    for path in ["/api", "/apis/apps/v1", "/openapi/v3"] {
        assert_eq!(ada.get(path).await.code, 200, "{path}");
        let refusal = format!("403 Forbidden: forbidden: User \"system:anonymous\" cannot get path \"{path}\"");
        assert_eq!(nobody.get(path).await.refusal(), refusal);
    }
}

#[tokio::test]
async fn nobody_gives_away_more_than_they_hold() {
    let (_server, admin, ada) = three().await;
    give_ada(
        &admin,
        json!([
            {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["*"], "verbs": ["create"]},
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
        ]),
    )
    .await;
    let roles = format!("{RBAC}/namespaces/default/roles");
    let role = |verb: &str| json!({"metadata": {"name": verb}, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": [verb]}]});
    assert_eq!(ada.post(&roles, &role("get")).await.code, 201);
    let refusal = ada.post(&roles, &role("list")).await.refusal();
    assert!(
        refusal.contains("attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"]"),
        "{refusal}"
    );
}

#[tokio::test]
async fn acting_as_somebody_else_is_a_right_for_each_part() {
    let (_server, admin, ada) = three().await;
    let who = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let ask = async |http: &Http, headers: &[(&str, &str)]| http.send(Method::POST, who, headers, "{}").await;
    let joe = [("impersonate-user", "joe")];
    assert_eq!(
        ask(&ada, &joe).await.refusal(),
        "403 Forbidden: users \"joe\" is forbidden: User \"ada\" cannot impersonate resource \"users\" in API group \
         \"\" at the cluster scope"
    );
    give_ada_everywhere(
        &admin,
        json!([
            {"apiGroups": [""], "resources": ["users"], "resourceNames": ["joe"], "verbs": ["impersonate"]},
            {"apiGroups": [""], "resources": ["serviceaccounts"], "verbs": ["impersonate"]},
            {"apiGroups": ["authentication.k8s.io"], "resources": ["userextras/scopes"], "verbs": ["impersonate"]},
        ]),
    )
    .await;
    let seen = ask(&ada, &joe).await.json();
    assert_eq!(seen["status"]["userInfo"], json!({"username": "joe", "groups": ["system:authenticated"]}));
    let account = [("impersonate-user", "system:serviceaccount:default:bot")];
    let groups = json!(["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"]);
    assert_eq!(ask(&ada, &account).await.json()["status"]["userInfo"]["groups"], groups);
    let with = async |name: &str, value: &str| ask(&ada, &[joe[0], (name, value)]).await;
    assert_eq!(
        with("impersonate-extra-scopes", "view").await.json()["status"]["userInfo"]["extra"],
        json!({"scopes": ["view"]})
    );
    assert!(
        with("impersonate-extra-other", "x")
            .await
            .refusal()
            .contains("cannot impersonate resource \"userextras/other\"")
    );
    assert!(
        with("impersonate-group", "system:masters").await.refusal().contains("cannot impersonate resource \"groups\"")
    );
    assert!(with("impersonate-uid", "1").await.refusal().contains("cannot impersonate resource \"uids\""));
    assert_eq!(ask(&ada, &[("impersonate-group", "g")]).await.code, 400);
}

#[tokio::test]
async fn people_are_told_what_they_may() {
    let (_server, admin, ada) = three().await;
    let rule = json!({"verbs": ["list"], "apiGroups": [""], "resources": ["configmaps"]});
    give_ada(&admin, json!([rule])).await;
    let ask = async |http: &Http, kind: &str, spec: Value| {
        http.post(&format!("{REVIEWS}/{kind}"), &json!({ "spec": spec })).await
    };
    let wish = |verb: &str| json!({"verb": verb, "resource": "configmaps", "namespace": "default"});
    let mine = ask(&ada, "selfsubjectaccessreviews", json!({"resourceAttributes": wish("list")})).await.json();
    assert_eq!(
        mine["status"],
        json!({"allowed": true, "reason": "RBAC: allowed by RoleBinding \"own/default\" of Role \"own\" to User \"ada\""})
    );
    let path = json!({"nonResourceAttributes": {"verb": "get", "path": "/metrics"}});
    assert_eq!(ask(&ada, "selfsubjectaccessreviews", path).await.json()["status"], json!({"allowed": false}));
    let neither = ask(&ada, "selfsubjectaccessreviews", json!({})).await;
    assert!(neither.refusal().starts_with("422 Invalid: SelfSubjectAccessReview.authorization.k8s.io \"\" is invalid"));

    let theirs = json!({"user": "ada", "resourceAttributes": wish("delete")});
    assert_eq!(ask(&admin, "subjectaccessreviews", theirs.clone()).await.json()["status"], json!({"allowed": false}));
    assert_eq!(ask(&ada, "subjectaccessreviews", theirs.clone()).await.code, 403);
    let here = async |namespace: &str| {
        ask(&admin, &format!("namespaces/{namespace}/localsubjectaccessreviews"), theirs.clone()).await
    };
    assert_eq!(here("default").await.json()["status"]["allowed"], false);
    assert_eq!(here("kube-system").await.code, 422);

    let all = ask(&ada, "selfsubjectrulesreviews", json!({"namespace": "default"})).await.json();
    assert!(all["status"]["resourceRules"].as_array().unwrap().contains(&rule), "{all}");
    assert_eq!(all["status"]["incomplete"], false);
    assert!(!all["status"]["nonResourceRules"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn a_node_reads_what_its_pods_need() {
    let (server, admin) = cluster().await;
    let node = server.client(As::Node);
    for name in ["a", "b"] {
        server.memory.write("configmaps", map(name));
        server.memory.write("secrets", json!({"metadata": {"name": name}}));
    }
    let mut own = pod("p");
    own["spec"]["volumes"] = json!([{"name": "v", "projected": {"sources": [{"configMap": {"name": "a"}}]}}]);
    own["spec"]["containers"][0]["envFrom"] = json!([{"secretRef": {"name": "a"}}]);
    admin.post(PODS, &own).await;
    let mut foreign = pod("q");
    foreign["spec"]["nodeName"] = json!("n2");
    admin.post(PODS, &foreign).await;

    let in_default = |path: &str| format!("/api/v1/namespaces/default/{path}");
    let code = async |path: &str| node.get(path).await.code;
    assert_eq!(code(&in_default("configmaps/a")).await, 200);
    assert_eq!(code(&in_default("secrets/a")).await, 200);
    assert_eq!(code(&in_default("secrets?fieldSelector=metadata.name%3Da")).await, 200);
    assert_eq!(code(&in_default("pods/p")).await, 200);
    assert_eq!(code("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1").await, 200);
    for path in ["configmaps/b", "secrets/b", "secrets", "configmaps", "pods/q", "pods"] {
        assert_eq!(code(&in_default(path)).await, 403, "{path}");
    }
    assert_eq!(code("/api/v1/pods?fieldSelector=spec.nodeName%3Dn2").await, 403);
}

#[tokio::test]
async fn a_node_changes_what_is_its_own() {
    const MERGE: &str = "application/merge-patch+json";
    let (server, admin) = cluster().await;
    let node = server.client(As::Node);
    let nodes = "/api/v1/nodes";
    let object = |name: &str| json!({"metadata": {"name": name}});
    assert_eq!(node.post(nodes, &object("n1")).await.code, 201);
    assert_eq!(
        node.post(nodes, &object("n2")).await.refusal(),
        "403 Forbidden: nodes \"n2\" is forbidden: node \"n1\" is not allowed to modify node \"n2\""
    );
    let change = async |patch: Value| node.patch(&format!("{nodes}/n1"), MERGE, &patch).await;
    assert_eq!(change(json!({"metadata": {"labels": {"own": "x", "kubernetes.io/os": "linux"}}})).await.code, 200);
    let label = change(json!({"metadata": {"labels": {"node-restriction.kubernetes.io/x": "y"}}})).await.refusal();
    assert!(label.ends_with("is not allowed to modify labels: node-restriction.kubernetes.io/x"), "{label}");
    let taint = change(json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}})).await.refusal();
    assert!(taint.ends_with("node \"n1\" is not allowed to modify taints"), "{taint}");

    let mut foreign = pod("q");
    foreign["spec"]["nodeName"] = json!("n2");
    admin.post(PODS, &foreign).await;
    admin.post(PODS, &pod("p")).await;
    let status = json!({"status": {"phase": "Running"}});
    let report = async |pod: &str| node.patch(&format!("{PODS}/{pod}/status"), MERGE, &status).await;
    assert_eq!(report("p").await.code, 200);
    let refusal = report("q").await.refusal();
    assert!(
        refusal.ends_with("node \"n1\" can only update pod status for pods with spec.nodeName set to itself"),
        "{refusal}"
    );
    assert_eq!(node.send(Method::DELETE, &format!("{PODS}/q"), &[], "").await.code, 403);
    let evict = json!({"metadata": {"name": "q"}});
    assert_eq!(node.post(&format!("{PODS}/q/eviction"), &evict).await.code, 403);
    assert_eq!(node.post(PODS, &pod("new")).await.code, 403);

    let leases = |namespace: &str| format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases");
    admin.post("/api/v1/namespaces", &object("kube-node-lease")).await;
    assert_eq!(node.post(&leases("kube-node-lease"), &object("n1")).await.code, 201);
    assert_eq!(node.post(&leases("kube-node-lease"), &object("n2")).await.code, 403);
    assert_eq!(node.post(&leases("default"), &object("n1")).await.code, 403);
}
