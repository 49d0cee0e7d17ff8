//! Rules in CEL that stand in the schemas of custom kinds.

use copepod_api::{Action, Patch, Request, Resource, Target, User, WriteOptions};
use serde_json::{Value, json};

use super::fixture::{Fixture, refusal};

/// A cluster with a kind `Gadget` whose spec has this schema; status is a subresource.
fn with(spec: Value) -> Result<Fixture, String> {
    let mut fixture = Fixture::new();
    let schema = json!({"type": "object", "properties": {
        "spec": spec,
        "status": {"type": "object", "properties": {"health": {"type": "string"}},
            "x-kubernetes-validations": [{"rule": "self.health in ['ok', 'unhealthy']"}]},
    }});
    let definition = json!({"metadata": {"name": "gadgets.example.com"}, "spec": {
        "group": "example.com", "scope": "Namespaced",
        "names": {"plural": "gadgets", "kind": "Gadget"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
            "subresources": {"status": {}}}],
    }});
    match fixture.create("customresourcedefinitions", definition) {
        Ok(_) => Ok(fixture),
        refused => Err(refusal(refused)),
    }
}

fn gadget(action: Action, subresource: &str) -> Request {
    let target = Target {
        resource: Resource::new("example.com", "gadgets"),
        version: "v1".into(),
        namespace: "default".into(),
        name: if matches!(action, Action::Create { .. }) { "" } else { "g" }.into(),
        subresource: subresource.into(),
    };
    let options = WriteOptions { field_manager: "test".to_owned(), ..WriteOptions::default() };
    Request { user: User::system("tester"), target, action, options }
}

fn create(fixture: &mut Fixture, spec: Value) -> Result<(), String> {
    let object = json!({"metadata": {"name": "g"}, "spec": spec});
    fixture.one(gadget(Action::Create { object }, "")).map(drop).map_err(|status| status.message().to_owned())
}

fn merge(fixture: &mut Fixture, subresource: &str, patch: Value) -> Result<(), String> {
    let patch = Action::Patch { patch: Patch::Merge(patch) };
    fixture.one(gadget(patch, subresource)).map(drop).map_err(|status| status.message().to_owned())
}

/// An object with these properties and rules.
fn object(properties: Value, rules: Value) -> Value {
    json!({"type": "object", "properties": properties, "x-kubernetes-validations": rules})
}

#[test]
fn a_rule_must_hold_for_new_objects_and_for_changes() {
    let properties = json!({"x": {"type": "integer"}, "y": {"type": "integer"}});
    let mut fixture = with(object(properties, json!([{"rule": "self.x + self.y > 0"}]))).unwrap();
    let refused = create(&mut fixture, json!({"x": 1, "y": -2})).unwrap_err();
    assert_eq!(refused, "Gadget.example.com \"g\" is invalid: spec: Invalid value: failed rule: self.x + self.y > 0");
    assert!(create(&mut fixture, json!({"x": 1})).unwrap_err().contains("no such key: y evaluating rule"));
    create(&mut fixture, json!({"x": 1, "y": 2})).unwrap();
    assert!(merge(&mut fixture, "", json!({"spec": {"x": -5}})).unwrap_err().contains("failed rule"));
    assert!(
        merge(&mut fixture, "status", json!({"status": {"health": "bad"}})).unwrap_err().contains("status: Invalid")
    );
    merge(&mut fixture, "status", json!({"status": {"health": "ok"}})).unwrap();
}

#[test]
fn messages_reasons_and_fields_are_those_of_the_rule() {
    let properties = json!({"min": {"type": "integer"}, "max": {"type": "integer"}});
    let rules = json!([{
        "rule": "self.min <= self.max", "messageExpression": "'min is over ' + string(self.max)", "fieldPath": ".min",
        "reason": "FieldValueForbidden",
    }, {"rule": "self.max < 10", "message": "too large", "fieldPath": ".max"}]);
    let mut fixture = with(object(properties, rules)).unwrap();
    let refused = create(&mut fixture, json!({"min": 30, "max": 20})).unwrap_err();
    assert!(refused.contains("spec.min: Forbidden: min is over 20"), "{refused}");
    assert!(refused.contains("spec.max: Invalid value: too large"), "{refused}");
}

