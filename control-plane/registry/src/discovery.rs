//! EndpointSlices: `discovery.k8s.io/v1`.

mod offers;

use copepod_api::{
    Scope,
    field::{Errors, Path},
    names,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Row,
    json::{default, each, items, number, text},
    row::{self, AGE, Column, Hooks, NAME, column, kind},
};

/// One slice is sent whole for one changed address; larger sets are several slices.
const ENDPOINTS_MAX: usize = 1000;
const PORTS_MAX: usize = 20_000;
const ADDRESSES_MAX: usize = 100;

/// How many ports and addresses the table names.
const SHOWN_MAX: usize = 3;

const TYPES: &[&str] = &["FQDN", "IPv4", "IPv6"];

const COLUMNS: &[Column] = &[
    NAME,
    column("AddressType", "string", "IPv4, IPv6 or FQDN."),
    column("Ports", "string", "The ports of the endpoints."),
    column("Endpoints", "string", "Their addresses."),
    AGE,
];

pub(crate) fn rows() -> Vec<Row> {
    vec![endpoint_slice()]
}

fn endpoint_slice() -> Row {
    Row::new(
        kind::<EndpointSlice>("endpointslices", "endpointslice", &[], Scope::Namespaced, &[]),
        Hooks {
            default: |slice| {
                for port in each(slice, "ports") {
                    if port.get("name").is_none() {
                        crate::json::set(port, "name", "");
                    }
                    default(port, "protocol", "TCP");
                }
            },
            validate: |object, errors| {
                validate(&EndpointSlice::deserialize(object).map_err(|error| error.to_string())?, errors);
                Ok(())
            },
            validate_update: |new, old, errors| {
                if new.get("addressType") != old.get("addressType") {
                    errors.invalid("addressType", new.get("addressType"), "field is immutable");
                }
            },
            admit: |world, slice| offers::check(world, slice, None),
            admit_update: |world, slice, live| offers::check(world, slice, Some(live.value())),
            columns: COLUMNS,
            cells: |object, now| {
                let slice = object.value();
                vec![
                    row::name(object),
                    json!(text(slice, "/addressType").unwrap_or_default()),
                    json!(ports(slice)),
                    json!(addresses(slice)),
                    row::age(object, now),
                ]
            },
            generation: true,
            ..Hooks::NONE
        },
    )
}

fn validate(slice: &EndpointSlice, errors: &mut Errors) {
    match &*slice.address_type {
        "" => errors.required("addressType", ""),
        known if TYPES.contains(&known) => {}
        other => errors.not_supported("addressType", other, TYPES),
    }
    let endpoints = slice.endpoints.as_deref().unwrap_or_default();
    let ports = slice.ports.as_deref().unwrap_or_default();
    for (field, count, max) in [("endpoints", endpoints.len(), ENDPOINTS_MAX), ("ports", ports.len(), PORTS_MAX)] {
        if count > max {
            errors.add("FieldValueTooMany", field, format!("Too many: {count}: must have at most {max} items"));
            return;
        }
    }
    let path = Path::root("endpoints");
    for (index, endpoint) in endpoints.iter().enumerate() {
        let path = path.index(index);
        let count = endpoint.addresses.len();
        if count == 0 {
            errors.required(path.at("addresses"), "must contain at least 1 address");
        } else if count > ADDRESSES_MAX {
            let why = format!("Too many: {count}: must have at most {ADDRESSES_MAX} items");
            errors.add("FieldValueTooMany", path.at("addresses"), why);
        }
        for (index, address) in endpoint.addresses.iter().enumerate() {
            let path = path.at("addresses");
            let path = path.index(index);
            let valid = match &*slice.address_type {
                "IPv4" => address
                    .parse::<std::net::Ipv4Addr>()
                    .map_err(|_| "must be a valid IPv4 address".to_owned())
                    .map(|_| ()),
                "IPv6" => address
                    .parse::<std::net::Ipv6Addr>()
                    .map_err(|_| "must be a valid IPv6 address".to_owned())
                    .map(|_| ()),
                _ => names::dns_subdomain(address),
            };
            if let Err(why) = valid {
                errors.invalid(path, address, &why);
            }
        }
    }
    let path = Path::root("ports");
    let mut seen = std::collections::BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let name = port.name.as_deref().unwrap_or_default();
        if !seen.insert(name) {
            errors.duplicate(path.at("name"), name);
        }
        if !name.is_empty()
            && let Err(why) = names::dns_label(name)
        {
            errors.invalid(path.at("name"), name, &why);
        }
        match port.protocol.as_deref() {
            Some("TCP" | "UDP" | "SCTP") => {}
            other => errors.not_supported(path.at("protocol"), other.unwrap_or_default(), &["SCTP", "TCP", "UDP"]),
        }
    }
}

fn listed(mut all: Vec<String>, none: &str) -> String {
    match all.len() {
        0 => none.to_owned(),
        count if count > SHOWN_MAX => {
            all.truncate(SHOWN_MAX);
            format!("{} + {} more...", all.join(","), count - SHOWN_MAX)
        }
        _ => all.join(","),
    }
}

fn ports(slice: &Value) -> String {
    let ports = items(slice, "/ports")
        .iter()
        .map(|port| number(port, "/port").map_or_else(|| "*".to_owned(), |number| number.to_string()))
        .collect();
    listed(ports, "<unset>")
}

fn addresses(slice: &Value) -> String {
    let addresses = items(slice, "/endpoints")
        .iter()
        .flat_map(|endpoint| items(endpoint, "/addresses"))
        .filter_map(|address| address.as_str().map(str::to_owned))
        .collect();
    listed(addresses, "<unset>")
}
