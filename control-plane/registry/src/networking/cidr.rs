//! The addresses of services as objects.

use copepod_api::{Scope, field::Errors};
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use serde_json::{Value, json};

use crate::{
    Row,
    row::{self, AGE, Column, Hooks, NAME, STATUS, column, kind},
    rules::{Part, at, each, immutable, list_at, text_at},
};

pub fn address() -> Row {
    const COLUMNS: &[Column] = &[NAME, column("ParentRef", "string", "Who has the address.")];
    Row::new(
        kind::<IPAddress>("ipaddresses", "ipaddress", &["ip"], Scope::Cluster, &[]),
        Hooks {
            validate: |address, errors| {
                let whole = Part::whole(address);
                whole.required("spec.parentRef", errors);
                whole.required("spec.parentRef.resource", errors);
                whole.required("spec.parentRef.name", errors);
                Ok(())
            },
            validate_update: |new, old, errors| immutable(new, old, &["spec.parentRef"], errors),
            columns: COLUMNS,
            cells: |object, _| {
                let parent = at(object.value(), "spec.parentRef");
                let parts = ["group", "resource", "namespace", "name"].map(|field| text_at(parent, field));
                let shown: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
                vec![row::name(object), json!(shown.join("/"))]
            },
            name_rule: |name| match name.parse::<std::net::IpAddr>() {
                Ok(address) if address.to_string() == name => Ok(()),
                Ok(address) => Err(format!("must be in canonical form (\"{address}\")")),
                Err(_) => Err("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()),
            },
            ..Hooks::NONE
        },
    )
}

pub fn range() -> Row {
    const COLUMNS: &[Column] = &[NAME, column("CIDRs", "string", "The addresses that services may get."), AGE];
    Row::new(
        kind::<ServiceCIDR>("servicecidrs", "servicecidr", &[], Scope::Cluster, &[STATUS]),
        Hooks {
            validate: |range, errors| {
                validate(range, errors);
                Ok(())
            },
            validate_update: |new, old, errors| immutable(new, old, &["spec.cidrs"], errors),
            columns: COLUMNS,
            cells: |object, now| {
                let cidrs: Vec<&str> = list_at(object.value(), "spec.cidrs").iter().filter_map(Value::as_str).collect();
                vec![row::name(object), json!(cidrs.join(",")), row::age(object, now)]
            },
            generation: true,
            ..Hooks::NONE
        },
    )
}

fn validate(range: &Value, errors: &mut Errors) {
    let cidrs = list_at(range, "spec.cidrs");
    if cidrs.is_empty() {
        errors.required("spec.cidrs", "at least one CIDR required");
    }
    if cidrs.len() > 2 {
        errors.invalid("spec.cidrs", cidrs, "may only hold up to 2 values");
    }
    for (path, cidr) in each(range, "spec.cidrs") {
        let text = cidr.as_str().unwrap_or_default();
        let is_network = text.split_once('/').is_some_and(|(address, bits)| {
            let width =
                address.parse::<std::net::IpAddr>().ok().map(|address| if address.is_ipv4() { 32 } else { 128 });
            width.is_some_and(|width| bits.parse::<u32>().is_ok_and(|bits| bits <= width))
        });
        if !is_network {
            errors.invalid(path, text, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
        }
    }
}
