//! Network policies: which pods may speak to which.

use copepod_api::{
    Scope, field::Errors, k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta, names, selector::LabelSelector,
};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Row, json as fields,
    row::{self, AGE, Column, Hooks, NAME, column, kind},
    rules::{Part, at, each, list_at, text_at},
};

pub fn row() -> Row {
    const COLUMNS: &[Column] = &[NAME, column("Pod-Selector", "string", "The pods it is about."), AGE];
    Row::new(
        kind::<NetworkPolicy>("networkpolicies", "networkpolicy", &["netpol"], Scope::Namespaced, &[]),
        Hooks {
            default,
            validate: |policy, errors| {
                validate(policy, errors);
                Ok(())
            },
            columns: COLUMNS,
            cells: |object, now| {
                let selector = at(object.value(), "spec.podSelector");
                let shown = selector_of(selector).map(|selector| selector.to_string()).unwrap_or_default();
                let shown = if shown.is_empty() { "<none>".to_owned() } else { shown };
                vec![row::name(object), json!(shown), row::age(object, now)]
            },
            generation: true,
            ..Hooks::NONE
        },
    )
}

fn selector_of(value: &Value) -> Result<LabelSelector, String> {
    let typed = meta::LabelSelector::deserialize(value).map_err(|error| error.to_string())?;
    LabelSelector::from_typed(&typed)
}

/// A policy is about what comes in, and about what goes out where it says anything of that.
fn default(policy: &mut Value) {
    let Some(spec) = fields::object(policy, "spec") else { return };
    fields::default(spec, "podSelector", json!({}));
    if list_at(spec, "policyTypes").is_empty() {
        let out = !list_at(spec, "egress").is_empty();
        fields::set(spec, "policyTypes", if out { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
    }
    for direction in ["ingress", "egress"] {
        for rule in fields::each(spec, direction) {
            for port in fields::each(rule, "ports") {
                fields::default(port, "protocol", "TCP");
            }
        }
    }
}

fn validate(policy: &Value, errors: &mut Errors) {
    if let Err(why) = selector_of(at(policy, "spec.podSelector")) {
        errors.invalid("spec.podSelector", at(policy, "spec.podSelector"), &why);
    }
    for (direction, peers) in [("spec.ingress", "from"), ("spec.egress", "to")] {
        for (path, rule) in each(policy, direction) {
            for (own, port) in each(rule, "ports") {
                let path = format!("{path}.{own}");
                one_port(&Part { value: port, path: &path }, errors);
            }
            for (own, peer) in each(rule, peers) {
                let path = format!("{path}.{own}");
                one_peer(&Part { value: peer, path: &path }, errors);
            }
        }
    }
    let types = list_at(policy, "spec.policyTypes");
    if types.len() > 2 {
        errors.invalid("spec.policyTypes", types, "may not specify more than two policyTypes");
    }
    for (path, type_) in each(policy, "spec.policyTypes") {
        let type_ = type_.as_str().unwrap_or_default();
        if !["Egress", "Ingress"].contains(&type_) {
            errors.not_supported(path, type_, &["Egress", "Ingress"]);
        }
    }
}

fn one_port(port: &Part<'_>, errors: &mut Errors) {
    port.one_of("protocol", &["SCTP", "TCP", "UDP"], errors);
    match at(port.value, "port") {
        Value::Number(number) => {
            let number = number.as_i64().unwrap_or(0);
            if let Err(why) = names::port_number(number) {
                errors.invalid(port.path_of("port"), number, &why);
            }
            if let Some(end) = at(port.value, "endPort").as_i64().filter(|end| *end < number) {
                errors.invalid(port.path_of("endPort"), end, "must be greater than or equal to `port`");
            }
        }
        Value::String(_) => {
            port.named("port", names::port_name, errors);
            if port.is_set("endPort") {
                let why = "may not be specified when `port` is non-numeric";
                errors.invalid(port.path_of("endPort"), at(port.value, "endPort"), why);
            }
        }
        _ if port.is_set("endPort") => {
            errors.invalid(
                port.path_of("endPort"),
                at(port.value, "endPort"),
                "may not be specified when `port` is not specified",
            );
        }
        _ => {}
    }
}

fn one_peer(peer: &Part<'_>, errors: &mut Errors) {
    let has = |field: &str| at(peer.value, field).is_object();
    for field in ["podSelector", "namespaceSelector"] {
        if let (true, Err(why)) = (has(field), selector_of(at(peer.value, field))) {
            errors.invalid(peer.path_of(field), at(peer.value, field), &why);
        }
    }
    match (has("podSelector") || has("namespaceSelector"), has("ipBlock")) {
        (true, true) => errors.forbidden(peer.path, "may not specify both ipBlock and another peer"),
        (false, false) => errors.required(peer.path, "must specify a peer"),
        (false, true) => block(peer, errors),
        _ => {}
    }
}

/// `10.0.0.0/8` as a number of bits that stay and the address.
fn network(text: &str) -> Option<(std::net::IpAddr, u32)> {
    let (address, bits) = text.split_once('/')?;
    let (address, bits): (std::net::IpAddr, u32) = (address.parse().ok()?, bits.parse().ok()?);
    (bits <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, bits))
}

fn bits_of(address: std::net::IpAddr) -> (u128, u32) {
    match address {
        std::net::IpAddr::V4(address) => (u128::from(u32::from(address)) << 96, 32),
        std::net::IpAddr::V6(address) => (u128::from(address), 128),
    }
}

fn block(peer: &Part<'_>, errors: &mut Errors) {
    const NO_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
    let cidr = text_at(peer.value, "ipBlock.cidr");
    let whole = network(cidr);
    match (cidr, whole) {
        ("", _) => errors.required(peer.path_of("ipBlock.cidr"), ""),
        (_, None) => errors.invalid(peer.path_of("ipBlock.cidr"), cidr, NO_CIDR),
        _ => {}
    }
    for (own, except) in each(peer.value, "ipBlock.except") {
        let text = except.as_str().unwrap_or_default();
        let Some((address, bits)) = network(text) else {
            errors.invalid(peer.path_of(&own), text, NO_CIDR);
            continue;
        };
        let is_inside = whole.is_some_and(|(outer, outer_bits)| {
            let ((inner, width), (outer, outer_width)) = (bits_of(address), bits_of(outer));
            let mask = if outer_bits == 0 { 0 } else { u128::MAX << (128 - outer_bits) };
            width == outer_width && bits > outer_bits && inner & mask == outer & mask
        });
        if !is_inside {
            errors.invalid(peer.path_of(&own), text, &format!("must be a strict subset of `cidr`: {cidr:?}"));
        }
    }
}
