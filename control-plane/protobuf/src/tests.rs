//! The encoding is tried with an object of every kind that is served, each with all its fields filled.

use copepod_api::openapi::{self, Served};
use copepod_registry::rows;
use serde_json::{Map, Value, json};

use super::{
    MAGIC, decode, frame, known,
    table::{Item, messages},
    whole,
    wire::put_bytes,
};

fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, content.len() as u8], content].concat()
}

fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let types = [bytes(1, api_version.as_bytes()), bytes(2, kind.as_bytes())].concat();
    [MAGIC.to_vec(), bytes(1, &types), bytes(2, raw), bytes(3, b""), bytes(4, b"")].concat()
}

/// A value of what a schema describes, with everything in it; `depth` ends what contains itself.
fn filled(schemas: &Value, schema: &Value, depth: usize) -> Option<Value> {
    if let Some(name) = schema["$ref"].as_str().or_else(|| schema["allOf"][0]["$ref"].as_str()) {
        let name = name.rsplit('/').next().unwrap();
        return match name.rsplit('.').next().unwrap() {
            "MicroTime" => Some(json!("2026-01-02T03:04:05.000006Z")),
            "Time" => Some(json!("2026-01-02T03:04:05Z")),
            "Quantity" => Some(json!("100m")),
            "IntOrString" => Some(json!("http")),
            "FieldsV1" => Some(json!({"f:data": {}})),
            "RawExtension" | "JSON" => Some(json!({"any": [1, {"thing": null}]})),
            // A message without fields.
            "CustomResourceSubresourceStatus" => Some(json!({})),
            "JSONSchemaPropsOrBool" | "JSONSchemaPropsOrArray" | "JSONSchemaPropsOrStringArray" => {
                Some(json!({"type": "string"}))
            }
            // It holds itself in ten fields.
            "JSONSchemaProps" => filled(schemas, &schemas[name], depth.checked_sub(1)?.min(1)),
            _ => filled(schemas, &schemas[name], depth.checked_sub(1)?),
        };
    }
    Some(match schema["type"].as_str() {
        Some("string") => match schema["format"].as_str() {
            Some("byte") => json!("AAEC/w=="),
            Some("date-time") => json!("2026-01-02T03:04:05Z"),
            _ => json!("text"),
        },
        Some("integer") => json!(7),
        Some("number") => json!(1.5),
        Some("boolean") => json!(true),
        Some("array") => json!([filled(schemas, &schema["items"], depth)?]),
        Some("object") if schema["properties"].is_object() => {
            let properties = schema["properties"].as_object().unwrap().iter();
            let object: Map<String, Value> =
                properties.filter_map(|(name, of)| Some((name.clone(), filled(schemas, of, depth)?))).collect();
            // What would be deeper was cut off: an empty object that may not be absent counts as absent.
            return (!object.is_empty()).then_some(Value::Object(object));
        }
        Some("object") if schema["additionalProperties"].is_object() => {
            json!({"key": filled(schemas, &schema["additionalProperties"], depth)?})
        }
        _ if schema["x-kubernetes-int-or-string"] == true => json!(80),
        _ => json!({"any": ["thing"]}),
    })
}

/// One filled object of every kind that is served.
fn every_kind() -> impl Iterator<Item = Value> {
    rows().iter().map(|row| {
        let kind = &row.kind;
        let served = [Served { kind, verbs: &["get"] }];
        let document = openapi::document(&kind.group, &kind.version, &served);
        let schemas = &document["components"]["schemas"];
        let is_root = |schema: &Value| {
            schema["x-kubernetes-group-version-kind"].as_array().is_some_and(|kinds| {
                kinds.iter().any(|own| own["kind"] == *kind.name && own["version"] == *kind.version)
            })
        };
        let root = schemas.as_object().unwrap().values().find(|schema| is_root(schema));
        let mut object = filled(schemas, root.unwrap(), 12).unwrap();
        object["apiVersion"] = json!(kind.api_version());
        object["kind"] = json!(kind.name);
        // A claim inside a StatefulSet does not say in protobuf what it is; defaults say it again.
        if let Some(claim) = object.pointer_mut("/spec/volumeClaimTemplates/0").and_then(Value::as_object_mut) {
            claim.remove("apiVersion");
            claim.remove("kind");
        }
        object
    })
}

fn written(object: &Value) -> Vec<u8> {
    let (api_version, kind) = (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
    let known = known(api_version, kind).unwrap_or_else(|| panic!("fields.tsv lacks {api_version} {kind}"));
    whole(&known, object)
}

/// Where two values differ first.
fn difference(one: &Value, other: &Value) -> Option<String> {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let fields: std::collections::BTreeSet<&String> = one.keys().chain(other.keys()).collect();
            fields.into_iter().find_map(|field| match (one.get(field), other.get(field)) {
                (Some(one), Some(other)) => difference(one, other).map(|rest| format!(".{field}{rest}")),
                (one, other) => Some(format!(".{field}: {one:?} and {other:?}")),
            })
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            one.iter().zip(other).find_map(|(one, other)| difference(one, other)).map(|rest| format!("[]{rest}"))
        }
        _ => (one != other).then(|| format!(": {one} and {other}")),
    }
}

