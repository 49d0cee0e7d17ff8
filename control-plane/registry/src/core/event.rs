//! Events: what happened to an object, for people.

use copepod_api::{
    Object, Scope, Timestamp,
    field::{Errors, Path},
};
use k8s_openapi::api::core::v1::Event;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Row, age,
    json::{number, text},
    row::{self, Column, Hooks, column, field_text, kind, wide},
};

pub const COLUMNS: &[Column] = &[
    column("Last Seen", "string", "When it happened last."),
    column("Type", "string", "Normal or Warning."),
    column("Reason", "string", "One word."),
    column("Object", "string", "What it happened to."),
    wide("Subobject", "The part of the object it is about."),
    wide("Source", "Who says so."),
    column("Message", "string", "What happened."),
    wide("First Seen", "When it happened first."),
    wide("Count", "How often."),
    wide("Name", "The name of the event."),
];

pub fn row() -> Row {
    Row::new(
        kind::<Event>("events", "event", &["ev"], Scope::Namespaced, &[]),
        Hooks {
            validate: |object, errors| {
                let event = Event::deserialize(object).map_err(|error| error.to_string())?;
                validate(&event, errors);
                Ok(())
            },
            fields: &[
                ("involvedObject.kind", |object| field_text(object, "/involvedObject/kind")),
                ("involvedObject.namespace", |object| field_text(object, "/involvedObject/namespace")),
                ("involvedObject.name", |object| field_text(object, "/involvedObject/name")),
                ("involvedObject.uid", |object| field_text(object, "/involvedObject/uid")),
                ("involvedObject.apiVersion", |object| field_text(object, "/involvedObject/apiVersion")),
                ("involvedObject.resourceVersion", |object| field_text(object, "/involvedObject/resourceVersion")),
                ("involvedObject.fieldPath", |object| field_text(object, "/involvedObject/fieldPath")),
                ("reason", |object| field_text(object, "/reason")),
                ("reportingComponent", |object| field_text(object, "/reportingComponent")),
                ("source", |object| {
                    field_text(object, "/source/component").or_else(|| field_text(object, "/reportingComponent"))
                }),
                ("type", |object| field_text(object, "/type")),
            ],
            columns: COLUMNS,
            cells,
            ..Hooks::NONE
        },
    )
}

fn validate(event: &Event, errors: &mut Errors) {
    let about = event.involved_object.namespace.as_deref().unwrap_or_default();
    let own = event.metadata.namespace.as_deref().unwrap_or_default();
    let path = Path::root("involvedObject");
    // What stands in no namespace has its events in a namespace that is always there.
    let fits = if about.is_empty() { own == "default" || own == "kube-system" } else { about == own };
    if !fits {
        errors.invalid(path.at("namespace"), about, "does not match event.namespace");
    }
}

pub fn cells(object: &Object, now: Timestamp) -> Vec<Value> {
    let event = object.value();
    let time = |pointer: &str| text(event, pointer).and_then(|at| at.parse::<Timestamp>().ok());
    let first = time("/firstTimestamp").or_else(|| time("/eventTime"));
    let last = time("/series/lastObservedTime").or_else(|| time("/lastTimestamp")).or(first);
    let get = |pointer: &str| text(event, pointer).unwrap_or_default();
    let component = text(event, "/source/component").unwrap_or_else(|| get("/reportingComponent"));
    let host = text(event, "/source/host").unwrap_or_else(|| get("/reportingInstance"));
    let source = if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") };
    let count = number(event, "/series/count").or_else(|| number(event, "/count")).unwrap_or(1);
    vec![
        json!(age::since(last, now)),
        json!(get("/type")),
        json!(get("/reason")),
        json!(format!("{}/{}", get("/involvedObject/kind").to_lowercase(), get("/involvedObject/name"))),
        json!(get("/involvedObject/fieldPath")),
        json!(source),
        json!(get("/message").trim()),
        json!(age::since(first, now)),
        json!(count),
        row::name(object),
    ]
}
