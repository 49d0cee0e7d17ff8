//! What holds for any object of any kind: writing and reading it back, applying it twice, and patches.
//!
//! Objects are made from the published schemas with dice, so whatever fields a kind gets are tried from then on.

use std::{collections::BTreeMap, sync::LazyLock};

use copepod_api::{
    Timestamp,
    apply::{self, Manager},
    decode::{self, Limits},
    openapi::{self, Served},
    patch,
    schema::{Place, Schema},
};
use copepod_registry::rows;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// A kind with what is published of it.
struct Known {
    api_version: String,
    kind: String,
    schema: std::sync::Arc<Schema>,
    root: String,
    definitions: Value,
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.api_version, self.kind)
    }
}

static KINDS: LazyLock<Vec<Known>> = LazyLock::new(|| {
    let known = rows().iter().map(|row| {
        let kind = &row.kind;
        let document = openapi::document(&kind.group, &kind.version, &[Served { kind, verbs: &["get"] }]);
        let definitions = document["components"]["schemas"].clone();
        let is_root = |schema: &Value| {
            schema["x-kubernetes-group-version-kind"].as_array().is_some_and(|kinds| {
                kinds.iter().any(|own| own["kind"] == *kind.name && own["version"] == *kind.version)
            })
        };
        let root = definitions.as_object().unwrap().iter().find(|(_, schema)| is_root(schema)).unwrap().0.clone();
        let (api_version, name) = (kind.api_version(), kind.name.to_string());
        Known { api_version, kind: name, schema: row.schema().clone(), root, definitions }
    });
    known.collect()
});

struct Dice(u64);

impl Dice {
    fn throw(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.throw(of.len() as u64) as usize]
    }
}

const TEXTS: &[&str] =
    &["", "a", "text", "ä\n\t\"x\"", "yes", "0644", "1e3", "null", "~", " padded ", "#: {", "2026-11-23"];

impl Known {
    fn object(&self, dice: &mut Dice) -> Value {
        let mut object = self.value(&json!({"$ref": format!("#/{}", self.root)}), dice, 9).unwrap_or_default();
        object["apiVersion"] = self.api_version.clone().into();
        object["kind"] = self.kind.clone().into();
        let metadata = object.as_object_mut().unwrap().entry("metadata").or_insert_with(|| json!({}));
        metadata.as_object_mut().unwrap().remove("managedFields");
        // A claim inside a StatefulSet does not say in protobuf what it is; defaults say it again.
        for claim in
            object.pointer_mut("/spec/volumeClaimTemplates").and_then(Value::as_array_mut).into_iter().flatten()
        {
            claim.as_object_mut().unwrap().retain(|field, _| field != "apiVersion" && field != "kind");
        }
        object
    }

    fn value(&self, schema: &Value, dice: &mut Dice, depth: usize) -> Option<Value> {
        if let Some(name) = schema["$ref"].as_str().or_else(|| schema["allOf"][0]["$ref"].as_str()) {
            let name = name.rsplit('/').next()?;
            return match name.rsplit('.').next()? {
                "MicroTime" => Some(json!("2026-01-02T03:04:05.000006Z")),
                "Time" => Some(json!(dice.one(&["2026-01-02T03:04:05Z", "1999-12-31T23:59:59Z"]))),
                "Quantity" => Some(json!(dice.one(&["0", "100m", "1Gi", "1500m", "12e3", "7"]))),
                "IntOrString" => Some(if dice.throw(2) == 0 { json!(80) } else { json!("25%") }),
                "FieldsV1" => Some(json!({"f:data": {}})),
                "RawExtension" | "JSON" => Some(json!({"any": [1, {"thing": null}]})),
                "CustomResourceSubresourceStatus" => Some(json!({})),
                "JSONSchemaPropsOrBool" | "JSONSchemaPropsOrArray" | "JSONSchemaPropsOrStringArray" => {
                    Some(json!({"type": "string"}))
                }
                "JSONSchemaProps" => self.value(&self.definitions[name], dice, depth.checked_sub(1)?.min(1)),
                _ => self.value(&self.definitions[name], dice, depth.checked_sub(1)?),
            };
        }
        Some(match schema["type"].as_str() {
            Some("string") => match schema["format"].as_str() {
                Some("byte") => json!(dice.one(&["AAEC/w==", "YQ==", ""])),
                Some("date-time") => json!("2026-01-02T03:04:05Z"),
                _ => json!(dice.one(TEXTS)),
            },
            Some("integer") => json!([0, 1, 7, i32::MAX][dice.throw(4) as usize]),
            Some("number") => json!(1.5),
            Some("boolean") => json!(dice.throw(2) == 0),
            Some("array") => {
                let many = (0..dice.throw(4)).filter_map(|place| {
                    let mut item = self.value(&schema["items"], dice, depth)?;
                    distinguish(schema, &mut item, place);
                    Some(item)
                });
                Value::Array(many.collect())
            }
            Some("object") if schema["properties"].is_object() => {
                let properties = schema["properties"].as_object()?.iter();
                let object: Map<String, Value> = properties
                    .filter_map(|(name, of)| {
                        let is_there = dice.throw(3) > 0;
                        Some((name.clone(), self.value(of, dice, depth).filter(|_| is_there)?))
                    })
                    .collect();
                Value::Object(object)
            }
            Some("object") if schema["additionalProperties"].is_object() => {
                let entries = (0..dice.throw(3)).filter_map(|place| {
                    Some((format!("key{place}"), self.value(&schema["additionalProperties"], dice, depth)?))
                });
                Value::Object(entries.collect())
            }
            _ if schema["x-kubernetes-int-or-string"] == true => json!(80),
            _ => json!({"any": ["thing"]}),
        })
    }
}

