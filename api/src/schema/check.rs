//! Holds an object against its schema.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    Node, ObjectNode, Schema, Slot, Text,
    rules::{self, Rules},
};
use crate::{Quantity, field};

/// What is wrong with an object. Unknown fields are apart, because the client says what becomes of them.
#[derive(Debug, Default)]
pub struct Findings {
    /// The paths of fields that the kind does not have: `spec.template.spec.containers[0].imagee`.
    pub unknown: Vec<String>,
    /// For some of those, the field that was probably meant.
    pub suggestions: BTreeMap<String, String>,
    /// Values of a wrong type, and those beyond the limits of a custom kind.
    pub errors: field::Errors,
}

impl Findings {
    pub fn is_empty(&self) -> bool {
        self.unknown.is_empty() && self.errors.is_empty()
    }

    /// `unknown field "spec.replica"`, one a field, in the words of Kubernetes.
    pub fn unknown_sentences(&self) -> Vec<String> {
        self.unknown.iter().map(|path| format!("unknown field {path:?}")).collect()
    }
}

/// Mistakes told of one object. More help nobody, and a hostile object could have a million.
const FINDINGS_MAX: usize = 100;

type Path<'a> = Option<&'a field::Path<'a>>;

impl Schema {
    /// Everything that is wrong with `object`. `null` counts as absent, as everywhere in Kubernetes.
    pub fn check(&self, object: &Value) -> Findings {
        let mut findings = Findings::default();
        if object.is_object() {
            self.check_value(&self.root, object, None, &mut findings);
        } else {
            findings.errors.type_invalid("", sort(object), "an object is expected: a mapping of fields to values");
        }
        findings
    }

    /// Takes out the fields that the kind does not have.
    pub fn prune(&self, object: &mut Value) {
        self.prune_value(&self.root, object);
    }

    fn prune_value(&self, slot: &Slot, value: &mut Value) {
        match (self.node(slot), value) {
            (Node::Object(object), Value::Object(map)) => {
                map.retain(|name, _| object.is_open || object.values.is_some() || object.fields.contains_key(&**name));
                for (name, value) in map {
                    if let Some(slot) = object.fields.get(&**name).or(object.values.as_ref()) {
                        self.prune_value(slot, value);
                    }
                }
            }
            (Node::List(items), Value::Array(list)) => list.iter_mut().for_each(|value| self.prune_value(items, value)),
            _ => (),
        }
    }

    fn check_value(&self, slot: &Slot, value: &Value, path: Path<'_>, findings: &mut Findings) {
        if value.is_null() || findings.unknown.len() + findings.errors.len() >= FINDINGS_MAX {
            return;
        }
        match (self.node(slot), value) {
            (Node::Any, _) => (),
            (Node::Object(object), Value::Object(map)) => self.check_object(object, map, path, findings),
            (Node::List(items), Value::Array(list)) => {
                for (at, value) in list.iter().enumerate() {
                    let path = path.map(|path| path.index(at));
                    self.check_value(items, value, path.as_ref(), findings);
                }
            }
            (node, value) => {
                if let (Err(why), Some(path)) = (check_leaf(node, value, path), path) {
                    findings.errors.type_invalid(path, sort(value), &why);
                    return;
                }
            }
        }
        if let Some(rules) = &slot.rules {
            check_rules(rules, value, path.unwrap_or(&field::Path::root("")), findings);
        }
    }

    fn check_object(
        &self,
        object: &ObjectNode,
        map: &serde_json::Map<String, Value>,
        path: Path<'_>,
        findings: &mut Findings,
    ) {
        for (name, value) in map {
            let inner = path.map_or(field::Path::root(name), |path| path.at(name));
            match object.fields.get(&**name).or(object.values.as_ref()) {
                Some(slot) => self.check_value(slot, value, Some(&inner), findings),
                None if object.is_open => (),
                None => {
                    if findings.unknown.len() >= FINDINGS_MAX {
                        return;
                    }
                    let unknown = inner.to_string();
                    let known = object.fields.keys().map(|known| &**known).filter(|known| !map.contains_key(*known));
                    if let Some(meant) = meant(name, known) {
                        let meant = path.map_or(field::Path::root(meant), |path| path.at(meant)).to_string();
                        findings.suggestions.insert(unknown.clone(), meant);
                    }
                    findings.unknown.push(unknown);
                }
            }
        }
        for name in &object.required {
            if map.get(&**name).is_none_or(|value| {
                let is_nullable = object.fields.get(name).is_some_and(|slot| slot.is_nullable);
                value.is_null() && !is_nullable
            }) {
                findings.errors.required(path.map_or(field::Path::root(name), |path| path.at(name)), "");
            }
        }
    }
}

