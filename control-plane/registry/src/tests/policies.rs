//! Policies in CEL: what they refuse, warn of and change, and what is wrong with them.

use serde_json::{Value, json};

use super::fixture::{Fixture, body, deployment, pod, refusal, request};
use copepod_api::{Action, DeleteOptions};

const POLICIES: &str = "validatingadmissionpolicies";
const BINDINGS: &str = "validatingadmissionpolicybindings";

fn rules(group: &str, resource: &str) -> Value {
    json!({"resourceRules": [
        {"apiGroups": [group], "apiVersions": ["*"], "resources": [resource], "operations": ["CREATE", "UPDATE"]},
    ]})
}

fn policy(constraints: Value, more: Value) -> Value {
    let mut spec = json!({"matchConstraints": constraints});
    for (field, value) in more.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    json!({"metadata": {"name": "p"}, "spec": spec})
}

fn binding(more: Value) -> Value {
    let mut spec = json!({"policyName": "p", "validationActions": ["Deny"]});
    for (field, value) in more.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    json!({"metadata": {"name": "b"}, "spec": spec})
}

/// A cluster with one policy in force.
fn with(policy: Value, binding: Value) -> Fixture {
    let mut fixture = Fixture::new();
    fixture.create(POLICIES, policy).unwrap();
    fixture.create(BINDINGS, binding).unwrap();
    fixture
}

fn scaled(name: &str, replicas: u32) -> Value {
    let mut deployment = deployment(name);
    deployment["spec"]["replicas"] = json!(replicas);
    deployment
}

#[test]
fn a_rule_that_does_not_hold_refuses_the_write() {
    let more = json!({"validations": [
        {"expression": "object.spec.replicas > 1", "messageExpression": "'wants replicas > 1, got ' + string(object.spec.replicas)"},
        {"expression": "namespaceObject.metadata.name == 'default'", "message": "only there", "reason": "Forbidden"},
    ]});
    let mut fixture = with(policy(rules("apps", "deployments"), more), binding(json!({})));
    let refused = refusal(fixture.create("deployments", scaled("d", 1)));
    assert_eq!(
        refused,
        "422 Invalid: deployments.apps \"d\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: \
         wants replicas > 1, got 1"
    );
    fixture.create("deployments", scaled("d", 2)).unwrap();
    assert!(refusal(fixture.merge("deployments/d", json!({"spec": {"replicas": 0}}))).contains("got 0"));
    fixture.create("pods", pod("p")).unwrap();
    fixture.delete("deployments/d", DeleteOptions::default()).unwrap();
}

#[test]
fn without_a_binding_a_policy_means_nothing() {
    let mut fixture = Fixture::new();
    let never = json!({"validations": [{"expression": "false"}]});
    fixture.create(POLICIES, policy(rules("", "pods"), never)).unwrap();
    fixture.create("pods", pod("p")).unwrap();
    let narrow = json!({"matchResources": {"objectSelector": {"matchLabels": {"app": "other"}}}});
    fixture.create(BINDINGS, binding(narrow)).unwrap();
    fixture.create("pods", pod("q")).unwrap();
    fixture.merge("pods/q", json!({"metadata": {"labels": {"app": "other"}}})).unwrap_err();
}

#[test]
fn variables_see_those_before_them() {
    let more = json!({
        "variables": [
            {"name": "replicas", "expression": "object.spec.replicas"},
            {"name": "odd", "expression": "variables.replicas % 2 == 1"},
        ],
        "validations": [{"expression": "variables.replicas > 1"}, {"expression": "variables.odd"}],
    });
    let mut fixture = with(policy(rules("apps", "deployments"), more), binding(json!({})));
    assert!(refusal(fixture.create("deployments", scaled("d", 2))).ends_with("failed expression: variables.odd"));
    fixture.create("deployments", scaled("d", 3)).unwrap();
}