/// Entries of a list that is a map or a set differ.
fn distinguish(schema: &Value, item: &mut Value, place: u64) {
    let merge = schema["x-kubernetes-patch-merge-key"].as_str();
    let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten().filter_map(Value::as_str);
    for key in keys.chain(merge) {
        let is_number = item[key].is_number() || ["port", "containerPort"].contains(&key);
        item[key] = if is_number { json!(place + 1) } else { json!(format!("entry{place}")) };
    }
    if item.is_string()
        && (schema["x-kubernetes-list-type"] == "set" || !schema["x-kubernetes-patch-strategy"].is_null())
    {
        *item = json!(format!("entry{place}"));
    }
}

/// Without what protobuf cannot tell from nothing.
fn bare(value: &Value) -> Value {
    let is_nothing = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(is) => !is,
        Value::Number(number) => number.as_f64() == Some(0.0),
    };
    match value {
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| (name.clone(), bare(value)));
            Value::Object(fields.filter(|(_, value)| !is_nothing(value)).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(bare).collect()),
        other => other.clone(),
    }
}

/// RFC 7386, as it is written there.
fn merge_naively(target: &Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else { return patch.clone() };
    let mut merged = target.as_object().cloned().unwrap_or_default();
    for (name, value) in patch {
        if value.is_null() {
            merged.remove(name);
        } else {
            let merge = merge_naively(merged.get(name).unwrap_or(&Value::Null), value);
            merged.insert(name.clone(), merge);
        }
    }
    Value::Object(merged)
}

/// A strategic merge without directives: objects by field, lists by key or value where the kind says so.
fn merge_strategically(place: Place<'_>, target: Option<&Value>, patch: &Value) -> Value {
    match (target, patch) {
        (target, Value::Object(patch)) if !place.patch().is_replaced => {
            let mut merged = target.and_then(Value::as_object).cloned().unwrap_or_default();
            for (name, value) in patch {
                let inner = merge_strategically(place.field(name), merged.get(name), value);
                match value.is_null() {
                    true => drop(merged.remove(name)),
                    false => drop(merged.insert(name.clone(), inner)),
                }
            }
            Value::Object(merged)
        }
        (Some(Value::Array(own)), Value::Array(patch)) if place.patch().is_merged => {
            let mut merged = own.clone();
            for item in patch {
                let same = |other: &Value| match &place.patch().key {
                    Some(key) => other.get(&**key) == item.get(&**key),
                    None => other == item,
                };
                match merged.iter().position(same) {
                    Some(at) => merged[at] = merge_strategically(place.items(), Some(&merged[at]), item),
                    None => merged.push(item.clone()),
                }
            }
            Value::Array(merged)
        }
        (_, patch) => patch.clone(),
    }
}

