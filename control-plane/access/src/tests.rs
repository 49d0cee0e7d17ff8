//! The rules of access as tables: roles and bindings as in `facts/roles.txt`, and what follows from them.

use copepod_api::{Body, Expect, Op, Timestamp, Txn, User};
use copepod_store::View;
use serde_json::{Value, json};

use crate::{
    Attributes, CLUSTER_ROLES, Index, Wish,
    defaults::{self, Default, Mend},
    escalation::{Refusal, check_binding, check_role},
};

fn put(view: &View, parts: Vec<Default>) -> View {
    let put = |part: Default| Op::Put { key: part.key, body: Body::encode(&part.object), expect: Expect::Any };
    let txn = Txn { ops: parts.into_iter().map(put).collect() };
    view.apply(&txn, Timestamp::UNIX_EPOCH).expect("objects").0
}

/// A view with these roles and bindings.
fn world(table: &str) -> View {
    put(&View::default(), defaults::read(table))
}

fn user(name: &str, groups: &[&str]) -> User {
    User { name: name.into(), groups: groups.iter().map(|group| (*group).into()).collect(), ..User::default() }
}

/// `get pods/log a in d`, `list pods.apps`, `get /healthz`.
fn wish(text: &str) -> Wish<'_> {
    let words: Vec<&str> = text.split(' ').collect();
    let verb = words[0];
    if words[1].starts_with('/') {
        return Wish::Path { verb, path: words[1] };
    }
    let (words, namespace) = match words.as_slice() {
        [words @ .., "in", namespace] => (words, *namespace),
        words => (words, ""),
    };
    let (place, group) = words[1].split_once('.').unwrap_or((words[1], ""));
    let (resource, subresource) = place.split_once('/').unwrap_or((place, ""));
    let name = words.get(2).copied().unwrap_or_default();
    Wish::Object(Attributes { verb, group, resource, subresource, namespace, name, ..Attributes::default() })
}

const TEAM: &str = "
ClusterRole reader
  get list | core | pods pods/log
ClusterRole scaler
  update | * | */scale
