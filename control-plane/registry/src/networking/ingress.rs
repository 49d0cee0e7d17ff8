//! Ingresses: which request from outside goes to which service.

use copepod_api::{Object, Scope, Timestamp, field::Errors, names};
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use serde_json::{Value, json};

use crate::{
    Row, json as fields,
    row::{self, AGE, Column, Hooks, NAME, STATUS, column, kind},
    rules::{Part, at, each, immutable, list_at, text_at},
};

/// How a class was chosen before there was a field for it.
const CLASS: &str = "kubernetes.io/ingress.class";

/// How many hosts are shown.
const SHOWN_MAX: usize = 3;

pub fn row() -> Row {
    const COLUMNS: &[Column] = &[
        NAME,
        column("Class", "string", "Who serves it."),
        column("Hosts", "string", "The hosts it is for."),
        column("Address", "string", "Where it is served."),
        column("Ports", "string", "On which ports."),
        AGE,
    ];
    Row::new(
        kind::<Ingress>("ingresses", "ingress", &["ing"], Scope::Namespaced, &[STATUS]),
        Hooks {
            validate: |ingress, errors| {
                validate(ingress, errors);
                Ok(())
            },
            columns: COLUMNS,
            cells,
            generation: true,
            ..Hooks::NONE
        },
    )
}

fn validate(ingress: &Value, errors: &mut Errors) {
    let spec = Part { value: at(ingress, "spec"), path: "spec" };
    if !spec.is_set("rules") && !spec.is_set("defaultBackend") {
        errors.invalid("spec", [(); 0], "either `defaultBackend` or `rules` must be specified");
    }
    if spec.is_set("defaultBackend") {
        backend(&Part { value: at(spec.value, "defaultBackend"), path: "spec.defaultBackend" }, errors);
    }
    spec.named("ingressClassName", names::dns_subdomain, errors);
    for (path, rule) in each(ingress, "spec.rules") {
        let part = Part { value: rule, path: &path };
        let host = text_at(rule, "host");
        if host.parse::<std::net::IpAddr>().is_ok() {
            errors.invalid(part.path_of("host"), host, "must be a DNS name, not an IP address");
        }
        part.named(
            "host",
            if host.starts_with('*') { names::wildcard_dns_subdomain } else { names::dns_subdomain },
            errors,
        );
        if part.is_set("http") && !part.is_set("http.paths") {
            errors.required(part.path_of("http.paths"), "");
        }
        for (own, way) in each(rule, "http.paths") {
            let path = part.path_of(&own);
            one_path(&Part { value: way, path: &path }, errors);
        }
    }
    for (path, tls) in each(ingress, "spec.tls") {
        for (own, host) in each(tls, "hosts") {
            let host = host.as_str().unwrap_or_default();
            let rule = if host.starts_with('*') { names::wildcard_dns_subdomain } else { names::dns_subdomain };
            if let Err(why) = rule(host) {
                errors.invalid(format!("{path}.{own}"), host, &why);
            }
        }
        Part { value: tls, path: &path }.named("secretName", names::dns_subdomain, errors);
    }
}

fn one_path(way: &Part<'_>, errors: &mut Errors) {
    const TYPES: &[&str] = &["Exact", "ImplementationSpecific", "Prefix"];
    let (path, type_) = (text_at(way.value, "path"), text_at(way.value, "pathType"));
    if type_.is_empty() {
        errors.required(way.path_of("pathType"), "pathType must be specified");
    } else {
        way.one_of("pathType", TYPES, errors);
    }
    if ["Exact", "Prefix"].contains(&type_) {
        if !path.starts_with('/') {
            errors.invalid(way.path_of("path"), path, "must be an absolute path");
        }
        for sequence in ["//", "/./", "/../", "%2f", "%2F"].iter().filter(|sequence| path.contains(**sequence)) {
            errors.invalid(way.path_of("path"), path, &format!("must not contain '{sequence}'"));
        }
        for end in ["/..", "/."].iter().filter(|end| path.ends_with(**end)) {
            errors.invalid(way.path_of("path"), path, &format!("cannot end with '{end}'"));
        }
    } else if !path.is_empty() && !path.starts_with('/') {
        errors.invalid(way.path_of("path"), path, "must be an absolute path");
    }
    let own = way.path_of("backend");
    backend(&Part { value: at(way.value, "backend"), path: &own }, errors);
}