#[test]
fn parameters_come_from_objects() {
    let more = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{"expression": "object.spec.replicas <= int(params.data.max)"}],
    });
    let reference = json!({"paramRef": {"name": "limits", "parameterNotFoundAction": "Deny"}});
    let mut fixture = with(policy(rules("apps", "deployments"), more.clone()), binding(reference));
    let refused = refusal(fixture.create("deployments", scaled("d", 3)));
    assert!(refused.contains("no params found for policy binding with `Deny` parameterNotFoundAction"), "{refused}");
    fixture.create("configmaps", json!({"metadata": {"name": "limits"}, "data": {"max": "2"}})).unwrap();
    assert!(refusal(fixture.create("deployments", scaled("d", 3))).contains("int(params.data.max)"));
    fixture.create("deployments", scaled("d", 2)).unwrap();

    let selected = json!({"paramRef": {"selector": {"matchLabels": {"a": "b"}}, "parameterNotFoundAction": "Allow"}});
    let mut fixture = with(policy(rules("apps", "deployments"), more), binding(selected));
    fixture.create("deployments", scaled("d", 3)).unwrap();
    let limits = json!({"metadata": {"name": "l", "labels": {"a": "b"}}, "data": {"max": "2"}});
    fixture.create("configmaps", limits).unwrap();
    fixture.create("deployments", scaled("e", 3)).unwrap_err();
}

#[test]
fn conditions_and_faults_follow_the_policy() {
    let rule = json!([{"expression": "object.none == 'x'"}]);
    for (failure, refused) in [("Fail", true), ("Ignore", false)] {
        let more = json!({
            "failurePolicy": failure, "validations": rule,
            "matchConditions": [{"name": "not-mine", "expression": "request.userInfo.username != 'other'"}],
        });
        let mut fixture = with(policy(rules("", "pods"), more), binding(json!({})));
        let made = fixture.create("pods", pod("p"));
        assert_eq!(made.is_err(), refused);
        if refused {
            assert!(refusal(made).ends_with("expression 'object.none == 'x'' resulted in error: no such key: none"));
        }
    }
    let more = json!({
        "validations": [{"expression": "false"}],
        "matchConditions": [{"name": "others", "expression": "request.userInfo.username == 'other'"}],
    });
    with(policy(rules("", "pods"), more), binding(json!({}))).create("pods", pod("p")).unwrap();
}

#[test]
fn a_warning_is_no_refusal() {
    let more = json!({"validations": [{"expression": "false", "message": "not good"}]});
    let warn = binding(json!({"validationActions": ["Warn", "Audit"]}));
    let mut fixture = with(policy(rules("", "pods"), more), warn);
    let reply = fixture.one(request("pods", Action::Create { object: pod("p") })).unwrap();
    let words = "Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': not good";
    assert_eq!(reply.warnings, [words]);
}

#[test]
fn a_note_for_auditors_that_fails_refuses_as_a_rule_does() {
    let note = |text: &str| json!({"auditAnnotations": [{"key": "k", "valueExpression": text}]});
    let mut fixture =
        with(policy(rules("", "pods"), note("'image ' + object.spec.containers[0].image")), binding(json!({})));
    fixture.create("pods", pod("p")).unwrap();
    let mut fixture = with(policy(rules("", "pods"), note("object.none")), binding(json!({})));
    assert!(refusal(fixture.create("pods", pod("p"))).contains("expression 'object.none' resulted in error"));
}

#[test]
fn an_expression_without_end_ends() {
    let list: Vec<u32> = (0..200).collect();
    let text = format!("{list:?}.all(a, {list:?}.all(b, {list:?}.all(c, true)))");
    let more = json!({"validations": [{"expression": text}]});
    let mut fixture = with(policy(rules("", "pods"), more), binding(json!({})));
    assert!(refusal(fixture.create("pods", pod("p"))).contains("out of cost budget"));
}

