//! `events.k8s.io/v1`: events as their second API says them. They are stored as the first one's.

use copepod_api::{
    Object, Scope, Timestamp,
    field::{Errors, Path},
    names, resource,
};
use k8s_openapi::api::events::v1::Event;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    Row,
    core::event,
    row::{Hooks, Stored, field_text, kind},
};

/// A note is read by people in a list.
const NOTE_BYTES_MAX: usize = 1024;

/// Names of reporters and words that programs compare.
const WORD_BYTES_MAX: usize = 128;

/// The names of fields here and in the core group.
const NAMES: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

pub(crate) fn rows() -> Vec<Row> {
    let kind = kind::<Event>("events", "event", &["ev"], Scope::Namespaced, &[]);
    let stored = Stored {
        resource: resource::EVENTS,
        api_version: "v1".to_owned(),
        store: |event| rename(event, NAMES.iter().copied()),
        show: |event| rename(event, NAMES.iter().map(|(here, core)| (*core, *here))),
    };
    let hooks = Hooks {
        validate: |object, errors| {
            validate(&Event::deserialize(object).map_err(|error| error.to_string())?, errors);
            Ok(())
        },
        fields: &[
            ("regarding.kind", |event| field_text(event, "/regarding/kind")),
            ("regarding.namespace", |event| field_text(event, "/regarding/namespace")),
            ("regarding.name", |event| field_text(event, "/regarding/name")),
            ("regarding.uid", |event| field_text(event, "/regarding/uid")),
            ("regarding.apiVersion", |event| field_text(event, "/regarding/apiVersion")),
            ("regarding.resourceVersion", |event| field_text(event, "/regarding/resourceVersion")),
            ("regarding.fieldPath", |event| field_text(event, "/regarding/fieldPath")),
            ("reason", |event| field_text(event, "/reason")),
            ("reportingController", |event| field_text(event, "/reportingController")),
            ("type", |event| field_text(event, "/type")),
        ],
        columns: event::COLUMNS,
        cells,
        ..Hooks::NONE
    };
    vec![Row::new(kind, hooks).stored_as(stored)]
}

/// What is new in this API is that an event says who reports what was done, and when.
fn validate(event: &Event, errors: &mut Errors) {
    let root = Path::root;
    if event.event_time.is_none() && event.deprecated_first_timestamp.is_none() {
        errors.required(root("eventTime"), "");
    }
    let required = [
        ("reportingController", &event.reporting_controller),
        ("reportingInstance", &event.reporting_instance),
        ("action", &event.action),
        ("reason", &event.reason),
    ];
    for (field, value) in required {
        match value.as_deref().unwrap_or_default() {
            "" => errors.required(root(field), ""),
            text if text.len() > WORD_BYTES_MAX => {
                errors.invalid(root(field), text, &format!("can have at most {WORD_BYTES_MAX} characters"));
            }
            text => {
                if let ("reportingController", Err(why)) = (field, names::qualified_name(text)) {
                    errors.invalid(root(field), text, &why);
                }
            }
        }
    }
    if let Some(note) = event.note.as_ref().filter(|note| note.len() > NOTE_BYTES_MAX) {
        errors.invalid(root("note"), note, &format!("can have at most {NOTE_BYTES_MAX} characters"));
    }
    match event.type_.as_deref() {
        Some("Normal" | "Warning") => {}
        other => errors.not_supported(root("type"), other.unwrap_or_default(), &["Normal", "Warning"]),
    }
}

/// The same as in the core group, whose cells know its names.
fn cells(object: &Object, now: Timestamp) -> Vec<Value> {
    let mut event = object.value().clone();
    rename(&mut event, NAMES.iter().copied());
    object.said(&event).map(|event| event::cells(&event, now)).unwrap_or_default()
}

fn rename<'a>(event: &mut Value, names: impl Iterator<Item = (&'a str, &'a str)>) {
    let Some(fields) = event.as_object_mut() else { return };
    for (from, to) in names {
        if let Some(value) = fields.remove(from) {
            fields.insert(to.to_owned(), value);
        }
    }
}