ClusterRole prober
  get | /healthz /healthz/*
  get | /logs*
ClusterRole root
  * | * | *
Role a/keeper
  get update | core | configmaps | one two
RoleBinding a/read ClusterRole reader
  User ada
  ServiceAccount builder
RoleBinding a/keep Role keeper
  Group keepers
RoleBinding b/keep Role keeper
  Group keepers
ClusterRoleBinding scale ClusterRole scaler
  Group keepers
ClusterRoleBinding probe ClusterRole prober
  User ada
ClusterRoleBinding root ClusterRole root
  ServiceAccount kube-system/op
ClusterRoleBinding lost ClusterRole nowhere
  User ada
";

#[test]
fn what_is_allowed_follows_from_roles_and_bindings() {
    let index = Index::of(&world(TEAM));
    let (ada, kim) = (user("ada", &["system:authenticated"]), user("kim", &["keepers"]));
    let builder = user("system:serviceaccount:a:builder", &[]);
    let op = user("system:serviceaccount:kube-system:op", &[]);
    let table = [
        // A binding in a namespace counts there only.
        (&ada, "list pods in a", true),
        (&ada, "list pods in b", false),
        (&ada, "list pods", false),
        (&ada, "delete pods x in a", false),
        // Subresources and groups are things of their own.
        (&ada, "get pods/log x in a", true),
        (&ada, "get pods/exec x in a", false),
        (&ada, "list pods.apps in a", false),
        (&builder, "get pods x in a", true),
        // Names limit a rule to what names them.
        (&kim, "get configmaps one in a", true),
        (&kim, "get configmaps three in a", false),
        (&kim, "list configmaps in a", false),
        // A Role of another namespace is not found.
        (&kim, "get configmaps one in b", false),
        (&kim, "update deployments/scale x in b", true),
        (&kim, "update deployments x in b", false),
        (&ada, "get /healthz", true),
        (&ada, "get /healthz/etcd", true),
        (&ada, "get /healthzz", false),
        (&ada, "get /logs-of-kube", true),
        (&ada, "post /healthz", false),
        // What is about objects says nothing of paths.
        (&op, "deletecollection widgets.example.com in z", true),
        (&op, "get /healthz", false),
        (&user("any", &["system:masters"]), "delete nodes n", true),
    ];
    for (user, text, expected) in table {
        assert_eq!(index.allows(user, &wish(text)), expected, "{}: {text}", user.name);
    }
}

#[test]
fn a_decision_says_which_binding_allows_it() {
    let index = Index::of(&world(TEAM));
    let reason = |user: &User, text| index.decide(user, &wish(text)).reason;
    assert_eq!(
        reason(&user("ada", &[]), "list pods in a"),
        r#"RBAC: allowed by RoleBinding "read/a" of ClusterRole "reader" to User "ada""#
    );
    assert_eq!(
        reason(&user("system:serviceaccount:kube-system:op", &[]), "list pods"),
        r#"RBAC: allowed by ClusterRoleBinding "root" of ClusterRole "root" to ServiceAccount "op/kube-system""#
    );
    assert_eq!(reason(&user("eve", &[]), "list pods"), "");
}

#[test]
fn a_refusal_reads_like_kubernetes() {
    let refusal = |text| wish(text).refusal("eve");
    assert_eq!(
        refusal("list pods in a"),
        r#"User "eve" cannot list resource "pods" in API group "" in the namespace "a""#
    );
    assert_eq!(
        refusal("get deployments/scale"),
        r#"User "eve" cannot get resource "deployments/scale" in API group "" at the cluster scope"#
    );
    assert_eq!(refusal("get /metrics"), r#"User "eve" cannot get path "/metrics""#);
}

#[test]
fn an_index_follows_the_view() {
    let view = world(TEAM);
    let index = Index::of(&view);
    assert!(index.is_of(&view));
    let later = put(&view, defaults::read("ClusterRole reader\n  get | core | secrets"));
    assert!(!index.is_of(&later));
    let index = index.updated(&later);
    assert!(index.is_of(&later));
    assert!(index.allows(&user("ada", &[]), &wish("get secrets s in a")));
    assert!(!index.allows(&user("ada", &[]), &wish("get pods s in a")));
}

fn role(namespace: &str, rules: Value) -> Value {
    json!({"metadata": {"namespace": namespace, "name": "new"}, "rules": rules})
}

#[test]
fn nobody_gives_away_what_they_do_not_hold() {
    let index = Index::of(&world(TEAM));
    let ada = user("ada", &["g1", "g2"]);
    let own = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]);
    assert_eq!(check_role(&index, &ada, &role("a", own.clone())), Ok(()));
    // What is held in one namespace is not held in another.
    assert!(check_role(&index, &ada, &role("b", own)).is_err());

    let more = json!([
        {"apiGroups": [""], "resources": ["pods", "secrets"], "verbs": ["get", "list", "delete"]},
        {"nonResourceURLs": ["/metrics"], "verbs": ["get"]},
    ]);
    let Err(Refusal::Exceeds(why)) = check_role(&index, &ada, &role("a", more)) else { panic!("it must be refused") };
    assert_eq!(
        why,
        "user \"ada\" (groups=[\"g1\" \"g2\"]) is attempting to grant RBAC permissions not currently held:\n\
         {APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}\n\
         {APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"list\" \"delete\"]}\n\
         {NonResourceURLs:[\"/metrics\"], Verbs:[\"get\"]}"
    );
}

#[test]
fn all_names_are_more_than_some() {
    let index = Index::of(&world(TEAM));
    let kim = user("kim", &["keepers"]);
    let rule = |names: Value| json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"], "resourceNames": names}]);
    assert_eq!(check_role(&index, &kim, &role("a", rule(json!(["one"])))), Ok(()));
    assert!(check_role(&index, &kim, &role("a", rule(json!([])))).is_err());
    assert!(check_role(&index, &kim, &role("a", rule(json!(["one", "three"])))).is_err());
}

#[test]
fn an_aggregated_role_takes_the_right_to_everything() {
    let index = Index::of(&world(TEAM));
    let gathering = json!({"metadata": {"name": "new"}, "aggregationRule": {"clusterRoleSelectors": []}});
    let Err(Refusal::Exceeds(why)) = check_role(&index, &user("ada", &[]), &gathering) else {
        panic!("it must be refused")
    };
    let all = "{APIGroups:[\"*\"], Resources:[\"*\"], Verbs:[\"*\"]}\n{NonResourceURLs:[\"*\"], Verbs:[\"*\"]}";
    assert!(why.ends_with(all), "{why}");
}

#[test]
fn escalate_and_bind_are_rights_of_their_own() {
    let extra = "
ClusterRole granter
  escalate | rbac.authorization.k8s.io | roles
  bind | rbac.authorization.k8s.io | clusterroles | root
RoleBinding a/grant ClusterRole granter
  User eve
";
    let index = Index::of(&world(&format!("{TEAM}{extra}")));
    let eve = user("eve", &[]);
    let all = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
    assert_eq!(check_role(&index, &eve, &role("a", all.clone())), Ok(()));
    assert!(check_role(&index, &eve, &role("b", all)).is_err());
    let binding = |role: &str| json!({"metadata": {"namespace": "a", "name": "new"}, "roleRef": {"kind": "ClusterRole", "name": role}});
    assert_eq!(check_binding(&index, &eve, &binding("root")), Ok(()));
    assert!(matches!(check_binding(&index, &eve, &binding("reader")), Err(Refusal::Exceeds(_))));
    assert_eq!(
        check_binding(&index, &eve, &binding("nowhere")),
        Err(Refusal::NoRole("clusterroles", "nowhere".to_owned()))
    );
}

#[test]
fn the_default_roles_say_what_they_should() {
    let defaults = defaults::all();
    let find = |name: &str| {
        let found = defaults.iter().find(|part| part.key.resource == CLUSTER_ROLES && part.key.name() == name);
        &found.expect("a default").object
    };
    assert_eq!(
        find("cluster-admin")["rules"],
        json!([
            {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
            {"nonResourceURLs": ["*"], "verbs": ["*"]},
        ])
    );
    let edit = find("edit");
    assert_eq!(edit["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-admin"], "true");
    assert_eq!(
        edit["aggregationRule"],
        json!({"clusterRoleSelectors": [{"matchLabels": {"rbac.authorization.k8s.io/aggregate-to-edit": "true"}}]})
    );
    let anybody = user("system:anonymous", &["system:unauthenticated"]);
    let somebody = user("ada", &["system:authenticated"]);
    let index = Index::of(&put(&View::default(), defaults::all()));
    assert!(index.allows(&anybody, &wish("get /version")));
    assert!(!index.allows(&anybody, &wish("get /apis/apps/v1")));
    assert!(index.allows(&somebody, &wish("get /apis/apps/v1")));
    assert!(index.allows(&somebody, &wish("create selfsubjectaccessreviews.authorization.k8s.io")));
    assert!(!index.allows(&somebody, &wish("list pods in default")));
}

#[test]
fn defaults_are_mended_and_what_was_added_stays() {
    let view = put(&View::default(), defaults::all());
    assert!(defaults::all().iter().all(|part| defaults::mend(&view, part).is_none()));
    let find = |name: &str| defaults::all().into_iter().find(|part| part.key.name() == name).expect("a default");
    assert!(matches!(defaults::mend(&View::default(), &find("view")), Some(Mend::Create)));

    let mut changed = find("system:public-info-viewer");
    let own = json!({"nonResourceURLs": ["/own"], "verbs": ["get"]});
    changed.object["rules"] = json!([own]);
    let view = put(&view, vec![changed]);
    let Some(Mend::Patch(patch)) = defaults::mend(&view, &find("system:public-info-viewer")) else {
        panic!("it must be mended")
    };
    assert_eq!((patch["rules"].as_array().map(Vec::len), &patch["rules"][0]), (Some(2), &own));

    let mut kept = find("system:public-info-viewer");
    kept.object["rules"] = json!([]);
    kept.object["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"] = json!("false");
    assert!(defaults::mend(&put(&view, vec![kept]), &find("system:public-info-viewer")).is_none());
}
