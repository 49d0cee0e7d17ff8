//! Patches of all sorts change a document or are refused: a JSON document, a line end, a patch.
#![no_main]

use std::sync::{Arc, LazyLock};

use copepod_api::{
    Kind, Schema, Scope, Timestamp,
    apply::{self, Manager},
    decode::{self, Limits},
    k8s_openapi::api::core::v1::Pod,
    kind::SchemaSource,
    patch,
};
use libfuzzer_sys::fuzz_target;
use schemars::JsonSchema;

static SCHEMA: LazyLock<Arc<Schema>> = LazyLock::new(|| {
    Schema::of(&Kind {
        group: "".into(),
        version: "v1".into(),
        name: "Pod".into(),
        plural: "pods".into(),
        singular: "pod".into(),
        short: Vec::new(),
        categories: Vec::new(),
        scope: Scope::Namespaced,
        subresources: Vec::new(),
        schema: SchemaSource::Type(Pod::json_schema),
    })
});

fuzz_target!(|bytes: &[u8]| {
    let Some(at) = bytes.iter().position(|byte| *byte == b'\n') else { return };
    let limits = Limits::default();
    let (Ok((document, _)), Ok((change, _))) = (decode::json(&bytes[..at], &limits), decode::json(&bytes[at..], &limits))
    else {
        return;
    };
    let merged = patch::merge(document.clone(), &change);
    assert_eq!(patch::merge(merged.clone(), &change), merged, "a merge patch that is repeated changes nothing");
    let _ = patch::json(&document, &change);
    let _ = patch::strategic(&SCHEMA, &document, &change);
    let _ = SCHEMA.check(&document);
    let manager = Manager { name: "fuzz".into(), subresource: String::new(), api_version: "v1".into() };
    if document.is_object() && change.is_object() {
        let now = Timestamp::UNIX_EPOCH;
        if let Ok(first) = apply::apply(&SCHEMA, Some(&document), &change, &manager, true, now) {
            let again = apply::apply(&SCHEMA, Some(&first), &change, &manager, true, now);
            assert_eq!(again.expect("what was applied"), first, "applying twice is applying once");
        }
    }
});