#[test]
fn rules_about_changes_look_at_the_old_value() {
    let once =
        json!({"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "immutable"}]});
    let grows = json!({"type": "integer", "x-kubernetes-validations": [
        {"rule": "!oldSelf.hasValue() && self == 1 || oldSelf.optMap(old, self > old).orValue(false)", "optionalOldSelf": true},
    ]});
    let ports = json!({"type": "array", "maxItems": 5, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
        "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "port": {"type": "integer"}},
            "x-kubernetes-validations": [{"rule": "self.port >= oldSelf.port"}]}});
    let properties = json!({"once": once, "grows": grows, "ports": ports});
    let mut fixture = with(object(properties, json!([]))).unwrap();
    assert!(create(&mut fixture, json!({"grows": 2})).unwrap_err().contains("spec.grows"));
    create(&mut fixture, json!({"once": "a", "grows": 1, "ports": [{"name": "b", "port": 5}]})).unwrap();
    assert!(
        merge(&mut fixture, "", json!({"spec": {"once": "b"}}))
            .unwrap_err()
            .contains("spec.once: Invalid value: \"b\": immutable")
    );
    let ports = json!({"spec": {"ports": [{"name": "a", "port": 1}, {"name": "b", "port": 4}]}});
    assert!(merge(&mut fixture, "", ports).unwrap_err().contains("spec.ports[1]: Invalid value: failed rule"));
    merge(&mut fixture, "", json!({"spec": {"grows": 7, "ports": [{"name": "a", "port": 1}]}})).unwrap();
}

#[test]
fn values_have_the_types_that_the_schema_states() {
    let properties = json!({
        "ratio": {"type": "number"}, "until": {"type": "string", "format": "date-time"},
        "every": {"type": "string", "format": "duration"}, "any": {"x-kubernetes-int-or-string": true},
        "dash-ed": {"type": "string"}, "namespace": {"type": "string"},
        "labels": {"type": "object", "maxProperties": 10, "additionalProperties": {"type": "string", "maxLength": 5}},
    });
    let rules = json!([
        {"rule": "self.ratio / 2.0 == 1.0"},
        {"rule": "self.until > timestamp('2026-01-01T00:00:00Z')"},
        {"rule": "self.every == duration('90s')"},
        {"rule": "type(self.any) == int ? self.any < 5 : self.any == 'five'"},
        {"rule": "self.dash__dash__ed == 'd' && self.__namespace__ == 'n'"},
        {"rule": "self.labels.all(k, self.labels[k].startsWith(k))"},
    ]);
    let mut fixture = with(object(properties, rules)).unwrap();
    create(
        &mut fixture,
        json!({
            "ratio": 2, "until": "2026-11-23T10:00:00Z", "every": "1m30s", "any": 3, "dash-ed": "d", "namespace": "n",
            "labels": {"a": "ab"},
        }),
    )
    .unwrap();
}

#[test]
fn what_did_not_change_is_not_judged_again() {
    let before = object(json!({"x": {"type": "integer"}, "y": {"type": "integer"}}), json!([]));
    let mut fixture = with(before).unwrap();
    create(&mut fixture, json!({"x": -1, "y": 1})).unwrap();
    let rule = json!({"rule": "self > 0"});
    let patch = json!([
        {"op": "add", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/x/x-kubernetes-validations", "value": [rule]},
    ]);
    let stricter = super::fixture::request(
        "customresourcedefinitions/gadgets.example.com",
        Action::Patch { patch: Patch::Json(patch) },
    );
    fixture.one(stricter).unwrap();
    merge(&mut fixture, "", json!({"spec": {"y": 2}})).unwrap();
    assert!(merge(&mut fixture, "", json!({"spec": {"x": -2}})).unwrap_err().contains("spec.x"));
}

#[test]
fn wrong_rules_are_refused_with_the_definition() {
    let unbounded = json!({"x": {"type": "array", "items": {"type": "array", "items": {"type": "string"},
        "x-kubernetes-validations": [{"rule": "self.all(s, s == 'string constant')"}]}}});
    let loose = json!({"x": {"type": "array", "maxItems": 3, "items": {"type": "string",
        "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}}});
    let rule = |rule: &str| (json!({"x": {"type": "integer"}}), json!([{"rule": rule}]));
    for ((properties, rules), told) in [
        (rule("self.z == 1"), "undefined field 'z'"),
        (rule("self = 42"), "Syntax error"),
        (rule("self.x > '1'"), "found no matching overload for '_>_' applied to '(int, string)'"),
        (rule("self.x"), "must evaluate to bool"),
        (rule(""), "rule is not specified"),
        ((json!({}), json!([{"rule": "true", "reason": "Other"}])), "Unsupported value: \"Other\""),
        ((json!({}), json!([{"rule": "true", "fieldPath": ".none"}])), "does not refer to a valid field"),
        ((json!({}), json!([{"rule": "true", "messageExpression": "1"}])), "must evaluate to string"),
        ((unbounded, json!([])), "estimated rule cost exceeds budget by factor of more than 100x"),
        ((loose, json!([])), "oldSelf cannot be used on the uncorrelatable portion of the schema within"),
    ] {
        let refused = with(object(properties, rules)).err().unwrap_or_default();
        assert!(refused.contains(told) && refused.contains("x-kubernetes-validations[0]"), "{told}: {refused}");
    }
}

#[test]
fn what_a_request_has_no_room_for_does_not_count_as_cost() {
    let list = |required: Value| {
        let item = json!({"type": "object", "required": required,
            "properties": {"hostname-of-the-listener": {"type": "string"}, "port": {"type": "integer"}},
            "x-kubernetes-validations": [{"rule": "has(self.port) && self.port > 0 && self.port < 65536 && self.port != 22"}]});
        object(json!({"x": {"type": "array", "items": item}}), json!([]))
    };
    assert!(with(list(json!([]))).err().unwrap().contains("exceeds budget"));
    with(list(json!(["hostname-of-the-listener", "port"]))).unwrap();
}

#[test]
fn an_object_that_costs_too_much_is_refused() {
    let properties = json!({"large": {"type": "array", "maxItems": 725, "items": {"type": "integer"}}});
    let rules = json!([{"rule": "self.large.all(x, self.large.all(y, y == x))"}]);
    let mut fixture = with(object(properties, rules)).unwrap();
    let refused = create(&mut fixture, json!({"large": vec![20; 725]})).unwrap_err();
    assert!(refused.contains("call cost exceeds limit for rule"), "{refused}");
    create(&mut fixture, json!({"large": vec![20; 100]})).unwrap();
}

#[test]
fn the_order_of_sets_and_of_lists_with_keys_means_nothing_to_rules() {
    let properties = json!({
        "tags": {"type": "array", "x-kubernetes-list-type": "set", "maxItems": 9, "items": {"type": "string", "maxLength": 9}},
        "parts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"], "maxItems": 9,
            "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string", "maxLength": 9}}}},
        "steps": {"type": "array", "maxItems": 9, "items": {"type": "string", "maxLength": 9}},
    });
    let rules = json!([
        {"rule": "self.tags == oldSelf.tags"},
        {"rule": "self.parts == oldSelf.parts"},
        {"rule": "self.tags + oldSelf.tags == self.tags"},
        {"rule": "self.steps == oldSelf.steps"},
    ]);
    let mut fixture = with(object(properties, rules)).unwrap();
    let named = |names: &[&str]| names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>();
    let spec = json!({"tags": ["a", "b"], "parts": named(&["a", "b"]), "steps": ["a", "b"]});
    create(&mut fixture, spec).unwrap();
    merge(&mut fixture, "", json!({"spec": {"tags": ["b", "a"], "parts": named(&["b", "a"])}})).unwrap();
    let refused = merge(&mut fixture, "", json!({"spec": {"steps": ["b", "a"]}})).unwrap_err();
    assert!(refused.contains("failed rule: self.steps == oldSelf.steps"), "{refused}");
    let refused = merge(&mut fixture, "", json!({"spec": {"tags": ["b", "c"]}})).unwrap_err();
    assert!(refused.contains("failed rule: self.tags == oldSelf.tags"), "{refused}");
}