fn check_leaf(node: &Node, value: &Value, path: Path<'_>) -> Result<(), String> {
    let place = || path.map(ToString::to_string).unwrap_or_default();
    let must_be = |wanted: &str| Err(format!("{} in body must be of type {wanted}: {:?}", place(), sort(value)));
    match (node, value) {
        (Node::Object(_), _) => must_be("object"),
        (Node::List(_), _) => must_be("array"),
        (Node::Text(text), Value::String(value)) => check_text(*text, value, &place()),
        (Node::Text(_), Value::Number(_) | Value::Bool(_)) => {
            must_be("string").map_err(|why: String| format!("{why} (put quotes around it: \"{value}\")"))
        }
        (Node::Text(_), _) => must_be("string"),
        (Node::Integer(least, most), Value::Number(number)) => match whole(number) {
            Some(number) if (*least..=*most).contains(&number) => Ok(()),
            Some(_) => Err(format!("{} in body must be between {least} and {most}", place())),
            None => must_be("integer"),
        },
        (Node::Integer(..), Value::String(text)) if text.parse::<i64>().is_ok() => {
            must_be("integer").map_err(|why: String| format!("{why} (write {text} without quotes)"))
        }
        (Node::Integer(..), _) => must_be("integer"),
        (Node::Number, Value::Number(_)) | (Node::Boolean, Value::Bool(_)) => Ok(()),
        (Node::Number, _) => must_be("number"),
        (Node::Boolean, Value::String(text)) if text == "true" || text == "false" => {
            must_be("boolean").map_err(|why: String| format!("{why} (write {text} without quotes)"))
        }
        (Node::Boolean, _) => must_be("boolean"),
        (Node::IntOrString, Value::String(_)) => Ok(()),
        (Node::IntOrString, Value::Number(number)) if whole(number).is_some() => Ok(()),
        (Node::IntOrString, _) => must_be("integer or string"),
        (Node::Quantity, Value::String(text)) => Quantity::parse(text).map(drop),
        (Node::Quantity, Value::Number(number)) => Quantity::parse(&number.to_string()).map(drop),
        (Node::Quantity, _) => must_be("quantity, a number or a string such as 500m or 1Gi"),
        (Node::Any, _) => Ok(()),
    }
}

fn check_text(text: Text, value: &str, place: &str) -> Result<(), String> {
    match text {
        Text::Plain => Ok(()),
        Text::Bytes if is_base64(value) => Ok(()),
        Text::Bytes => Err(format!("{place} in body must be of type byte: it is not valid base64")),
        Text::Time | Text::DateTime if value.parse::<crate::Timestamp>().is_ok() => Ok(()),
        Text::Time | Text::DateTime => {
            Err(format!("{place} in body must be of type date-time, such as 2026-11-23T10:00:00Z: {value:?}"))
        }
    }
}

/// Standard alphabet, padded; line breaks are allowed, as in Go.
fn is_base64(text: &str) -> bool {
    let mut n_chars = 0usize;
    let mut n_padding = 0usize;
    for byte in text.bytes() {
        match byte {
            b'\r' | b'\n' => continue,
            b'=' => n_padding += 1,
            _ if n_padding > 0 => return false,
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' => (),
            _ => return false,
        }
        n_chars += 1;
    }
    n_chars.is_multiple_of(4) && n_padding <= 2
}

/// A whole number, also one written as `3.0`.
pub(super) fn whole(number: &serde_json::Number) -> Option<i64> {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    number.as_i64().or_else(|| {
        let float =
            number.as_f64().filter(|float| number.is_f64() && float.fract() == 0.0 && float.abs() <= EXACT_MAX)?;
        Some(float as i64)
    })
}

