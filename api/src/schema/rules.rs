//! Limits of values, as custom kinds state them: ranges, lengths, patterns, formats, and combinations of all these.
//!
//! `allOf`, `anyOf`, `oneOf` and `not` hold schemas that say nothing of what fields there are, only of their values. So
//! they are compiled into checks of their own and never prune or fill anything in.

use std::collections::BTreeMap;

use regex::{Regex, RegexBuilder};
use serde_json::Value;

use super::{
    check::{Findings, check_rules},
    format::Format,
};
use crate::field::Path;

/// How large a compiled pattern may be. Patterns come from users, and every server keeps them compiled.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// How deep combinations may nest. Compiling and checking recurse.
const DEPTH_MAX: usize = 32;

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Rules {
    pub allowed: Vec<Value>,
    pub minimum: Option<f64>,
    pub maximum: Option<f64>,
    pub excludes_minimum: bool,
    pub excludes_maximum: bool,
    pub multiple_of: Option<f64>,
    /// Of the length of a text, list or map.
    pub least: Option<u64>,
    pub most: Option<u64>,
    pub pattern: Option<Pattern>,
    pub format: Option<Format>,
    pub all: Vec<Check>,
    pub any: Vec<Check>,
    pub one: Vec<Check>,
    pub not: Option<Box<Check>>,
}

/// A regular expression; two are the same when they are written alike.
#[derive(Clone, Debug)]
pub(super) struct Pattern(Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.text() == other.text()
    }
}

impl Pattern {
    pub fn text(&self) -> &str {
        self.0.as_str()
    }

    /// Whether it is found anywhere in a text.
    pub fn matches(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

fn compiled(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern).size_limit(PATTERN_BYTES_MAX).build()
}

/// Why a text is not a pattern that values can be held against.
pub fn pattern_fault(pattern: &str) -> Option<String> {
    compiled(pattern).err().map(|error| error.to_string().lines().last().unwrap_or_default().trim().to_owned())
}

/// A schema inside a combination.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Check {
    sort: Option<Box<str>>,
    required: Vec<Box<str>>,
    fields: BTreeMap<Box<str>, Check>,
    items: Option<Box<Check>>,
    values: Option<Box<Check>>,
    rules: Option<Box<Rules>>,
}

/// What a schema says of values; `None` where it says nothing.
pub(super) fn of(schema: &Value) -> Option<Box<Rules>> {
    rules(schema, 0)
}

fn rules(schema: &Value, depth: usize) -> Option<Box<Rules>> {
    if depth > DEPTH_MAX {
        return None;
    }
    let length = |what: [&str; 3]| what.iter().find_map(|key| schema[*key].as_u64());
    let checks = |key: &str| -> Vec<Check> {
        schema[key].as_array().into_iter().flatten().map(|schema| check(schema, depth + 1)).collect()
    };
    let rules = Rules {
        allowed: schema["enum"].as_array().cloned().unwrap_or_default(),
        minimum: schema["minimum"].as_f64(),
        maximum: schema["maximum"].as_f64(),
        excludes_minimum: schema["exclusiveMinimum"] == true,
        excludes_maximum: schema["exclusiveMaximum"] == true,
        multiple_of: schema["multipleOf"].as_f64().filter(|factor| *factor > 0.0),
        least: length(["minLength", "minItems", "minProperties"]),
        most: length(["maxLength", "maxItems", "maxProperties"]),
        // A definition whose pattern is none is refused; older ones must not stop a server.
        pattern: schema["pattern"].as_str().and_then(|pattern| compiled(pattern).ok()).map(Pattern),
        format: schema["format"].as_str().and_then(Format::named),
        all: checks("allOf"),
        any: checks("anyOf"),
        one: checks("oneOf"),
        not: schema["not"].is_object().then(|| Box::new(check(&schema["not"], depth + 1))),
    };
    (rules != Rules::default()).then(|| Box::new(rules))
}

fn check(schema: &Value, depth: usize) -> Check {
    if depth > DEPTH_MAX {
        return Check::default();
    }
    let inner = |key: &str| schema[key].is_object().then(|| Box::new(check(&schema[key], depth + 1)));
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let fields = schema["properties"].as_object().into_iter().flatten();
    Check {
        sort: schema["type"].as_str().map(Box::from),
        required: required.map(Box::from).collect(),
        fields: fields.map(|(name, schema)| (name.as_str().into(), check(schema, depth + 1))).collect(),
        items: inner("items"),
        values: inner("additionalProperties"),
        rules: rules(schema, depth + 1),
    }
}

impl Check {
    fn holds(&self, value: &Value, path: &Path<'_>) -> bool {
        let mut findings = Findings::default();
        self.judge(value, path, &mut findings);
        findings.errors.is_empty()
    }

    fn judge(&self, value: &Value, path: &Path<'_>, findings: &mut Findings) {
        if let Some(sort) = &self.sort
            && !is_of(sort, value)
        {
            let why = format!("{path} in body must be of type {sort}");
            return findings.errors.type_invalid(path, value, &why);
        }
        if let Some(map) = value.as_object() {
            for name in self.required.iter().filter(|name| map.get(&***name).is_none_or(Value::is_null)) {
                findings.errors.required(path.at(name), "");
            }
            for (name, value) in map {
                if let Some(check) = self.fields.get(&**name).or(self.values.as_deref()) {
                    check.judge(value, &path.at(name), findings);
                }
            }
        }
        if let (Some(check), Some(list)) = (&self.items, value.as_array()) {
            list.iter().enumerate().for_each(|(at, value)| check.judge(value, &path.index(at), findings));
        }
        if let Some(rules) = &self.rules {
            check_rules(rules, value, path, findings);
        }
    }
}

fn is_of(sort: &str, value: &Value) -> bool {
    match sort {
        "string" => value.is_string(),
        "integer" => value.as_number().is_some_and(|number| super::check::whole(number).is_some()),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => true,
    }
}

/// Holds a value against the combinations of its place.
pub(super) fn combinations(rules: &Rules, value: &Value, path: &Path<'_>, findings: &mut Findings) {
    let valid = |checks: &[Check]| checks.iter().filter(|check| check.holds(value, path)).count();
    let mut fault = |why: String| findings.errors.invalid(path, value, &why);
    let name = format!("{:?}", path.to_string());
    if !rules.any.is_empty() && valid(&rules.any) == 0 {
        fault(format!("{name} must validate at least one schema (anyOf)"));
    }
    match valid(&rules.one) {
        _ if rules.one.is_empty() => {}
        1 => {}
        0 => fault(format!("{name} must validate one and only one schema (oneOf). Found none valid")),
        many => fault(format!("{name} must validate one and only one schema (oneOf). Found {many} valid alternatives")),
    }
    if valid(&rules.all) < rules.all.len() {
        fault(format!("{name} must validate all the schemas (allOf)"));
        rules.all.iter().for_each(|check| check.judge(value, path, findings));
    }
    if rules.not.as_ref().is_some_and(|check| check.holds(value, path)) {
        findings.errors.invalid(path, value, &format!("{name} must not validate the schema (not)"));
    }
}
