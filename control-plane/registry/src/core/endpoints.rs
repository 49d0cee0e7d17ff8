//! Endpoints: what EndpointSlices were called before; kept for clients that still write their own.

use copepod_api::Scope;
use k8s_openapi::api::core::v1::Endpoints;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Row,
    json::{items, number, text},
    row::{self, AGE, Column, Hooks, NAME, column, kind},
};

/// How many addresses the table names.
const SHOWN_MAX: usize = 3;

const COLUMNS: &[Column] = &[NAME, column("Endpoints", "string", "The addresses and ports."), AGE];

pub fn row() -> Row {
    Row::new(
        kind::<Endpoints>("endpoints", "endpoints", &["ep"], Scope::Namespaced, &[]),
        Hooks {
            default: |object| {
                for subset in crate::json::each(object, "subsets") {
                    for port in crate::json::each(subset, "ports") {
                        crate::json::default(port, "protocol", "TCP");
                    }
                }
            },
            validate: |object, _| Endpoints::deserialize(object).map(|_| ()).map_err(|error| error.to_string()),
            columns: COLUMNS,
            cells: |object, now| vec![row::name(object), json!(addresses(object.value())), row::age(object, now)],
            ..Hooks::NONE
        },
    )
}

fn addresses(object: &Value) -> String {
    let mut all = Vec::new();
    for subset in items(object, "/subsets") {
        for address in items(subset, "/addresses").iter().filter_map(|address| text(address, "/ip")) {
            let ports = items(subset, "/ports");
            if ports.is_empty() {
                all.push(address.to_owned());
            }
            all.extend(ports.iter().filter_map(|port| number(port, "/port")).map(|port| format!("{address}:{port}")));
        }
    }
    match all.len() {
        0 => "<none>".to_owned(),
        count if count > SHOWN_MAX => format!("{} + {} more...", all[..SHOWN_MAX].join(","), count - SHOWN_MAX),
        _ => all.join(","),
    }
}
