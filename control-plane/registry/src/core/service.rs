//! Services. The cluster address and the node ports of a service are given out here, in the transaction that stores it.

use std::collections::BTreeSet;

use copepod_api::{
    Kind, Object, Scope, Status, StatusResult, Subresource, Timestamp,
    field::{Errors, Path},
    names,
};
use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::allocate;
use crate::{
    Row, json as fields,
    json::{items, number, text},
    pipeline::World,
    row::{self, AGE, Column, Hooks, NAME, PROXY_VERBS, STATUS, column, field_text, in_all, kind, wide},
};

const PROXY: Subresource =
    Subresource { name: "proxy", kind: Some(("", "v1", "ServiceProxyOptions")), verbs: PROXY_VERBS };

const COLUMNS: &[Column] = &[
    NAME,
    column("Type", "string", "How it is reached."),
    column("Cluster-IP", "string", "Its address in the cluster."),
    column("External-IP", "string", "Its addresses outside."),
    column("Port(s)", "string", "Its ports, and after a colon their node ports."),
    AGE,
    wide("Selector", "The labels of its pods."),
];

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const AFFINITY_SECONDS_MAX: i32 = 86_400;
const AFFINITY_SECONDS: i32 = 10_800;

fn services() -> Kind {
    in_all(kind::<Service>("services", "service", &["svc"], Scope::Namespaced, &[PROXY, STATUS]))
}

pub fn row() -> Row {
    Row::new(
        services(),
        Hooks {
            default,
            admit: |world, object| allocate(world, object, None),
            admit_update: |world, object, old| {
                keep_allocations(object, old.value());
                allocate(world, object, Some(old.value()))
            },
            validate: |object, errors| {
                validate(&Service::deserialize(object).map_err(|error| error.to_string())?, errors);
                Ok(())
            },
            validate_update,
            fields: &[
                ("spec.clusterIP", |object| field_text(object, "/spec/clusterIP")),
                ("spec.type", |object| field_text(object, "/spec/type")),
            ],
            columns: COLUMNS,
            cells,
            returns_deleted: true,
            name_rule: names::dns1035_label,
            ..Hooks::NONE
        },
    )
}

fn kind_of(object: &Value) -> &str {
    text(object, "/spec/type").unwrap_or("ClusterIP")
}

fn is_headless(object: &Value) -> bool {
    text(object, "/spec/clusterIP") == Some("None")
}

fn has_node_ports(object: &Value) -> bool {
    match kind_of(object) {
        "NodePort" => true,
        "LoadBalancer" => {
            object.pointer("/spec/allocateLoadBalancerNodePorts").and_then(Value::as_bool).unwrap_or(true)
        }
        _ => false,
    }
}