#[test]
fn every_kind_served_comes_back_as_it_was() {
    for object in every_kind() {
        let read = decode(&written(&object)).unwrap();
        assert_eq!(difference(&read, &object), None, "{} {}", object["apiVersion"], object["kind"]);
    }
}

/// What was read from spoiled bytes is written and read again as the same: nothing panics, nothing is half read.
#[test]
fn whatever_can_be_read_can_be_written() {
    const ROUNDS: usize = 200;
    let mut dice = 1_u64;
    let mut throw = |below: usize| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) as usize % below
    };
    let mut n_read = 0;
    for object in every_kind() {
        let body = written(&object);
        for _ in 0..ROUNDS {
            let mut spoiled = body.clone();
            for _ in 0..=throw(4) {
                let place = throw(spoiled.len());
                match throw(3) {
                    0 => spoiled[place] = throw(256) as u8,
                    1 => drop(spoiled.remove(place)),
                    _ => spoiled.insert(place, throw(256) as u8),
                }
            }
            if let Ok(read) = decode(&spoiled) {
                n_read += 1;
                let again = decode(&written(&read)).unwrap();
                assert_eq!(difference(&again, &read), None, "{}", object["kind"]);
            }
        }
    }
    assert!(n_read > ROUNDS, "{n_read}");
}

#[test]
fn schemas_of_custom_kinds_come_back_in_all_their_forms() {
    let known = known("apiextensions.k8s.io/v1", "CustomResourceDefinition").unwrap();
    let schema = json!({
        "$ref": "#/x", "maximum": 1.5, "minimum": -3, "default": {"a": null}, "enum": ["a", 1, null],
        "items": {"type": "string"}, "additionalProperties": true, "additionalItems": {"x-kubernetes-int-or-string": true},
        "dependencies": {"a": ["b"], "c": {"type": "object"}}, "x-kubernetes-validations": [{"rule": "true"}],
        "allOf": [{"items": [{"type": "string"}, {"type": "integer"}]}], "not": {"additionalProperties": false},
    });
    let object = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": schema}}]},
    });
    assert_eq!(decode(&whole(&known, &object)).unwrap(), object);
}

#[test]
fn every_type_of_the_table_is_known() {
    for (name, message) in messages() {
        for field in message.fields.values() {
            if let Item::Message(inner) = field.kind.item() {
                assert!(messages().contains_key(inner), "{name}: {inner}");
            }
        }
    }
}

#[test]
fn events_of_a_watch_are_frames() {
    let known = known("v1", "ConfigMap").unwrap();
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    let mut out = Vec::new();
    frame(&mut out, "ADDED", &known, &object);
    let body = whole(&known, &object);
    let event = [bytes(1, b"ADDED"), bytes(2, &bytes(1, &body))].concat();
    assert_eq!(out, [(event.len() as u32).to_be_bytes().to_vec(), event].concat());
}

#[test]
fn what_is_nested_too_deeply_is_refused() {
    let inside = |inner: Vec<u8>, number: u64| {
        let mut outer = Vec::new();
        put_bytes(&mut outer, number, &inner);
        outer
    };
    let schema = (0..5_000).fold(Vec::new(), |inner, _| inside(inner, 28));
    let definition = [1, 4, 7, 2].into_iter().fold(schema, inside);
    let mut whole = MAGIC.to_vec();
    put_bytes(&mut whole, 1, &[bytes(1, b"apiextensions.k8s.io/v1"), bytes(2, b"CustomResourceDefinition")].concat());
    put_bytes(&mut whole, 2, &definition);
    assert!(decode(&whole).unwrap_err().message().contains("nested deeper"));
}

#[test]
fn an_eviction_is_read() {
    let metadata = [bytes(1, b"web"), bytes(2, b""), bytes(3, b"default"), bytes(8, b"")].concat();
    let options = [vec![1 << 3, 30], bytes(4, b"Background")].concat();
    let raw = [bytes(1, &metadata), bytes(2, &options)].concat();
    assert_eq!(
        decode(&body("policy/v1", "Eviction", &raw)).unwrap(),
        json!({
            "apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"name": "web", "namespace": "default"},
            "deleteOptions": {"gracePeriodSeconds": 30, "propagationPolicy": "Background"},
        })
    );
}

#[test]
fn what_can_be_absent_may_be_zero_and_the_rest_is_absent_where_it_is() {
    let selector = bytes(1, &[bytes(1, b"app"), bytes(2, b"")].concat());
    let spec = [vec![1 << 3, 0], bytes(2, &selector), vec![5 << 3, 0], vec![7 << 3, 0]].concat();
    let raw = [bytes(1, &bytes(1, b"web")), bytes(2, &spec)].concat();
    assert_eq!(
        decode(&body("apps/v1", "Deployment", &raw)).unwrap()["spec"],
        json!({"replicas": 0, "selector": {"matchLabels": {"app": ""}}})
    );
}

#[test]
fn spoiled_bodies_are_refused() {
    let whole = body("v1", "ConfigMap", &bytes(1, &bytes(1, b"a")));
    for end in 0..whole.len() {
        let _ = decode(&whole[..end]);
    }
    assert!(decode(b"{}").is_err());
    assert!(decode(&body("v1", "ConfigMap", &[0xff; 12])).is_err());
    assert_eq!(decode(&body("example.com/v1", "Cheese", b"")).unwrap_err().code(), 415);
}
