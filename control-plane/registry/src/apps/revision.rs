//! ControllerRevisions: what a workload looked like once.

use copepod_api::Scope;
use k8s_openapi::api::apps::v1::ControllerRevision;
use serde_json::json;

use crate::{
    Row,
    row::{self, AGE, Column, Hooks, NAME, column, kind},
    rules::{Part, at, immutable},
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Controller", "string", "The workload."),
    column("Revision", "string", "The number of the revision."),
    AGE,
];

pub fn row() -> Row {
    Row::new(
        kind::<ControllerRevision>("controllerrevisions", "controllerrevision", &[], Scope::Namespaced, &[]),
        Hooks {
            validate: |revision, errors| {
                let whole = Part::whole(revision);
                whole.at_least("revision", 0, errors);
                if at(revision, "data").is_null() {
                    errors.required("data", "data is mandatory");
                }
                Ok(())
            },
            validate_update: |new, old, errors| immutable(new, old, &["data"], errors),
            columns: COLUMNS,
            cells: |object, now| {
                let controller = object.meta.controller().map_or_else(
                    || "<none>".to_owned(),
                    |owner| {
                        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
                        let dot = if group.is_empty() { "" } else { "." };
                        format!("{}{dot}{group}/{}", owner.kind.to_lowercase(), owner.name)
                    },
                );
                let revision = at(object.value(), "revision").as_i64().unwrap_or(0);
                vec![row::name(object), json!(controller), json!(revision), row::age(object, now)]
            },
            ..Hooks::NONE
        },
    )
}