#[test]
fn wrong_expressions_are_refused_with_their_place() {
    let mut fixture = Fixture::new();
    for (more, told) in [
        (
            json!({"validations": [{"expression": "object."}]}),
            "spec.validations[0].expression: Invalid value: \"object.\": compilation failed: ERROR",
        ),
        (json!({"validations": [{"expression": "1 + 1"}]}), "must evaluate to bool"),
        (json!({"validations": [{"expression": "params.x == 1"}]}), "undeclared reference to 'params'"),
        (json!({"validations": [{"expression": "variables.x"}]}), "undefined field 'x'"),
        (json!({"validations": [{"expression": "request.nothing == ''"}]}), "undefined field 'nothing'"),
        (json!({"validations": [{"expression": "true", "messageExpression": "1"}]}), "must evaluate to string"),
        (
            json!({"variables": [{"name": "a", "expression": "variables.b"}], "validations": [{"expression": "true"}]}),
            "spec.variables[0].expression",
        ),
        (
            json!({"matchConditions": [{"name": "m", "expression": "... [] bad"}], "validations": [{"expression": "true"}]}),
            "spec.matchConditions[0].expression",
        ),
    ] {
        let refused = refusal(fixture.create(POLICIES, policy(rules("", "pods"), more)));
        assert!(refused.contains(told), "{refused}");
    }
    let webhook = json!({"metadata": {"name": "w"}, "webhooks": [{
        "name": "w.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": "https://127.0.0.1/"},
        "matchConditions": [{"name": "invalid-expression-1", "expression": "... [] bad expression"}],
    }]});
    for plural in ["validatingwebhookconfigurations", "mutatingwebhookconfigurations"] {
        let refused = refusal(fixture.create(plural, webhook.clone()));
        assert!(refused.contains("webhooks[0].matchConditions[0].expression: Invalid value"), "{refused}");
        assert!(refused.contains("compilation failed"), "{refused}");
    }
}

#[test]
fn what_does_not_fit_the_kinds_is_told_in_the_status() {
    let rules = json!({"resourceRules": [
        {"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"], "operations": ["CREATE"]},
    ]});
    let validations = json!({"validations": [
        {"expression": "object.spec.replicas > '1'", "messageExpression": "'got ' + object.spec.replicas"},
        {"expression": "object.spec.replicas > 1 && object.metadata.labels['a'] == 'b'"},
        {"expression": "object.spec.template.spec.containers.all(c, c.none == 1)"},
        {"expression": "object.metadata.creationTimestamp != '' && has(object.spec.strategy.rollingUpdate.maxSurge)"},
    ]});
    let mut fixture = Fixture::new();
    let made = fixture.create(POLICIES, policy(rules, validations)).unwrap();
    assert_eq!(made["status"]["observedGeneration"], 1);
    let warnings = made["status"]["typeChecking"]["expressionWarnings"].as_array().unwrap();
    let told: Vec<(&str, bool)> = [
        "found no matching overload for '_>_' applied to '(int, string)'",
        "found no matching overload for '_+_' applied to '(string, int)'",
        "undefined field 'none'",
    ]
    .iter()
    .zip(warnings)
    .map(|(told, warning)| (warning["fieldRef"].as_str().unwrap(), warning["warning"].as_str().unwrap().contains(told)))
    .collect();
    assert_eq!(
        told,
        [
            ("spec.validations[0].expression", true),
            ("spec.validations[0].messageExpression", true),
            ("spec.validations[2].expression", true),
        ]
    );
    assert!(warnings[0]["warning"].as_str().unwrap().starts_with("apps/v1, Kind=Deployment: ERROR"));

    let better = json!({"spec": {"validations": [{"expression": "object.spec.replicas > 1"}]}});
    let changed = fixture.merge("validatingadmissionpolicies/p", better).unwrap();
    assert_eq!(changed["status"], json!({"observedGeneration": 2, "typeChecking": {}}));
}

#[test]
fn expressions_may_ask_what_the_user_may_do_otherwise() {
    let more = json!({"validations": [
        {"expression": "authorizer.requestResource.check('approve').allowed()", "message": "may not approve pods"},
        {"expression": "authorizer.group('').resource('secrets').namespace('default').name('s').check('get').allowed()"},
        {"expression": "!authorizer.path('/metrics').check('get').allowed()", "message": "sees metrics"},
        {"expression": "!authorizer.serviceAccount('default', 'a').requestResource.check('get').allowed() || true"},
    ]});
    let refused = refusal(Fixture::new().create(POLICIES, policy(rules("", "pods"), more.clone())));
    assert!(refused.contains("does not support field selection"), "{refused}");
    let mut more = more;
    more["validations"].as_array_mut().unwrap().pop();
    let mut fixture = with(policy(rules("", "pods"), more), binding(json!({})));
    let mut sent = request("pods", Action::Create { object: pod("p") });
    sent.user = copepod_api::User { name: "jane".into(), ..copepod_api::User::default() };
    let refused = fixture.one(sent.clone()).unwrap_err();
    assert!(refused.message().ends_with("may not approve pods"), "{}", refused.message());
    let role = json!({"metadata": {"name": "r"}, "rules": [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["approve"]},
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["s"], "verbs": ["get"]},
    ]});
    fixture.create("roles", role).unwrap();
    let grant = json!({"metadata": {"name": "b"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}]});
    fixture.create("rolebindings", grant).unwrap();
    fixture.one(sent).unwrap();
}