pub(super) fn check_rules(rules: &Rules, value: &Value, path: &field::Path<'_>, findings: &mut Findings) {
    rules::combinations(rules, value, path, findings);
    if let Some(text) = value.as_str() {
        if let Some(pattern) = rules.pattern.as_ref().filter(|pattern| !pattern.matches(text)) {
            let why = format!("{path} in body should match '{}'", pattern.text());
            findings.errors.invalid(path, text, &why);
        }
        if let Some(format) = rules.format.filter(|format| !format.holds(text)) {
            let why = format!("{path} in body must be of type {}: {text:?}", format.name);
            findings.errors.invalid(path, text, &why);
        }
    }
    if !rules.allowed.is_empty() && !rules.allowed.contains(value) {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let allowed: Vec<String> = rules.allowed.iter().map(text).collect();
        let allowed: Vec<&str> = allowed.iter().map(String::as_str).collect();
        findings.errors.not_supported(path, &text(value), &allowed);
    }
    if let Some(number) = value.as_f64() {
        let beyond = |bound: &f64, is_beyond: bool, is_excluded: bool| is_beyond || (is_excluded && number == *bound);
        if let Some(least) = rules.minimum.filter(|least| beyond(least, number < *least, rules.excludes_minimum)) {
            let or_equal = if rules.excludes_minimum { "" } else { " or equal to" };
            findings.errors.invalid(path, value, &format!("{path} in body should be greater than{or_equal} {least}"));
        }
        if let Some(most) = rules.maximum.filter(|most| beyond(most, number > *most, rules.excludes_maximum)) {
            let or_equal = if rules.excludes_maximum { "" } else { " or equal to" };
            findings.errors.invalid(path, value, &format!("{path} in body should be less than{or_equal} {most}"));
        }
    }
    if let (Some(number), Some(factor)) = (value.as_f64(), rules.multiple_of)
        && (number / factor).fract() != 0.0
    {
        findings.errors.invalid(path, value, &format!("{path} in body should be a multiple of {factor}"));
    }
    let (length, unit) = match value {
        Value::String(text) => (text.chars().count(), "chars long"),
        Value::Array(list) => (list.len(), "items"),
        Value::Object(map) => (map.len(), "properties"),
        _ => return,
    };
    let verb = if unit == "chars long" { "be" } else { "have" };
    if let Some(least) = rules.least.filter(|least| (length as u64) < *least) {
        findings.errors.invalid(path, value, &format!("{path} in body should {verb} at least {least} {unit}"));
    }
    if let Some(most) = rules.most.filter(|most| (length as u64) > *most) {
        findings.errors.invalid(path, value, &format!("{path} in body should {verb} at most {most} {unit}"));
    }
}

/// What Kubernetes calls the sort of a value in its messages.
fn sort(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The known name closest to a misspelt one, if it is close enough to be what was meant.
fn meant<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    /// Longer names are not compared: the cost grows with the product of the lengths.
    const NAME_BYTES_MAX: usize = 64;
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let wanted = name.to_lowercase();
    let edits_max = if name.len() <= 3 { 1 } else { 2 };
    known
        .map(|known| (distance(&wanted, &known.to_lowercase()), known))
        .filter(|(edits, known)| *edits <= edits_max && *edits < known.len())
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, known)| known)
}

