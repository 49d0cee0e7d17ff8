//! Structural schemas: what a schema must say so that objects can be pruned, defaulted and merged by it.
//! The rules are those of KEP-1152 and of the documentation of CustomResourceDefinitions.

use copepod_api::{field::Errors, schema::pattern_fault};

use crate::rules::{Part, at, each, map_at, text_at};

/// How deep a schema may nest.
const DEPTH_MAX: usize = 64;

const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];

/// The schema of whole objects.
pub fn validate(schema: &Part<'_>, errors: &mut Errors) {
    if text_at(schema.value, "type") != "object" {
        errors.invalid(schema.path_of("type"), text_at(schema.value, "type"), "must be object at the root");
    }
    part(schema, 0, errors);
}

fn part(schema: &Part<'_>, depth: usize, errors: &mut Errors) {
    if depth > DEPTH_MAX {
        errors.invalid(schema.path, "", &format!("may not nest deeper than {DEPTH_MAX}"));
        return;
    }
    let value = schema.value;
    let flag = |name: &str| at(value, name) == true;
    let is_free = flag("x-kubernetes-int-or-string") || flag("x-kubernetes-preserve-unknown-fields");
    let type_ = text_at(value, "type");
    if type_.is_empty() && !is_free {
        errors.required(schema.path_of("type"), "must not be empty for specified object fields");
    }
    schema.one_of("type", TYPES, errors);
    let has_properties = schema.is_set("properties");
    let has_values = at(value, "additionalProperties").is_object();
    if has_properties && has_values {
        let why = "additionalProperties and properties are mutual exclusive";
        errors.forbidden(schema.path_of("additionalProperties"), why);
    }
    if type_ == "array" && !schema.is_set("items") {
        errors.required(schema.path_of("items"), "must be specified");
    }
    for field in [
        "$ref",
        "definitions",
        "dependencies",
        "id",
        "patternProperties",
        "additionalItems",
        "deprecated",
        "discriminator",
    ] {
        if !at(value, field).is_null() {
            errors.forbidden(schema.path_of(field), "is not supported");
        }
    }
    if at(value, "uniqueItems") == true {
        errors.forbidden(
            schema.path_of("uniqueItems"),
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        );
    }
    let pattern = text_at(value, "pattern");
    if let Some(why) = pattern_fault(pattern) {
        let why = format!("must be a valid regular expression, but isn't: {why}");
        errors.invalid(schema.path_of("pattern"), pattern, &why);
    }
    for field in ["allOf", "anyOf", "oneOf"] {
        for (own, inner) in each(value, field) {
            combined(&Part { value: inner, path: &schema.path_of(&own) }, depth + 1, errors);
        }
    }
    if at(value, "not").is_object() {
        combined(&Part { value: at(value, "not"), path: &schema.path_of("not") }, depth + 1, errors);
    }
    lists(schema, errors);
    for (name, property) in map_at(value, "properties") {
        let path = format!("{}[{name}]", schema.path_of("properties"));
        part(&Part { value: property, path: &path }, depth + 1, errors);
    }
    for field in ["items", "additionalProperties"] {
        if at(value, field).is_object() {
            let path = schema.path_of(field);
            part(&Part { value: at(value, field), path: &path }, depth + 1, errors);
        }
    }
}

/// A schema inside a combination says something of values and nothing of what fields there are.
fn combined(schema: &Part<'_>, depth: usize, errors: &mut Errors) {
    if depth > DEPTH_MAX {
        errors.invalid(schema.path, "", &format!("may not nest deeper than {DEPTH_MAX}"));
        return;
    }
    let value = schema.value;
    // The one combination that says what there is: a number or a text.
    let is_choice = ["integer", "string"].contains(&text_at(value, "type"));
    if schema.is_set("type") && !is_choice {
        errors.forbidden(schema.path_of("type"), "must be empty to be structural");
    }
    for field in ["additionalProperties", "default", "nullable"] {
        if !at(value, field).is_null() && at(value, field) != false {
            errors.forbidden(schema.path_of(field), "must be undefined to be structural");
        }
    }
    let pattern = text_at(value, "pattern");
    if let Some(why) = pattern_fault(pattern) {
        let why = format!("must be a valid regular expression, but isn't: {why}");
        errors.invalid(schema.path_of("pattern"), pattern, &why);
    }
    for field in ["allOf", "anyOf", "oneOf"] {
        for (own, inner) in each(value, field) {
            combined(&Part { value: inner, path: &schema.path_of(&own) }, depth + 1, errors);
        }
    }
    for (name, inner) in map_at(value, "properties") {
        let path = format!("{}[{name}]", schema.path_of("properties"));
        combined(&Part { value: inner, path: &path }, depth + 1, errors);
    }
    for field in ["items", "not"] {
        if at(value, field).is_object() {
            combined(&Part { value: at(value, field), path: &schema.path_of(field) }, depth + 1, errors);
        }
    }
}

fn lists(schema: &Part<'_>, errors: &mut Errors) {
    schema.one_of("x-kubernetes-list-type", &["atomic", "map", "set"], errors);
    schema.one_of("x-kubernetes-map-type", &["atomic", "granular"], errors);
    let is_map = text_at(schema.value, "x-kubernetes-list-type") == "map";
    if is_map && !schema.is_set("x-kubernetes-list-map-keys") {
        errors.required(
            schema.path_of("x-kubernetes-list-map-keys"),
            "must not be empty if x-kubernetes-list-type is map",
        );
    }
    if !is_map && schema.is_set("x-kubernetes-list-map-keys") {
        errors.required(
            schema.path_of("x-kubernetes-list-type"),
            "must be map if x-kubernetes-list-map-keys is non-empty",
        );
    }
}