fn default(object: &mut Value) {
    let kind = kind_of(object).to_owned();
    let status = fields::object(object, "status").map(|status| fields::default(status, "loadBalancer", json!({})));
    let Some(spec) = status.and_then(|()| fields::object(object, "spec")) else { return };
    fields::default(spec, "type", "ClusterIP");
    fields::default(spec, "sessionAffinity", "None");
    if text(spec, "/sessionAffinity") == Some("ClientIP") {
        let seconds = json!({"clientIP": {"timeoutSeconds": AFFINITY_SECONDS}});
        fields::default(spec, "sessionAffinityConfig", seconds);
    }
    if kind != "ExternalName" {
        fields::default(spec, "internalTrafficPolicy", "Cluster");
        fields::default(spec, "ipFamilyPolicy", "SingleStack");
        fields::default(spec, "ipFamilies", json!(["IPv4"]));
    }
    if ["NodePort", "LoadBalancer"].contains(&&*kind) {
        fields::default(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        fields::default(spec, "allocateLoadBalancerNodePorts", true);
    }
    if text(spec, "/clusterIP").is_none()
        && let Some(first) = items(spec, "/clusterIPs").first().and_then(Value::as_str).map(str::to_owned)
    {
        fields::set(spec, "clusterIP", first);
    }
    for port in fields::each(spec, "ports") {
        fields::default(port, "protocol", "TCP");
        let target = port.get("targetPort");
        if target.is_none_or(|target| target == 0 || target == "")
            && let Some(own) = port.get("port").cloned()
        {
            fields::set(port, "targetPort", own);
        }
    }
}

/// An update that does not name the cluster address or a node port keeps them: clients apply manifests without them.
fn keep_allocations(object: &mut Value, old: &Value) {
    let external = kind_of(object) == "ExternalName";
    let ported = has_node_ports(object);
    let Some(spec) = fields::object(object, "spec") else { return };
    let old_spec = old.get("spec").unwrap_or(&Value::Null);
    if external {
        for field in ["clusterIP", "clusterIPs"] {
            if spec.get(field) == old_spec.get(field) {
                fields::remove(spec, field);
            }
        }
    } else if text(spec, "/clusterIP").is_none() {
        fields::take_over(spec, "clusterIP", old_spec);
        fields::take_over(spec, "clusterIPs", old_spec);
    } else if spec.get("clusterIP") == old_spec.get("clusterIP") {
        fields::take_over(spec, "clusterIPs", old_spec);
    }
    for port in fields::each(spec, "ports") {
        let before = items(old_spec, "/ports")
            .iter()
            .find(|before| before.get("port") == port.get("port") && before.get("protocol") == port.get("protocol"))
            .and_then(|before| before.get("nodePort"));
        match before {
            Some(before) if ported && number(port, "/nodePort").unwrap_or(0) == 0 => {
                fields::set(port, "nodePort", before.clone());
            }
            Some(number) if !ported && port.get("nodePort") == Some(number) => fields::remove(port, "nodePort"),
            _ => {}
        }
    }
}

/// Gives a service its address and ports, as far as it has none and needs some.
fn allocate(world: &mut World<'_>, object: &mut Value, old: Option<&Value>) -> StatusResult<()> {
    let name = text(object, "/metadata/name").unwrap_or_default().to_owned();
    let mut errors = Errors::default();
    let needs_address = kind_of(object) != "ExternalName" && !is_headless(object);
    let needs_ports = has_node_ports(object);
    let path = Path::root("spec");
    let Some(spec) = fields::object(object, "spec") else { return Ok(()) };

    if needs_address {
        let wanted = text(spec, "/clusterIP").map(str::to_owned);
        let before = old.and_then(|old| text(old, "/spec/clusterIP"));
        match wanted {
            Some(wanted) => {
                if before != Some(&*wanted)
                    && let Ok(address) = wanted.parse()
                {
                    allocate::claim_service_address(world, address, &path.at("clusterIPs").index(0), &mut errors);
                }
            }
            None => match allocate::service_address(world) {
                Some(address) => fields::set(spec, "clusterIP", address.to_string()),
                None => {
                    let why = format!("every address of the service range {} is taken", allocate::SERVICE_RANGE_TEXT);
                    errors.add("InternalError", path.at("clusterIPs"), why);
                }
            },
        }
    }
    if let Some(address) = text(spec, "/clusterIP").map(str::to_owned) {
        fields::set(spec, "clusterIPs", json!([address]));
    }

    let before: BTreeSet<i64> = old
        .into_iter()
        .flat_map(|old| items(old, "/spec/ports"))
        .filter_map(|port| number(port, "/nodePort"))
        .collect();
    for (index, port) in fields::each(spec, "ports").enumerate().filter(|_| needs_ports) {
        let ports = path.at("ports");
        match number(port, "/nodePort").unwrap_or(0) {
            0 => match allocate::node_port(world) {
                Some(number) => fields::set(port, "nodePort", number),
                None => {
                    let (first, last) = allocate::NODE_PORTS;
                    let why = format!("every node port of {first}-{last} is taken");
                    errors.add("InternalError", ports.index(index).at("nodePort"), why);
                }
            },
            wanted if before.contains(&wanted) => {}
            wanted => {
                let number = u32::try_from(wanted).unwrap_or(0);
                allocate::claim_node_port(world, number, &ports.index(index).at("nodePort"), &mut errors);
            }
        }
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Status::invalid(&services(), &name, errors)),
    }
}

fn validate(service: &Service, errors: &mut Errors) {
    let root = Path::root("spec");
    let empty = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&empty);
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
    let headless = spec.cluster_ip.as_deref() == Some("None");
    let ports = spec.ports.as_deref().unwrap_or_default();

    if !TYPES.contains(&kind) {
        errors.not_supported(root.at("type"), kind, TYPES);
    }
    if ports.is_empty() && !headless && kind != "ExternalName" {
        errors.required(root.at("ports"), "");
    }
    if headless && ["NodePort", "LoadBalancer"].contains(&kind) {
        errors.invalid(
            root.at("clusterIPs").index(0),
            "None",
            &format!("may not be set to 'None' for {kind} services"),
        );
    }
    if kind == "ExternalName" {
        if spec.cluster_ip.as_deref().is_some_and(|address| !address.is_empty()) {
            errors.forbidden(root.at("clusterIPs"), "may not be set for ExternalName services");
        }
        match spec.external_name.as_deref().unwrap_or_default().trim_end_matches('.') {
            "" => errors.required(root.at("externalName"), ""),
            name => {
                if let Err(why) = names::dns_subdomain(name) {
                    errors.invalid(root.at("externalName"), name, &why);
                }
            }
        }
    } else if let Some(address) = spec.cluster_ip.as_deref().filter(|address| !address.is_empty() && !headless)
        && address.parse::<std::net::Ipv4Addr>().is_err()
    {
        errors.invalid(root.at("clusterIPs").index(0), address, "must be a valid IPv4 address");
    }
    for (key, value) in spec.selector.iter().flatten() {
        if let Err(why) = names::label_key(key) {
            errors.invalid(root.at("selector"), key, &why);
        }
        if let Err(why) = names::label_value(value) {
            errors.invalid(root.at("selector"), value, &why);
        }
    }
    match spec.session_affinity.as_deref() {
        Some("ClientIP") => {
            let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
            if let Some(seconds) = config.and_then(|config| config.timeout_seconds)
                && !(1..=AFFINITY_SECONDS_MAX).contains(&seconds)
            {
                let why = format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}");
                errors.invalid(root.at("sessionAffinityConfig").at("clientIP").at("timeoutSeconds"), seconds, &why);
            }
        }
        None | Some("None") => {}
        Some(other) => errors.not_supported(root.at("sessionAffinity"), other, &["ClientIP", "None"]),
    }
    for (field, policy) in [
        ("externalTrafficPolicy", &spec.external_traffic_policy),
        ("internalTrafficPolicy", &spec.internal_traffic_policy),
    ] {
        match policy.as_deref() {
            None | Some("Cluster" | "Local") => {}
            Some(other) => errors.not_supported(root.at(field), other, &["Cluster", "Local"]),
        }
    }
    validate_ports(ports, kind, &root.at("ports"), errors);
}

