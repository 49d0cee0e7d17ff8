//! Whether the expressions of a policy fit the kinds that it is about.
//!
//! A policy may be about many kinds, and its expressions are checked without knowing any. Where its rules name kinds, they
//! are checked once more with the fields that these have, and what does not fit stands in the policy's status. It is a
//! hint and no refusal: a kind may get a field later.

use std::{collections::BTreeMap, sync::Arc};

use copepod_api::schema::definition::Definitions;
use copepod_cel::{Declarations, Program, Type};
use serde_json::{Value, json};

use super::policy;
use crate::{
    Catalog, Row,
    pipeline::World,
    rules::{at, each, list_at, text_at},
};

/// How many kinds one policy is checked with.
const KINDS_MAX: usize = 10;

/// How deep the fields of a kind are known; some kinds contain themselves.
const DEPTH_MAX: usize = 12;

const REF: &str = "#/$defs/";

/// The status of a ValidatingAdmissionPolicy.
pub fn status(world: &World<'_>, policy: &Value, generation: i64) -> Value {
    let spec = at(policy, "spec");
    let checks: Vec<(String, Declarations)> =
        kinds(world, spec).iter().map(|row| (said(row), declared(spec, row))).collect();
    let mut warnings = Vec::new();
    let mut check = |path: String, text: &str, wanted: &[Type]| {
        let told = checks.iter().filter_map(|(kind, declared)| {
            let wrong = Program::of_type(text, declared, wanted).err()?;
            let wrong = wrong.to_string();
            Some(format!("{kind}: {}", wrong.trim_start_matches("compilation failed: ")))
        });
        let told: Vec<String> = told.collect();
        if !text.is_empty() && !told.is_empty() {
            warnings.push(json!({"fieldRef": path, "warning": told.join("\n")}));
        }
    };
    for (path, rule) in each(policy, "spec.validations") {
        check(format!("{path}.expression"), text_at(rule, "expression"), &[Type::Bool]);
        check(format!("{path}.messageExpression"), text_at(rule, "messageExpression"), &[Type::String]);
    }
    let mut checked = json!({});
    if !warnings.is_empty() {
        checked["expressionWarnings"] = warnings.into();
    }
    json!({"observedGeneration": generation, "typeChecking": checked})
}

/// The kinds that the rules name, one by one.
fn kinds(world: &World<'_>, spec: &Value) -> Vec<Arc<Row>> {
    let catalog = Catalog::of(&world.view);
    let mut found: Vec<Arc<Row>> = Vec::new();
    for rule in list_at(spec, "matchConstraints.resourceRules") {
        let names = |field: &str, name: &str| list_at(rule, field).iter().any(|item| item == name);
        let is_named = |row: &&Arc<Row>| {
            names("apiGroups", &row.kind.group)
                && names("apiVersions", &row.kind.version)
                && names("resources", &row.kind.plural)
        };
        for row in catalog.rows().iter().filter(is_named) {
            if found.len() < KINDS_MAX && !found.iter().any(|known| Arc::ptr_eq(known, row)) {
                found.push(row.clone());
            }
        }
    }
    found
}

fn said(row: &Row) -> String {
    format!("{}, Kind={}", row.kind.api_version(), row.kind.name)
}

/// The names of the policy's expressions, with an object of a kind.
fn declared(spec: &Value, row: &Row) -> Declarations {
    let definitions = Definitions::of(&row.kind);
    let root = json!({"$ref": format!("{REF}{}", definitions.root)});
    let type_ = type_of(&root, &definitions.all, 0);
    let declared = policy::declared(spec).with("object", type_.clone()).with("oldObject", type_);
    policy::with_variables(spec, declared).0
}

/// What a schema says of the type. Text with a format may be seen as something else, and is left open.
fn type_of(schema: &Value, all: &BTreeMap<String, Value>, depth: usize) -> Type {
    if depth > DEPTH_MAX {
        return Type::Dyn;
    }
    if let Some(name) = schema["$ref"].as_str().and_then(|target| target.strip_prefix(REF)) {
        return all.get(name).map_or(Type::Dyn, |definition| type_of(definition, all, depth));
    }
    // A field that may be null is described by the list of what it may be.
    for several in ["allOf", "anyOf", "oneOf"] {
        let mut real = list_at(schema, several).iter().filter(|one| one["type"] != "null");
        if let (Some(one), None) = (real.next(), real.next()) {
            return type_of(one, all, depth);
        }
    }
    if schema["x-kubernetes-int-or-string"] == true || schema["x-kubernetes-preserve-unknown-fields"] == true {
        return Type::Dyn;
    }
    let named = match &schema["type"] {
        Value::Array(several) => several.iter().filter_map(Value::as_str).find(|name| *name != "null"),
        one => one.as_str(),
    };
    match named.unwrap_or_default() {
        "boolean" => Type::Bool,
        "integer" => Type::Int,
        "number" => Type::Double,
        "string" if schema["format"].is_null() => Type::String,
        "array" => Type::list(type_of(&schema["items"], all, depth + 1)),
        "object" if schema["properties"].is_object() => {
            let fields = schema["properties"].as_object().into_iter().flatten();
            let fields = fields.map(|(name, field)| (name.clone(), type_of(field, all, depth + 1)));
            Type::object("object", fields.collect::<Vec<_>>())
        }
        "object" if schema["additionalProperties"].is_object() => {
            Type::map(Type::String, type_of(&schema["additionalProperties"], all, depth + 1))
        }
        _ => Type::Dyn,
    }
}