fn backend(backend: &Part<'_>, errors: &mut Errors) {
    match (backend.is_set("service"), backend.is_set("resource")) {
        (true, true) => errors.invalid(backend.path, "", "cannot set both resource and service backends"),
        (false, false) => errors.invalid(backend.path, "", "resource or service backend is required"),
        (false, true) => {
            backend.required("resource.kind", errors);
            backend.required("resource.name", errors);
        }
        (true, false) => {
            backend.required("service.name", errors);
            backend.named("service.name", names::dns1035_label, errors);
            let number = at(backend.value, "service.port.number").as_i64().unwrap_or(0);
            match (backend.is_set("service.port.name"), number) {
                (true, 1..) => errors.invalid(backend.path, "", "cannot set both port name & port number"),
                (true, _) => backend.named("service.port.name", names::port_name, errors),
                (false, 0) => errors.required(backend.path, "port name or number is required"),
                (false, number) => {
                    if let Err(why) = names::port_number(number) {
                        errors.invalid(backend.path_of("service.port.number"), number, &why);
                    }
                }
            }
        }
    }
}

fn cells(object: &Object, now: Timestamp) -> Vec<Value> {
    let ingress = object.value();
    let class = match text_at(ingress, "spec.ingressClassName") {
        "" => object.meta.annotations.get(CLASS).unwrap_or("<none>"),
        class => class,
    };
    let hosts: Vec<&str> = list_at(ingress, "spec.rules")
        .iter()
        .map(|rule| text_at(rule, "host"))
        .filter(|host| !host.is_empty())
        .collect();
    let shown = match hosts.len() {
        0 => "*".to_owned(),
        count if count > SHOWN_MAX => format!("{} + {} more...", hosts[..SHOWN_MAX].join(","), count - SHOWN_MAX),
        _ => hosts.join(","),
    };
    let addresses: Vec<&str> = list_at(ingress, "status.loadBalancer.ingress")
        .iter()
        .map(|at| if text_at(at, "ip").is_empty() { text_at(at, "hostname") } else { text_at(at, "ip") })
        .collect();
    let ports = if list_at(ingress, "spec.tls").is_empty() { "80" } else { "80, 443" };
    vec![row::name(object), json!(class), json!(shown), json!(addresses.join(",")), json!(ports), row::age(object, now)]
}

pub fn class() -> Row {
    const COLUMNS: &[Column] = &[
        NAME,
        column("Controller", "string", "Who serves ingresses of this class."),
        column("Parameters", "string", "More that it is told."),
        AGE,
    ];
    Row::new(
        kind::<IngressClass>("ingressclasses", "ingressclass", &[], Scope::Cluster, &[]),
        Hooks {
            default: |class| {
                if let Some(parameters) = class.pointer_mut("/spec/parameters") {
                    fields::default(parameters, "scope", "Cluster");
                }
            },
            validate: |class, errors| {
                let whole = Part::whole(class);
                whole.required("spec.controller", errors);
                let controller = text_at(class, "spec.controller");
                if !controller.is_empty() && !controller.contains('/') {
                    let why = "must be a domain-prefixed path (such as \"acme.io/foo\")";
                    errors.invalid("spec.controller", controller, why);
                }
                if whole.is_set("spec.parameters") {
                    whole.required("spec.parameters.kind", errors);
                    whole.required("spec.parameters.name", errors);
                    whole.one_of("spec.parameters.scope", &["Cluster", "Namespace"], errors);
                    let needs = text_at(class, "spec.parameters.scope") == "Namespace";
                    if needs {
                        whole.required("spec.parameters.namespace", errors);
                    } else if whole.is_set("spec.parameters.namespace") {
                        errors.forbidden("spec.parameters.namespace", "`parameters.scope` is set to 'Cluster'");
                    }
                }
                Ok(())
            },
            validate_update: |new, old, errors| immutable(new, old, &["spec.controller"], errors),
            columns: COLUMNS,
            cells: |object, now| {
                let parameters = at(object.value(), "spec.parameters");
                let kind = match text_at(parameters, "apiGroup") {
                    "" => text_at(parameters, "kind").to_owned(),
                    group => format!("{}.{group}", text_at(parameters, "kind")),
                };
                let shown = match parameters.is_null() {
                    true => "<none>".to_owned(),
                    false => format!("{kind}/{}", text_at(parameters, "name")),
                };
                let controller = text_at(object.value(), "spec.controller");
                vec![row::name(object), json!(controller), json!(shown), row::age(object, now)]
            },
            generation: true,
            ..Hooks::NONE
        },
    )
}
