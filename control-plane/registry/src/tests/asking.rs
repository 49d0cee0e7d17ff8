//! Webhooks: who is asked, what they are shown, and what their answers do.

use copepod_api::{Action, DeleteOptions, Patch, Request};
use serde_json::{Value, json};

use super::fixture::{Fixture, body, deployment, pod, request};
use crate::{Answer, Env, Question, Testimony, Undecided, Verdict, decide};

const MUTATING: &str = "mutatingwebhookconfigurations";
const VALIDATING: &str = "validatingwebhookconfigurations";

fn configuration(name: &str, webhooks: Value) -> Value {
    json!({"metadata": {"name": name}, "webhooks": webhooks})
}

fn webhook(name: &str, resource: &str, operations: &[&str], more: Value) -> Value {
    let mut webhook = json!({
        "name": format!("{name}.example.com"), "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": "https://127.0.0.1/hook"},
        "rules": [{"apiGroups": ["*"], "apiVersions": ["*"], "resources": [resource], "operations": operations}],
    });
    for (field, value) in more.as_object().into_iter().flatten() {
        webhook[field] = value.clone();
    }
    webhook
}

fn allowed() -> Answer {
    Ok(Verdict { allowed: true, ..Verdict::default() })
}

fn patched(patch: Value) -> Answer {
    Ok(Verdict { allowed: true, patch: Some(patch), ..Verdict::default() })
}

/// Carries a request out; everything that is asked goes to `answer`. Gives what was asked as well.
fn carry_out(
    fixture: &mut Fixture,
    request: Request,
    answer: impl Fn(&Question) -> Answer,
) -> (Result<Value, String>, Vec<Question>) {
    let (mut known, mut asked) = (Testimony::default(), Vec::new());
    let mut dice = 0;
    loop {
        let mut throw = || {
            dice += 1;
            dice
        };
        let mut env = Env { now: fixture.now, dice: &mut throw };
        match decide(&fixture.view, std::slice::from_ref(&request), &mut env, known) {
            Ok(done) => {
                fixture.view = done.view;
                let mut reply = body(&done.replies[0]);
                reply["warnings"] = json!(done.replies[0].warnings);
                return (Ok(reply), asked);
            }
            Err(Undecided::Refused(status)) => {
                return (Err(format!("{} {}", status.code(), status.message())), asked);
            }
            Err(Undecided::Open { testimony, open }) => {
                known = testimony;
                // Time passes while somebody is asked.
                fixture.pass(3);
                for question in open.questions {
                    let said = answer(&question);
                    asked.push(question.clone());
                    known.answer(question, said);
                }
            }
        }
    }
}

fn create(target: &str, object: Value) -> Request {
    request(target, Action::Create { object })
}

#[test]
fn a_webhook_changes_a_pod_and_defaults_follow() {
    let mut fixture = Fixture::new();
    let hook = webhook("add", "pods", &["CREATE"], json!({}));
    fixture.create(MUTATING, configuration("m", json!([hook]))).unwrap();
    let patch = json!([{"op": "add", "path": "/spec/initContainers", "value": [{"name": "first", "image": "i:1"}]}]);
    let range =
        json!({"metadata": {"name": "r"}, "spec": {"limits": [{"type": "Container", "default": {"cpu": "1"}}]}});
    fixture.create("limitranges", range).unwrap();
    let (made, asked) = carry_out(&mut fixture, create("pods", pod("web")), |_| patched(patch.clone()));
    let made = made.unwrap();
    assert_eq!(made["spec"]["initContainers"][0]["terminationMessagePolicy"], "File");
    assert_eq!(made["spec"]["initContainers"][0]["resources"]["limits"]["cpu"], "1", "and what the namespace says");

    let shown = &asked[0].request;
    assert_eq!((&shown["operation"], &shown["name"]), (&json!("CREATE"), &json!("web")));
    assert_eq!(shown["kind"], json!({"group": "", "version": "v1", "kind": "Pod"}));
    assert_eq!(shown["object"]["spec"]["restartPolicy"], "Always", "defaults come first");
    assert_eq!(shown["options"]["fieldManager"], "test");
    assert_eq!(shown["userInfo"]["username"], "tester");
}

