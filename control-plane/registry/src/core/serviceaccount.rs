//! ServiceAccounts: who a pod is.

use copepod_api::{Scope, Subresource};
use k8s_openapi::api::core::v1::ServiceAccount;
use serde::Deserialize;
use serde_json::json;

use crate::{
    Row,
    json::items,
    row::{self, AGE, Column, Hooks, NAME, column, kind},
};

const COLUMNS: &[Column] = &[NAME, column("Secrets", "integer", "The number of secrets it names."), AGE];

/// Answered by the front, as nothing is stored.
const TOKEN: Subresource =
    Subresource { name: "token", kind: Some(("authentication.k8s.io", "v1", "TokenRequest")), verbs: &["create"] };

pub fn row() -> Row {
    Row::new(
        kind::<ServiceAccount>("serviceaccounts", "serviceaccount", &["sa"], Scope::Namespaced, &[TOKEN]),
        Hooks {
            validate: |object, _| ServiceAccount::deserialize(object).map(|_| ()).map_err(|error| error.to_string()),
            columns: COLUMNS,
            cells: |object, now| {
                vec![row::name(object), json!(items(object.value(), "/secrets").len()), row::age(object, now)]
            },
            returns_deleted: true,
            ..Hooks::NONE
        },
    )
}
