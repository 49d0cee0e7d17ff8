//! What looks at writes before they happen: `admissionregistration.k8s.io/v1`.

mod policy;
mod rules;
mod webhook;

use crate::Row;

pub(crate) fn rows() -> Vec<Row> {
    vec![
        policy::mutating(),
        policy::mutating_binding(),
        webhook::mutating(),
        policy::validating(),
        policy::validating_binding(),
        webhook::validating(),
    ]
}

/// `kubectl get api-extensions` shows it.
fn extension(mut kind: copepod_api::Kind) -> copepod_api::Kind {
    kind.categories = vec!["api-extensions".into()];
    kind
}