#[test]
fn who_validates_sees_what_will_be() {
    let mut fixture = Fixture::new();
    let hook = webhook("see", "configmaps", &["*"], json!({}));
    fixture.create(VALIDATING, configuration("v", json!([hook]))).unwrap();
    let object = json!({"metadata": {"generateName": "c-"}, "data": {"a": "1"}});
    let (made, asked) = carry_out(&mut fixture, create("configmaps", object), |_| allowed());
    let made = made.unwrap();
    assert_eq!(asked.len(), 1);
    for field in ["uid", "name", "creationTimestamp"] {
        assert_eq!(asked[0].request["object"]["metadata"][field], made["metadata"][field], "{field}");
    }

    let name = made["metadata"]["name"].as_str().unwrap();
    let target = format!("configmaps/{name}");
    let merge = request(&target, Action::Patch { patch: Patch::Merge(json!({"data": {"a": "2"}})) });
    let (_, asked) = carry_out(&mut fixture, merge, |_| allowed());
    assert_eq!(asked[0].request["operation"], "UPDATE");
    assert_eq!(asked[0].request["oldObject"]["data"]["a"], "1");

    let delete = request(&target, Action::Delete { options: DeleteOptions::default() });
    let (refused, asked) = carry_out(&mut fixture, delete, |_| {
        Ok(Verdict { status: Some(json!({"message": "still used", "code": 409})), ..Verdict::default() })
    });
    assert_eq!(refused.unwrap_err(), "409 admission webhook \"see.example.com\" denied the request: still used");
    assert_eq!((&asked[0].request["object"], &asked[0].request["operation"]), (&Value::Null, &json!("DELETE")));
    assert_eq!(asked[0].request["oldObject"]["data"]["a"], "2");
}

#[test]
fn refusals_say_at_least_that_they_are_refusals() {
    let mut fixture = Fixture::new();
    let hook = webhook("no", "pods", &["CREATE"], json!({}));
    fixture.create(VALIDATING, configuration("v", json!([hook]))).unwrap();
    for (status, message) in [
        (None, "400 admission webhook \"no.example.com\" denied the request without explanation"),
        (
            Some(json!({"reason": "Busy", "code": 200})),
            "400 admission webhook \"no.example.com\" denied the request: Busy",
        ),
    ] {
        let verdict = Verdict { status, ..Verdict::default() };
        let (refused, _) = carry_out(&mut fixture, create("pods", pod("p")), |_| Ok(verdict.clone()));
        assert_eq!(refused.unwrap_err(), message);
    }
}

#[test]
fn no_answer_counts_as_the_policy_says() {
    for (policy, refused) in [
        ("Fail", Some("500 Internal error occurred: failed calling webhook \"dead.example.com\": deadline exceeded")),
        ("Ignore", None),
    ] {
        let mut fixture = Fixture::new();
        let hook = webhook("dead", "pods", &["CREATE"], json!({"failurePolicy": policy}));
        fixture.create(MUTATING, configuration("m", json!([hook]))).unwrap();
        let silent = |_: &Question| Err("deadline exceeded".to_owned());
        let (outcome, _) = carry_out(&mut fixture, create("pods", pod("p")), silent);
        assert_eq!(outcome.err().as_deref(), refused);
    }
}

#[test]
fn they_change_the_object_in_the_order_of_their_names_and_once_more_where_wanted() {
    let mut fixture = Fixture::new();
    let again = webhook("first", "configmaps", &["CREATE"], json!({"reinvocationPolicy": "IfNeeded"}));
    fixture.create(MUTATING, configuration("a", json!([again]))).unwrap();
    let second = webhook("second", "configmaps", &["CREATE"], json!({}));
    fixture.create(MUTATING, configuration("b", json!([second]))).unwrap();
    let answer = |question: &Question| {
        let data = &question.request["object"]["data"];
        let field = if question.webhook.starts_with("second") { "second" } else { "first" };
        let seen = data.as_object().map_or(0, serde_json::Map::len);
        patched(json!([{"op": "add", "path": format!("/data/{field}"), "value": seen.to_string()}]))
    };
    let object = json!({"metadata": {"name": "c"}, "data": {"own": ""}});
    let (made, asked) = carry_out(&mut fixture, create("configmaps", object), answer);
    assert_eq!(made.unwrap()["data"], json!({"own": "", "first": "3", "second": "2"}));
    let asked: Vec<&str> = asked.iter().map(|question| &*question.webhook).collect();
    assert_eq!(asked, ["first.example.com", "second.example.com", "first.example.com"]);
}

