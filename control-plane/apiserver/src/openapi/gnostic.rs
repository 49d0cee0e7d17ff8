//! OpenAPI v2 in protobuf: the messages of `openapi.v2` as client-go reads them.
//!
//! Only what our documents hold is written. Maps are lists of named entries there, and what has no message (defaults,
//! extensions) is a text in YAML, of which JSON is a part.

use serde_json::{Map, Value};

use copepod_protobuf::wire::{put_bytes, put_double, put_message, put_number};

pub const MEDIA_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// How clients ask for it, though such a name is no media type.
pub const ASKED_FOR_AS: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// `openapi.v2.Document`.
pub fn document(document: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    texts(&mut out, document, &[(1, "swagger")]);
    put_message(&mut out, 2, |out| texts(out, &document["info"], &[(1, "title"), (2, "version")]));
    put_message(&mut out, 8, |out| named(out, 2, &document["paths"], path_item));
    put_message(&mut out, 9, |out| named(out, 1, &document["definitions"], schema));
    for requirement in list(&document["security"]) {
        put_message(&mut out, 12, |out| {
            named(out, 1, requirement, |out, scopes| list(scopes).for_each(|scope| text(out, 1, scope)));
        });
    }
    put_message(&mut out, 13, |out| {
        named(out, 1, &document["securityDefinitions"], |out, item| {
            put_message(out, 2, |out| texts(out, item, &[(1, "type"), (2, "name"), (3, "in"), (4, "description")]));
        });
    });
    out
}

fn path_item(out: &mut Vec<u8>, item: &Value) {
    for (number, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")] {
        if item[method].is_object() {
            put_message(out, number, |out| operation(out, &item[method]));
        }
    }
    list(&item["parameters"]).for_each(|own| put_message(out, 9, |out| parameter(out, own)));
}

fn operation(out: &mut Vec<u8>, operation: &Value) {
    list(&operation["tags"]).for_each(|own| text(out, 1, own));
    texts(out, operation, &[(3, "description"), (5, "operationId")]);
    list(&operation["produces"]).for_each(|own| text(out, 6, own));
    list(&operation["consumes"]).for_each(|own| text(out, 7, own));
    list(&operation["parameters"]).for_each(|own| put_message(out, 8, |out| parameter(out, own)));
    put_message(out, 9, |out| {
        named(out, 1, &operation["responses"], |out, response| {
            put_message(out, 1, |out| {
                texts(out, response, &[(1, "description")]);
                if response["schema"].is_object() {
                    put_message(out, 2, |out| put_message(out, 1, |out| schema(out, &response["schema"])));
                }
            });
        });
    });
    list(&operation["schemes"]).for_each(|own| text(out, 10, own));
    extensions(out, 13, operation);
}

/// `ParametersItem`, which holds a `Parameter`, which holds one of body, query or path.
fn parameter(out: &mut Vec<u8>, own: &Value) {
    put_message(out, 1, |out| match own["in"].as_str() {
        Some("body") => put_message(out, 1, |out| {
            texts(out, own, &[(1, "description"), (2, "name"), (3, "in")]);
            flags(out, own, &[(4, "required")]);
            if own["schema"].is_object() {
                put_message(out, 5, |out| schema(out, &own["schema"]));
            }
        }),
        Some("path") => put_message(out, 2, |out| {
            put_message(out, 4, |out| {
                flags(out, own, &[(1, "required"), (18, "uniqueItems")]);
                texts(out, own, &[(2, "in"), (3, "description"), (4, "name"), (5, "type"), (6, "format")]);
            });
        }),
        _ => put_message(out, 2, |out| {
            put_message(out, 3, |out| {
                flags(out, own, &[(1, "required"), (19, "uniqueItems")]);
                texts(out, own, &[(2, "in"), (3, "description"), (4, "name"), (6, "type"), (7, "format")]);
            });
        }),
    });
}

fn schema(out: &mut Vec<u8>, own: &Value) {
    texts(out, own, &[(1, "$ref"), (2, "format"), (3, "title"), (4, "description"), (13, "pattern")]);
    flags(out, own, &[(8, "exclusiveMaximum"), (10, "exclusiveMinimum"), (16, "uniqueItems")]);
    for (number, name) in [(6, "multipleOf"), (7, "maximum"), (9, "minimum")] {
        if let Some(value) = own[name].as_f64() {
            put_double(out, number, value);
        }
    }
    let counts = ["maxLength", "minLength", "maxItems", "minItems", "maxProperties", "minProperties"];
    for (number, name) in [11, 12, 14, 15, 17, 18].into_iter().zip(counts) {
        if let Some(value) = own[name].as_u64() {
            put_number(out, number, value);
        }
    }
    if !own["default"].is_null() {
        any(out, 5, &own["default"]);
    }
    list(&own["required"]).for_each(|name| text(out, 19, name));
    list(&own["enum"]).for_each(|value| any(out, 20, value));
    match &own["additionalProperties"] {
        Value::Bool(allows) => put_message(out, 21, |out| put_number(out, 2, u64::from(*allows))),
        Value::Object(_) => {
            put_message(out, 21, |out| put_message(out, 1, |out| schema(out, &own["additionalProperties"])));
        }
        _ => {}
    }
    if own["type"].is_string() {
        put_message(out, 22, |out| text(out, 1, &own["type"]));
    }
    if own["items"].is_object() {
        put_message(out, 23, |out| put_message(out, 1, |out| schema(out, &own["items"])));
    }
    if own["properties"].is_object() {
        put_message(out, 25, |out| named(out, 1, &own["properties"], schema));
    }
    extensions(out, 31, own);
}

/// The entries of a map: each a message with a name and a value.
fn named(out: &mut Vec<u8>, number: u64, map: &Value, write: impl Fn(&mut Vec<u8>, &Value)) {
    for (name, value) in map.as_object().into_iter().flatten() {
        put_message(out, number, |out| {
            put_bytes(out, 1, name.as_bytes());
            put_message(out, 2, |out| write(out, value));
        });
    }
}

fn extensions(out: &mut Vec<u8>, number: u64, own: &Value) {
    let all: Map<String, Value> = own.as_object().cloned().unwrap_or_default();
    for (name, value) in all.iter().filter(|(name, _)| name.starts_with("x-")) {
        put_message(out, number, |out| {
            put_bytes(out, 1, name.as_bytes());
            any(out, 2, value);
        });
    }
}

fn any(out: &mut Vec<u8>, number: u64, value: &Value) {
    put_message(out, number, |out| put_bytes(out, 2, format!("{value}\n").as_bytes()));
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(out: &mut Vec<u8>, number: u64, value: &Value) {
    put_bytes(out, number, value.as_str().unwrap_or_default().as_bytes());
}

fn texts(out: &mut Vec<u8>, own: &Value, fields: &[(u64, &str)]) {
    for (number, name) in fields {
        if let Some(value) = own[*name].as_str() {
            put_bytes(out, *number, value.as_bytes());
        }
    }
}

fn flags(out: &mut Vec<u8>, own: &Value, fields: &[(u64, &str)]) {
    for (number, name) in fields {
        if own[*name] == true {
            put_number(out, *number, 1);
        }
    }
}