fn mutation(mutations: Value, more: Value) -> Value {
    let mut spec = json!({
        "matchConstraints": rules("apps", "deployments"), "reinvocationPolicy": "Never", "mutations": mutations,
    });
    for (field, value) in more.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    json!({"metadata": {"name": "m"}, "spec": spec})
}

fn with_mutation(policy: Value) -> Fixture {
    let mut fixture = Fixture::new();
    fixture.create("mutatingadmissionpolicies", policy).unwrap();
    let binding = json!({"metadata": {"name": "mb"}, "spec": {"policyName": "m"}});
    fixture.create("mutatingadmissionpolicybindings", binding).unwrap();
    fixture
}

#[test]
fn a_policy_changes_objects_by_merging() {
    let apply = json!([{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
        "Object{metadata: Object.metadata{annotations: {'made': 'by policy'}}, spec: Object.spec{replicas: 1337, \
         template: Object.spec.template{spec: Object.spec.template.spec{containers: \
         [Object.spec.template.spec.containers.item{name: 'side', image: 'side:1'}]}}}}"}}]);
    let made = with_mutation(mutation(apply, json!({}))).create("deployments", scaled("d", 1)).unwrap();
    assert_eq!(made["spec"]["replicas"], 1337);
    assert_eq!(made["metadata"]["annotations"]["made"], "by policy");
    let names: Vec<&Value> =
        made["spec"]["template"]["spec"]["containers"].as_array().unwrap().iter().map(|own| &own["name"]).collect();
    assert_eq!(names, ["c", "side"]);
    assert_eq!(made["spec"]["template"]["spec"]["containers"][1]["terminationMessagePath"], "/dev/termination-log");
    let managers = made["metadata"]["managedFields"].as_array().unwrap();
    assert!(managers.iter().all(|entry| entry["manager"] == "test"), "{managers:?}");
}

#[test]
fn a_policy_changes_objects_by_patches_step_by_step() {
    let patches = json!([
        {"patchType": "JSONPatch", "jsonPatch": {"expression":
            "[JSONPatch{op: 'add', path: '/metadata/labels', value: {'a': 'b'}}]"}},
        {"patchType": "JSONPatch", "jsonPatch": {"expression":
            "object.metadata.labels.a == 'b' ? [JSONPatch{op: 'add', path: '/metadata/labels/' + \
             jsonpatch.escapeKey('example.com/c'), value: string(variables.n)}] : []"}},
    ]);
    let variables = json!({"variables": [{"name": "n", "expression": "object.spec.replicas"}]});
    let made = with_mutation(mutation(patches, variables)).create("deployments", scaled("d", 4)).unwrap();
    assert_eq!(made["metadata"]["labels"], json!({"a": "b", "example.com/c": "4"}));
}

#[test]
fn a_change_that_cannot_be_made_counts_as_the_policy_says() {
    let broken = json!([{"patchType": "JSONPatch", "jsonPatch": {"expression":
        "[JSONPatch{op: 'remove', path: '/spec/none'}]"}}]);
    let refused = refusal(with_mutation(mutation(broken.clone(), json!({}))).create("deployments", deployment("d")));
    assert!(refused.contains("policy 'm' with binding 'mb' denied request: JSON Patch:"), "{refused}");
    let ignored = mutation(broken, json!({"failurePolicy": "Ignore"}));
    with_mutation(ignored).create("deployments", deployment("d")).unwrap();
    let wrong = json!([{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "1"}}]);
    let refused = refusal(Fixture::new().create("mutatingadmissionpolicies", mutation(wrong, json!({}))));
    assert!(refused.contains("spec.mutations[0].applyConfiguration.expression"), "{refused}");
}

#[test]
fn dry_runs_are_judged_and_changed_as_well() {
    let apply = json!([{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
        "Object{spec: Object.spec{replicas: 5}}"}}]);
    let mut fixture = with_mutation(mutation(apply, json!({})));
    let mut sent = request("deployments", Action::Create { object: deployment("d") });
    sent.options.dry_run = true;
    assert_eq!(body(&fixture.one(sent).unwrap())["spec"]["replicas"], 5);
    assert!(fixture.get("deployments/d").is_none());
}
