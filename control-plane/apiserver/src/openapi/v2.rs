//! OpenAPI v2: all groups in one document, made out of those of v3.
//!
//! Clients of today read v3. Older ones, and generators of clients, ask for this one. What v2 cannot say (alternatives,
//! values that may be null) is left out, as upstream leaves it out.

use serde_json::{Map, Value, json};

const SCHEMAS: &str = "#/components/schemas/";
const DEFINITIONS: &str = "#/definitions/";

/// One document out of those of all groups and versions.
pub fn document(groups: impl Iterator<Item = Value>) -> Value {
    let (mut definitions, mut paths) = (Map::new(), Map::new());
    for mut group in groups {
        if let Value::Object(schemas) = group["components"]["schemas"].take() {
            for (name, mut schema) in schemas {
                // Kinds of several groups share definitions, and each group says its own of them.
                let own = kinds_of(&mut schema);
                let definition = definitions.entry(name).or_insert_with(|| whole(schema));
                add_kinds(definition, own);
            }
        }
        if let Value::Object(own) = group["paths"].take() {
            paths.extend(own.into_iter().map(|(path, item)| (path, path_item(item))));
        }
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": paths,
        "definitions": definitions,
        "securityDefinitions": {"BearerToken": {
            "type": "apiKey", "description": "Bearer token authentication", "name": "authorization", "in": "header",
        }},
        "security": [{"BearerToken": []}],
    })
}

/// Puts what another program says of its own paths into a document. What both define is ours: it is the machinery that
/// all groups share.
pub fn add(document: &mut Value, program: &Value, prefix: &str) {
    let own = |field: &str| program[field].as_object().into_iter().flatten();
    if let Some(definitions) = document["definitions"].as_object_mut() {
        for (name, definition) in own("definitions") {
            definitions.entry(name).or_insert_with(|| definition.clone());
        }
    }
    if let Some(paths) = document["paths"].as_object_mut() {
        let is_own = |path: &str| path.starts_with(prefix) || Some(path) == prefix.strip_suffix('/');
        paths.extend(own("paths").filter(|(path, _)| is_own(path)).map(|(path, item)| (path.clone(), item.clone())));
    }
}

const KINDS: &str = "x-kubernetes-group-version-kind";

fn kinds_of(schema: &mut Value) -> Vec<Value> {
    match schema.as_object_mut().and_then(|schema| schema.remove(KINDS)) {
        Some(Value::Array(kinds)) => kinds,
        _ => Vec::new(),
    }
}

fn add_kinds(definition: &mut Value, kinds: Vec<Value>) {
    if kinds.is_empty() {
        return;
    }
    if let Some(known) = definition.as_object_mut().map(|definition| definition.entry(KINDS).or_insert(json!([])))
        && let Some(known) = known.as_array_mut()
    {
        for kind in kinds {
            if !known.contains(&kind) {
                known.push(kind);
            }
        }
    }
}

/// A kind that takes any field at all is told as just an object: older clients take the fields that a schema names for
/// all that there are.
fn whole(schema: Value) -> Value {
    match schema["x-kubernetes-preserve-unknown-fields"] == true {
        true => json!({"type": "object"}),
        false => self::schema(schema),
    }
}

/// A schema in the words of v2.
fn schema(value: Value) -> Value {
    let Value::Object(map) = value else { return value };
    let mut out = Map::new();
    for (key, value) in map {
        match (key.as_str(), value) {
            // A reference with siblings is wrapped in v3, and stands beside them in v2.
            ("allOf", Value::Array(all)) => {
                if let Some(target) = all.first().and_then(|only| reference(&only["$ref"])) {
                    out.insert("$ref".to_owned(), target);
                }
            }
            ("$ref", target) => out.extend(reference(&target).map(|target| ("$ref".to_owned(), target))),
            ("oneOf" | "anyOf", _) => {
                // What may be a number or a text is called a text.
                out.entry("type").or_insert(json!("string"));
            }
            ("nullable" | "not", _) => {}
            ("properties", Value::Object(fields)) => {
                let fields: Map<String, Value> =
                    fields.into_iter().map(|(name, field)| (name, schema(field))).collect();
                out.insert(key, Value::Object(fields));
            }
            ("items" | "additionalProperties", value) => drop(out.insert(key, schema(value))),
            (_, value) => drop(out.insert(key, value)),
        }
    }
    Value::Object(out)
}

fn reference(target: &Value) -> Option<Value> {
    Some(json!(format!("{DEFINITIONS}{}", target.as_str()?.strip_prefix(SCHEMAS)?)))
}

fn path_item(item: Value) -> Value {
    let Value::Object(item) = item else { return item };
    let entries = item.into_iter().map(|(name, value)| match name.as_str() {
        "parameters" => (name, parameters(value)),
        _ => (name, operation(value)),
    });
    Value::Object(entries.collect())
}

/// A parameter's type stands in itself.
fn parameters(list: Value) -> Value {
    let Value::Array(list) = list else { return list };
    list.into_iter()
        .map(|mut parameter| {
            if let (Value::Object(schema), Some(own)) = (parameter["schema"].take(), parameter.as_object_mut()) {
                own.remove("schema");
                own.extend(schema);
            }
            parameter
        })
        .collect()
}

fn operation(mut operation: Value) -> Value {
    let mut all = match parameters(operation["parameters"].take()) {
        Value::Array(all) => all,
        _ => Vec::new(),
    };
    let mut body = operation["requestBody"].take();
    if let Value::Object(content) = body["content"].take() {
        operation["consumes"] = content.keys().cloned().collect();
        let first = content.into_iter().next().map(|(_, mut first)| schema(first["schema"].take()));
        let is_required = body["required"] == true;
        all.push(json!({"name": "body", "in": "body", "required": is_required, "schema": first}));
    }
    for response in operation["responses"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        if let Value::Object(content) = response["content"].take() {
            let first = content.into_iter().next().map(|(_, mut first)| schema(first["schema"].take()));
            response["schema"] = first.into();
        }
        if let Some(response) = response.as_object_mut() {
            response.remove("content");
        }
    }
    operation["parameters"] = all.into();
    operation["produces"] = json!(["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"]);
    operation["schemes"] = json!(["https"]);
    if let Some(operation) = operation.as_object_mut() {
        operation.remove("requestBody");
    }
    operation
}
