//! Roles and bindings: what they may say, and who may write them.

use copepod_api::{Action, Request, User};
use serde_json::{Value, json};

use super::fixture::{Fixture, refusal, request};

fn role(verbs: &[&str]) -> Value {
    json!({"metadata": {"name": "r"}, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": verbs}]})
}

fn binding(kind: &str, role: &str, subjects: Value) -> Value {
    json!({"metadata": {"name": "b"}, "roleRef": {"kind": kind, "name": role}, "subjects": subjects})
}

/// A request by `ada`, who is no administrator.
fn by_ada(target: &str, action: Action) -> Request {
    Request {
        user: User { name: "ada".into(), groups: vec!["team".into()], ..User::default() },
        ..request(target, action)
    }
}

fn create(object: Value) -> Action {
    Action::Create { object }
}

#[test]
fn rules_are_checked() {
    let mut world = Fixture::new();
    let mut refused = |plural: &str, rule: Value| {
        refusal(world.create(plural, json!({"metadata": {"name": "a:b"}, "rules": [rule]})))
    };
    let paths = json!({"nonResourceURLs": ["/x"], "verbs": ["get"]});
    assert!(refused("roles", paths).contains("namespaced rules cannot apply to non-resource URLs"));
    assert!(
        refused("clusterroles", json!({"nonResourceURLs": ["/x"], "resources": ["pods"], "verbs": ["get"]}))
            .contains("rules cannot apply to both regular resources and non-resource URLs")
    );
    assert!(
        refused("roles", json!({"apiGroups": [""], "resources": ["pods"], "verbs": []}))
            .contains("rules[0].verbs: Required value: verbs must contain at least one value")
    );
    assert!(
        refused("roles", json!({"resources": ["pods"], "verbs": ["get"]}))
            .contains("rules[0].apiGroups: Required value: resource rules must supply at least one api group")
    );
}

#[test]
fn bindings_are_checked_and_stay_with_their_role() {
    let mut world = Fixture::new();
    let to = |subject: Value| binding("ClusterRole", "r", json!([subject]));
    assert!(
        refusal(world.create("clusterrolebindings", to(json!({"kind": "ServiceAccount", "name": "a"}))))
            .contains("subjects[0].namespace: Required value")
    );
    assert!(
        refusal(world.create("rolebindings", to(json!({"kind": "Robot", "name": "a"}))))
            .contains(r#"subjects[0].kind: Unsupported value: "Robot""#)
    );
    assert!(
        refusal(world.create("clusterrolebindings", binding("Role", "r", json!([]))))
            .contains(r#"roleRef.kind: Unsupported value: "Role""#)
    );
    let made = world.create("rolebindings", to(json!({"kind": "User", "name": "ada"}))).unwrap();
    assert_eq!(made["subjects"][0]["apiGroup"], "rbac.authorization.k8s.io");
    assert_eq!(made["roleRef"]["apiGroup"], "rbac.authorization.k8s.io");
    let other = json!({"roleRef": {"name": "other"}});
    assert!(refusal(world.merge("rolebindings/b", other)).contains("cannot change roleRef"));
}

#[test]
fn nobody_writes_roles_beyond_their_own() {
    let mut world = Fixture::new();
    world.create("roles", role(&["get", "list"])).unwrap();
    world.create("rolebindings", binding("Role", "r", json!([{"kind": "User", "name": "ada"}]))).unwrap();
    let mut smaller = role(&["get"]);
    smaller["metadata"]["name"] = json!("smaller");
    world.one(by_ada("roles", create(smaller))).unwrap();
    let mut larger = role(&["get", "delete"]);
    larger["metadata"]["name"] = json!("larger");
    let refused = world.one(by_ada("roles", create(larger))).unwrap_err();
    assert_eq!(
        refused.message(),
        "roles.rbac.authorization.k8s.io \"larger\" is forbidden: user \"ada\" (groups=[\"team\"]) is attempting to \
         grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}"
    );
    // Nor by changing one.
    let grown = Action::Update { object: role(&["get", "list", "delete"]) };
    assert_eq!(world.one(by_ada("roles/r", grown)).unwrap_err().code(), 403);
    // Nor by binding a role that holds more.
    let mut all = json!({"metadata": {"name": "all"}});
    all["rules"] = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
    world.create("clusterroles", all).unwrap();
    let mut own = binding("ClusterRole", "all", json!([{"kind": "User", "name": "ada"}]));
    own["metadata"]["name"] = json!("own");
    assert_eq!(world.one(by_ada("rolebindings", create(own.clone()))).unwrap_err().code(), 403);
    own["roleRef"]["name"] = json!("nowhere");
    let missing = world.one(by_ada("rolebindings", create(own))).unwrap_err();
    assert_eq!(missing.message(), r#"clusterroles.rbac.authorization.k8s.io "nowhere" not found"#);
}

#[test]
fn approving_is_a_right_for_each_signer() {
    let mut world = Fixture::new();
    let csr = json!({"metadata": {"name": "c"}, "spec": {"signerName": "example.com/own", "request": "eA==", "usages": ["client auth"]}});
    world.create("certificatesigningrequests", csr.clone()).unwrap();
    let mut approved = world.get("certificatesigningrequests/c").unwrap();
    approved["status"] = json!({"conditions": [{"type": "Approved", "status": "True", "reason": "x", "message": "y"}]});
    let approve = by_ada("certificatesigningrequests/c/approval", Action::Update { object: approved });
    let refused = world.one(approve.clone()).unwrap_err();
    assert_eq!(
        (
            refused.code(),
            refused.message().contains("user not permitted to approve requests with signerName \"example.com/own\"")
        ),
        (403, true)
    );
    let role = json!({"metadata": {"name": "approver"}, "rules": [
        {"apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "resourceNames": ["example.com/*"], "verbs": ["approve"]},
    ]});
    world.create("clusterroles", role).unwrap();
    let binding = binding("ClusterRole", "approver", json!([{"kind": "User", "name": "ada"}]));
    world.create("clusterrolebindings", binding).unwrap();
    world.one(approve).unwrap();
}