#[test]
fn selectors_rules_and_versions_say_who_is_asked() {
    let exempt = json!({"objectSelector": {"matchLabels": {"app": "other"}}});
    let elsewhere = json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}});
    for (resource, operations, more, asked) in [
        ("pods", ["CREATE"], json!({}), true),
        ("*", ["*"], json!({}), true),
        ("*/*", ["CREATE"], json!({}), true),
        ("pods", ["UPDATE"], json!({}), false),
        ("pods/status", ["CREATE"], json!({}), false),
        ("pods/*", ["CREATE"], json!({}), true),
        ("services", ["CREATE"], json!({}), false),
        ("pods", ["CREATE"], exempt, false),
        ("pods", ["CREATE"], elsewhere, false),
    ] {
        let mut fixture = Fixture::new();
        let hook = webhook("h", resource, &operations, more);
        fixture.create(VALIDATING, configuration("v", json!([hook]))).unwrap();
        let (made, questions) = carry_out(&mut fixture, create("pods", pod("p")), |_| allowed());
        made.unwrap();
        assert_eq!(!questions.is_empty(), asked, "{resource} {operations:?}");
    }
}

#[test]
fn another_version_of_a_kind_is_shown_as_the_webhook_knows_it() {
    for (policy, asked) in [("Equivalent", 1), ("Exact", 0)] {
        let mut fixture = Fixture::new();
        let rules = json!([{
            "apiGroups": ["autoscaling"], "apiVersions": ["v1"], "resources": ["horizontalpodautoscalers"], "operations": ["*"],
        }]);
        let hook = webhook("h", "", &[], json!({"rules": rules, "matchPolicy": policy}));
        fixture.create(MUTATING, configuration("m", json!([hook]))).unwrap();
        let object = json!({"metadata": {"name": "h"}, "spec": {
            "maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"},
            "metrics": [{"type": "Resource", "resource": {
                "name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}],
        }});
        let mut sent = create("horizontalpodautoscalers", object);
        sent.target.version = "v2".into();
        let patch = json!([{"op": "replace", "path": "/spec/targetCPUUtilizationPercentage", "value": 70}]);
        let (made, questions) = carry_out(&mut fixture, sent, |_| patched(patch.clone()));
        let made = made.unwrap();
        assert_eq!(questions.len(), asked);
        assert_eq!(made["apiVersion"], "autoscaling/v2");
        let wanted = if asked == 1 { 70 } else { 50 };
        assert_eq!(made["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], wanted);
        if let Some(question) = questions.first() {
            assert_eq!(question.request["kind"]["version"], "v1");
            assert_eq!(question.request["requestKind"]["version"], "v2");
            assert_eq!(question.request["object"]["spec"]["targetCPUUtilizationPercentage"], 50);
        }
    }
}

#[test]
fn a_scale_is_asked_about_as_a_scale() {
    let mut fixture = Fixture::new();
    fixture.create("deployments", deployment("d")).unwrap();
    let hook = webhook("h", "*/*", &["UPDATE"], json!({}));
    fixture.create(VALIDATING, configuration("v", json!([hook]))).unwrap();
    let merge = Action::Patch { patch: Patch::Merge(json!({"spec": {"replicas": 4}})) };
    let (scaled, asked) = carry_out(&mut fixture, request("deployments/d/scale", merge), |_| allowed());
    assert_eq!(scaled.unwrap()["spec"]["replicas"], 4);
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].request["kind"], json!({"group": "autoscaling", "version": "v1", "kind": "Scale"}));
    assert_eq!(asked[0].request["subResource"], "scale");
    assert_eq!(asked[0].request["oldObject"]["spec"]["replicas"], 1);
}

#[test]
fn subresources_of_their_own_meaning_are_asked_about_as_what_is_sent() {
    let mut fixture = Fixture::new();
    fixture.create("pods", pod("p")).unwrap();
    fixture.create("nodes", json!({"metadata": {"name": "n1"}})).unwrap();
    let hook = webhook("h", "pods/binding", &["CREATE"], json!({}));
    fixture.create(VALIDATING, configuration("v", json!([hook]))).unwrap();
    let object = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    let refuse = |_: &Question| Ok(Verdict::default());
    let (refused, asked) = carry_out(&mut fixture, create("pods/p/binding", object.clone()), refuse);
    assert!(refused.unwrap_err().contains("denied the request without explanation"));
    assert_eq!(asked[0].request["kind"]["kind"], "Binding");
    assert_eq!(asked[0].request["object"]["target"]["name"], "n1");
    let (bound, _) = carry_out(&mut fixture, create("pods/p/binding", object), |_| allowed());
    bound.unwrap();
}

#[test]
fn the_configurations_themselves_are_nobodys_to_refuse() {
    let mut fixture = Fixture::new();
    let hook = webhook("h", "*", &["*"], json!({}));
    fixture.create(VALIDATING, configuration("v", json!([hook.clone()]))).unwrap();
    fixture.create(MUTATING, configuration("m", json!([hook]))).unwrap();
    for target in [format!("{VALIDATING}/v"), format!("{MUTATING}/m")] {
        let delete = request(&target, Action::Delete { options: DeleteOptions::default() });
        let (gone, asked) = carry_out(&mut fixture, delete, |_| Err("dead".to_owned()));
        assert!(gone.is_ok() && asked.is_empty());
    }
}

#[test]
fn a_question_is_asked_again_where_the_object_is_another_meanwhile() {
    let mut fixture = Fixture::new();
    fixture.create("configmaps", json!({"metadata": {"name": "c"}, "data": {"a": "1"}})).unwrap();
    let hook = webhook("h", "configmaps", &["UPDATE"], json!({}));
    fixture.create(VALIDATING, configuration("v", json!([hook]))).unwrap();
    let merge = [request("configmaps/c", Action::Patch { patch: Patch::Merge(json!({"data": {"b": "1"}})) })];
    let ask =
        |fixture: &Fixture, known| decide(&fixture.view, &merge, &mut Env { now: fixture.now, dice: &mut || 4 }, known);
    let Err(Undecided::Open { mut testimony, mut open }) = ask(&fixture, Testimony::default()) else {
        panic!("nobody was asked");
    };
    testimony.answer(open.questions.remove(0), allowed());
    assert!(ask(&fixture, testimony.clone()).is_ok());

    let delete = request("validatingwebhookconfigurations/v", Action::Delete { options: DeleteOptions::default() });
    fixture.one(delete).unwrap();
    fixture.merge("configmaps/c", json!({"data": {"a": "2"}})).unwrap();
    let hook = webhook("h", "configmaps", &["UPDATE"], json!({}));
    fixture.create(VALIDATING, configuration("v", json!([hook]))).unwrap();
    let Err(Undecided::Open { open, .. }) = ask(&fixture, testimony) else { panic!("nobody was asked again") };
    assert_eq!(open.questions[0].request["oldObject"]["data"]["a"], "2");
}

#[test]
fn warnings_reach_the_client() {
    let mut fixture = Fixture::new();
    let hook = webhook("h", "pods", &["CREATE"], json!({}));
    fixture.create(VALIDATING, configuration("v", json!([hook]))).unwrap();
    let verdict = Verdict { allowed: true, warnings: vec!["old image".to_owned()], ..Verdict::default() };
    let (made, _) = carry_out(&mut fixture, create("pods", pod("p")), |_| Ok(verdict.clone()));
    assert_eq!(made.unwrap()["warnings"], json!(["old image"]));
}