/// The number of single-character edits between two names.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, c) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, d) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(c != *d);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::testing;

    fn find(kind: &crate::Kind, object: Value) -> String {
        let findings = Schema::of(kind).check(&object);
        let mut lines: Vec<String> = Vec::new();
        for path in &findings.unknown {
            let meant = findings.suggestions.get(path).map(|meant| format!(" ({meant}?)")).unwrap_or_default();
            lines.push(format!("unknown {path}{meant}"));
        }
        for cause in findings.errors.causes() {
            lines.push(format!("{}: {}", cause.field.as_deref().unwrap(), cause.message.as_deref().unwrap()));
        }
        lines.join("\n")
    }

    #[test]
    fn a_deployment_as_people_write_it() {
        let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "labels": {"a": "b"},
            "managedFields": [{"fieldsV1": {"f:spec": {"anything": {}}}}], "creationTimestamp": null},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"a": "b"}}, "strategy": {"rollingUpdate": {"maxSurge": "25%",
                "maxUnavailable": 1}}, "template": {"spec": {"nodeSelector": {"x": "y"}, "containers": [{"name": "c",
                "resources": {"limits": {"cpu": 2, "memory": "1Gi"}, "requests": {"cpu": 0.5}},
                "livenessProbe": {"httpGet": {"port": "http"}}, "ports": [{"containerPort": 80}]}]}}}});
        assert_eq!(find(&testing::deployment(), object), "");
    }

    #[test]
    fn mistakes_are_found_by_path() {
        let object = json!({"specs": {}, "metadata": {"name": 5, "Labels": {}, "creationTimestamp": "yesterday"}, "spec": {
            "replicas": "3", "replica": 1, "minReadySeconds": 3_000_000_000u64, "paused": "true", "selector": [],
            "template": {"spec": {"containers": [{"name": "c", "imagee": "x", "args": "a",
                "env": [{"name": "A", "value": true}], "resources": {"limits": {"cpu": "lots"}}}], "volumes": {"name": "v"},
                "hostNetwork": 1, "terminationGracePeriodSeconds": 1.5}}}});
        insta::assert_snapshot!(find(&testing::deployment(), object), @r#"
        unknown metadata.Labels (metadata.labels?)
        unknown spec.replica
        unknown spec.template.spec.containers[0].imagee (spec.template.spec.containers[0].image?)
        unknown specs
        metadata.creationTimestamp: Invalid value: "string": metadata.creationTimestamp in body must be of type date-time, such as 2026-11-23T10:00:00Z: "yesterday"
        metadata.name: Invalid value: "integer": metadata.name in body must be of type string: "integer" (put quotes around it: "5")
        spec.minReadySeconds: Invalid value: "integer": spec.minReadySeconds in body must be between -2147483648 and 2147483647
        spec.paused: Invalid value: "string": spec.paused in body must be of type boolean: "string" (write true without quotes)
        spec.replicas: Invalid value: "string": spec.replicas in body must be of type integer: "string" (write 3 without quotes)
        spec.selector: Invalid value: "array": spec.selector in body must be of type object: "array"
        spec.template.spec.containers[0].args: Invalid value: "string": spec.template.spec.containers[0].args in body must be of type array: "string"
        spec.template.spec.containers[0].env[0].value: Invalid value: "boolean": spec.template.spec.containers[0].env[0].value in body must be of type string: "boolean" (put quotes around it: "true")
        spec.template.spec.containers[0].resources.limits.cpu: Invalid value: "string": quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'
        spec.template.spec.hostNetwork: Invalid value: "integer": spec.template.spec.hostNetwork in body must be of type boolean: "integer"
        spec.template.spec.terminationGracePeriodSeconds: Invalid value: "number": spec.template.spec.terminationGracePeriodSeconds in body must be of type integer: "number"
        spec.template.spec.volumes: Invalid value: "object": spec.template.spec.volumes in body must be of type array: "object"
        "#);
    }

    #[test]
    fn custom_kinds_have_limits() {
        let kind = testing::custom();
        let good = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"size": 1.0,
            "port": 80, "free": {"x": [1]}, "nil": null, "tags": ["a"], "whole": {"a": "b"},
            "template": {"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {}}, "spec": {"any": 1}}}});
        assert_eq!(find(&kind, good), "");
        let bad = json!({"metadata": {"nam": 1}, "spec": {"size": 6, "mode": "medium", "port": true, "x": 1, "rules": [{"weight": "1"}],
            "template": {"metadata": {"labels": {"a": 1}}}}});
        insta::assert_snapshot!(find(&kind, bad), @r#"
        unknown metadata.nam (metadata.name?)
        unknown spec.x
        spec.mode: Unsupported value: "medium": supported values: "fast", "slow"
        spec.port: Invalid value: "boolean": spec.port in body must be of type integer or string: "boolean"
        spec.rules[0].weight: Invalid value: "string": spec.rules[0].weight in body must be of type integer: "string" (write 1 without quotes)
        spec.rules[0].id: Required value
        spec.size: Invalid value: 6: spec.size in body should be less than or equal to 5
        spec.template.metadata.labels.a: Invalid value: "integer": spec.template.metadata.labels.a in body must be of type string: "integer" (put quotes around it: "1")
        "#);
        assert_eq!(find(&kind, json!({})), "spec: Required value");
        assert!(find(&kind, json!([])).contains("an object is expected"));
    }

    #[test]
    fn unknown_fields_are_pruned() {
        let mut object = json!({"x": 1, "metadata": {"name": "w", "y": 1}, "spec": {"size": 1, "z": {}, "free": {"keep": 1},
            "rules": [{"id": "a", "w": 1}], "whole": {"keep": "b"}, "template": {"keep": 1, "metadata": {"drop": 1}}}});
        Schema::of(&testing::custom()).prune(&mut object);
        assert_eq!(
            object,
            json!({"metadata": {"name": "w"}, "spec": {"size": 1, "free": {"keep": 1},
            "rules": [{"id": "a"}], "whole": {"keep": "b"}, "template": {"keep": 1, "metadata": {}}}})
        );
    }

    #[test]
    fn findings_are_bounded() {
        let many: serde_json::Map<String, Value> = (0..10_000).map(|n| (format!("x{n}"), json!(1))).collect();
        assert_eq!(Schema::of(&testing::pod()).check(&Value::Object(many)).unknown.len(), FINDINGS_MAX);
    }
}