fn validate_ports(ports: &[ServicePort], kind: &str, path: &Path<'_>, errors: &mut Errors) {
    let mut names_seen = BTreeSet::new();
    let mut numbers_seen = BTreeSet::new();
    let mut node_ports_seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        match port.name.as_deref().unwrap_or_default() {
            "" if ports.len() > 1 => errors.required(path.at("name"), ""),
            "" => {}
            name => {
                if let Err(why) = names::dns_label(name) {
                    errors.invalid(path.at("name"), name, &why);
                } else if !names_seen.insert(name) {
                    errors.duplicate(path.at("name"), name);
                }
            }
        }
        if let Err(why) = names::port_number(port.port.into()) {
            errors.invalid(path.at("port"), port.port, &why);
        }
        let protocol = port.protocol.as_deref().unwrap_or_default();
        match protocol {
            "" => errors.required(path.at("protocol"), ""),
            known if PROTOCOLS.contains(&known) => {}
            other => errors.not_supported(path.at("protocol"), other, PROTOCOLS),
        }
        match &port.target_port {
            Some(IntOrString::Int(number)) => {
                if let Err(why) = names::port_number((*number).into()) {
                    errors.invalid(path.at("targetPort"), number, &why);
                }
            }
            Some(IntOrString::String(name)) => {
                if let Err(why) = names::port_name(name) {
                    errors.invalid(path.at("targetPort"), name, &why);
                }
            }
            None => {}
        }
        if !numbers_seen.insert((port.port, protocol)) {
            errors.duplicate(path, json!({"port": port.port, "protocol": protocol}));
        }
        if let Some(number) = port.node_port.filter(|number| *number != 0) {
            if !["NodePort", "LoadBalancer"].contains(&kind) {
                let why = "may not be used when `type` is 'ClusterIP'";
                errors.forbidden(path.at("nodePort"), why);
            } else if !node_ports_seen.insert((number, protocol)) {
                errors.duplicate(path.at("nodePort"), number);
            }
        }
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    let external = |object: &Value| kind_of(object) == "ExternalName";
    if external(new) || external(old) {
        return;
    }
    let address = |object: &Value| text(object, "/spec/clusterIP").map(str::to_owned);
    if address(old).is_some() && address(new) != address(old) {
        let path = Path::root("spec");
        errors.invalid(path.at("clusterIPs").index(0), json!([address(new)]), "may not change once set");
    }
}

fn cells(object: &Object, now: Timestamp) -> Vec<Value> {
    let service = object.value();
    let selector: Vec<String> = service
        .pointer("/spec/selector")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    vec![
        row::name(object),
        json!(kind_of(service)),
        json!(text(service, "/spec/clusterIP").unwrap_or("<none>")),
        json!(external_addresses(service)),
        json!(ports(service)),
        row::age(object, now),
        json!(if selector.is_empty() { "<none>".to_owned() } else { selector.join(",") }),
    ]
}

fn external_addresses(service: &Value) -> String {
    let outside = items(service, "/spec/externalIPs").iter().filter_map(Value::as_str);
    let ingress = items(service, "/status/loadBalancer/ingress")
        .iter()
        .filter_map(|entry| text(entry, "/ip").or_else(|| text(entry, "/hostname")));
    let all: Vec<&str> = match kind_of(service) {
        "ExternalName" => return text(service, "/spec/externalName").unwrap_or("<none>").to_owned(),
        "LoadBalancer" => ingress.chain(outside).collect(),
        _ => outside.collect(),
    };
    match (all.is_empty(), kind_of(service)) {
        (true, "LoadBalancer") => "<pending>".to_owned(),
        (true, _) => "<none>".to_owned(),
        (false, _) => all.join(","),
    }
}

fn ports(service: &Value) -> String {
    let ports: Vec<String> = items(service, "/spec/ports")
        .iter()
        .map(|port| {
            let own = number(port, "/port").unwrap_or(0);
            let protocol = text(port, "/protocol").unwrap_or("TCP");
            match number(port, "/nodePort").filter(|number| *number > 0) {
                Some(node) => format!("{own}:{node}/{protocol}"),
                None => format!("{own}/{protocol}"),
            }
        })
        .collect();
    if ports.is_empty() { "<none>".to_owned() } else { ports.join(",") }
}
