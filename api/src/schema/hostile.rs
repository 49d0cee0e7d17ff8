//! Nothing that a client can send makes the walks along a schema panic.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{Schema, testing};
use crate::{Timestamp, apply, patch};

/// Values with the names that schemas and patches look for, in places where they do not belong.
fn value() -> impl Strategy<Value = Value> {
    let name = prop::sample::select(vec![
        "metadata",
        "spec",
        "name",
        "containers",
        "ports",
        "containerPort",
        "env",
        "labels",
        "finalizers",
        "rules",
        "id",
        "tags",
        "size",
        "whole",
        "template",
        "managedFields",
        "fieldsV1",
        "f:spec",
        "k:{}",
        "$patch",
        "$retainKeys",
        "replace",
        "delete",
        "$setElementOrder/containers",
        "$deleteFromPrimitiveList/finalizers",
        "manager",
        "operation",
        "volumes",
        "x",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        Just(json!(1.5)),
        name.clone().prop_map(Value::from),
        Just(json!("Apply")),
    ];
    leaf.prop_recursive(6, 48, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
            prop::collection::vec((name.clone(), inner), 0..6).prop_map(|fields| Value::Object(
                fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
            )),
        ]
    })
}

fn object() -> impl Strategy<Value = Value> {
    (value(), value()).prop_map(|(metadata, spec)| {
        Value::Object(Map::from_iter([("metadata".to_owned(), metadata), ("spec".to_owned(), spec)]))
    })
}

proptest! {
    #[test]
    fn no_object_and_no_patch_panics(live in object(), sent in object(), anything in value(), is_custom: bool) {
        let schema = Schema::of(&if is_custom { testing::custom() } else { testing::pod() });
        let manager = apply::Manager { name: "m".into(), subresource: String::new(), api_version: "v1".into() };
        for value in [&live, &anything] {
            schema.check(value);
            let mut value = value.clone();
            schema.normalize(&mut value);
            schema.fill_defaults(&mut value);
            schema.prune(&mut value);
            prop_assert!(schema.check(&value).unknown.is_empty());
            let mut again = value.clone();
            schema.normalize(&mut again);
            schema.prune(&mut again);
            prop_assert_eq!(again, value);
        }
        let _ = patch::json(&live, &anything);
        let _ = patch::strategic(&schema, &live, &sent);
        let merged = patch::merge(live.clone(), &anything);
        prop_assert_eq!(patch::merge(merged.clone(), &anything), merged);
        let mut after = sent.clone();
        apply::track(&schema, Some(&live), &mut after, &manager, Timestamp::UNIX_EPOCH);
        let apply = |live: &Value, at: i64| {
            apply::apply(&schema, Some(live), &sent, &manager, true, Timestamp::from_second(at).unwrap())
        };
        if let Ok(once) = apply(&live, 1) {
            prop_assert_eq!(apply(&once, 2).unwrap(), once);
        }
    }
}
