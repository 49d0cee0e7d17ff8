//! Ways to run containers: `node.k8s.io/v1`.

use copepod_api::{Scope, names};
use k8s_openapi::api::node::v1::RuntimeClass;
use serde_json::json;

use crate::{
    Row,
    row::{self, AGE, Column, Hooks, NAME, column, kind},
    rules::{Part, immutable, text_at},
};

const COLUMNS: &[Column] = &[NAME, column("Handler", "string", "The runtime's own name for it."), AGE];

pub(crate) fn rows() -> Vec<Row> {
    vec![Row::new(
        kind::<RuntimeClass>("runtimeclasses", "runtimeclass", &[], Scope::Cluster, &[]),
        Hooks {
            validate: |class, errors| {
                let class = Part::whole(class);
                class.required("handler", errors);
                class.named("handler", names::dns_label, errors);
                class.amounts("overhead.podFixed", errors);
                Ok(())
            },
            validate_update: |new, old, errors| immutable(new, old, &["handler"], errors),
            columns: COLUMNS,
            cells: |object, now| {
                vec![row::name(object), json!(text_at(object.value(), "handler")), row::age(object, now)]
            },
            ..Hooks::NONE
        },
    )]
}