/// Lists that are merged come in an order that the patch decides; what is in them is what counts.
fn sorted(value: &Value) -> Value {
    match value {
        // Nulls inside what is not merged but taken whole are dropped, as with any value that a patch brings.
        Value::Object(fields) => {
            let fields = fields.iter().filter(|(_, value)| !value.is_null());
            fields.map(|(name, value)| (name.clone(), sorted(value))).collect()
        }
        Value::Array(items) => {
            let by_text: BTreeMap<String, Value> =
                items.iter().map(sorted).enumerate().map(|(at, item)| (format!("{item} {at}"), item)).collect();
            by_text.into_values().collect()
        }
        other => other.clone(),
    }
}

fn case() -> impl Strategy<Value = (&'static Known, u64)> {
    (0..KINDS.len(), any::<u64>()).prop_map(|(kind, seed)| (&KINDS[kind], seed))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_written_is_read_as_it_was((kind, seed) in case()) {
        let object = kind.object(&mut Dice(seed));
        let bytes = decode::to_json(&object);
        let (read, duplicates) = decode::json(&bytes, &Limits::default()).unwrap();
        prop_assert_eq!(difference(&read, &object), None);
        prop_assert!(duplicates.is_empty());
        let (read, _) = decode::yaml(decode::to_yaml(&object).as_bytes(), &Limits::default()).unwrap();
        prop_assert_eq!(difference(&read, &object), None);
        let known = copepod_protobuf::known(&kind.api_version, &kind.kind).unwrap();
        let read = copepod_protobuf::decode(&copepod_protobuf::whole(&known, &object)).unwrap();
        prop_assert_eq!(difference(&bare(&read), &bare(&object)), None, "through protobuf");
        let again = copepod_protobuf::decode(&copepod_protobuf::whole(&known, &read)).unwrap();
        prop_assert_eq!(difference(&again, &read), None);
    }

    #[test]
    fn whatever_the_schema_describes_is_of_the_kind_and_normal_once((kind, seed) in case()) {
        let mut object = kind.object(&mut Dice(seed));
        let findings = kind.schema.check(&object);
        prop_assert!(findings.is_empty(), "{}: {:?}", kind.kind, findings);
        kind.schema.normalize(&mut object);
        let mut again = object.clone();
        kind.schema.normalize(&mut again);
        prop_assert_eq!(difference(&again, &object), None);
    }

    #[test]
    fn applying_twice_is_applying_once((kind, seed) in case()) {
        let object = kind.object(&mut Dice(seed));
        let manager = Manager { name: "me".into(), subresource: String::new(), api_version: kind.api_version.clone() };
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let Ok(first) = apply::apply(&kind.schema, None, &object, &manager, false, at(1)) else { return Ok(()) };
        let second = apply::apply(&kind.schema, Some(&first), &object, &manager, false, at(2)).unwrap();
        prop_assert_eq!(difference(&second, &first), None);
    }

    #[test]
    fn merge_patches_do_what_the_standard_says((kind, seed) in case()) {
        let mut dice = Dice(seed);
        let object = kind.object(&mut dice);
        let mut change = kind.object(&mut dice);
        sprinkle(&mut change, &mut dice);
        prop_assert_eq!(difference(&patch::merge(object.clone(), &change), &merge_naively(&object, &change)), None);
    }

    #[test]
    fn strategic_patches_agree_with_a_plain_formulation((kind, seed) in case()) {
        let mut dice = Dice(seed);
        let object = kind.object(&mut dice);
        let change = kind.object(&mut dice);
        let expected = merge_strategically(kind.schema.root(), Some(&object), &change);
        let merged = patch::strategic(&kind.schema, &object, &change).unwrap();
        prop_assert_eq!(difference(&sorted(&merged), &sorted(&expected)), None);
        let same = patch::strategic(&kind.schema, &object, &object).unwrap();
        prop_assert_eq!(difference(&sorted(&same), &sorted(&object)), None);
    }
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

/// Nulls here and there.
fn sprinkle(value: &mut Value, dice: &mut Dice) {
    for (_, value) in value.as_object_mut().into_iter().flatten() {
        match dice.throw(6) {
            0 => *value = Value::Null,
            _ => sprinkle(value, dice),
        }
    }
}
