//! Who serves which group and version: `apiregistration.k8s.io/v1`. This cluster itself, or a program behind a service.

use copepod_api::{Scope, field::Errors, names};
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use serde_json::{Value, json};

use crate::{
    Row, json as fields,
    row::{self, AGE, Column, Hooks, NAME, STATUS, column, kind},
    rules::{Part, at, each, text_at},
};

const GROUP_PRIORITY_MAX: i64 = 20_000;
const VERSION_PRIORITY_MAX: i64 = 1_000;
const HTTPS: i64 = 443;

pub(crate) fn rows() -> Vec<Row> {
    const COLUMNS: &[Column] = &[
        NAME,
        column("Service", "string", "The reference to the service that hosts this API endpoint."),
        column("Available", "string", "Whether this service is available."),
        AGE,
    ];
    let mut kind = kind::<APIService>("apiservices", "apiservice", &[], Scope::Cluster, &[STATUS]);
    kind.categories = vec!["api-extensions".into()];
    vec![Row::new(
        kind,
        Hooks {
            default: |service| {
                if let Some(reference) = service.pointer_mut("/spec/service").filter(|reference| reference.is_object())
                {
                    fields::default(reference, "port", HTTPS);
                }
            },
            validate: |service, errors| {
                validate(service, errors);
                Ok(())
            },
            // The core group has no name, so its service ends in a dot.
            name_rule: names::path_segment,
            columns: COLUMNS,
            cells: |object, now| {
                let service = object.value();
                let reference = at(service, "spec.service");
                let place = match reference.is_object() {
                    true => format!("{}/{}", text_at(reference, "namespace"), text_at(reference, "name")),
                    false => "Local".to_owned(),
                };
                vec![row::name(object), json!(place), json!(available(service)), row::age(object, now)]
            },
            ..Hooks::NONE
        },
    )]
}

/// `True`, or why not.
fn available(service: &Value) -> String {
    let condition = each(service, "status.conditions").find(|(_, condition)| text_at(condition, "type") == "Available");
    match condition {
        None => "Unknown".to_owned(),
        Some((_, condition)) if text_at(condition, "status") == "True" => "True".to_owned(),
        Some((_, condition)) => format!("{} ({})", text_at(condition, "status"), text_at(condition, "reason")),
    }
}

fn validate(service: &Value, errors: &mut Errors) {
    let spec = Part { value: at(service, "spec"), path: "spec" };
    let (group, version) = (text_at(spec.value, "group"), text_at(spec.value, "version"));
    let wanted = format!("{version}.{group}");
    let name = text_at(service, "metadata.name");
    if name != wanted {
        errors.invalid("metadata.name", name, &format!("must be `spec.version+\".\"+spec.group`: {wanted:?}"));
    }
    if group.is_empty() {
        if version != "v1" {
            errors.required("spec.group", "only v1 may have an empty group and it better be legacy kube");
        }
    } else if let Err(why) = names::dns_subdomain(group) {
        errors.invalid("spec.group", group, &why);
    }
    if let Err(why) = names::dns_label(version) {
        errors.invalid("spec.version", version, &why);
    }
    for (field, most) in [("groupPriorityMinimum", GROUP_PRIORITY_MAX), ("versionPriority", VERSION_PRIORITY_MAX)] {
        let priority = at(spec.value, field).as_i64().unwrap_or(0);
        if !(1..=most).contains(&priority) {
            errors.invalid(spec.path_of(field), priority, &format!("must be positive and less than {most}"));
        }
    }
    let trusts_all = at(spec.value, "insecureSkipTLSVerify") == true;
    if !at(spec.value, "service").is_object() {
        if spec.is_set("caBundle") {
            errors.invalid("spec.caBundle", "", "local APIServices may not have a caBundle");
        }
        if trusts_all {
            let why = "local APIServices may not have insecureSkipTLSVerify";
            errors.invalid("spec.insecureSkipTLSVerify", true, why);
        }
        return;
    }
    spec.required("service.namespace", errors);
    spec.required("service.name", errors);
    if let Err(why) = names::port_number(at(spec.value, "service.port").as_i64().unwrap_or(HTTPS)) {
        errors.invalid("spec.service.port", at(spec.value, "service.port"), &why);
    }
    if trusts_all && spec.is_set("caBundle") {
        errors.invalid("spec.insecureSkipTLSVerify", true, "may not be true if caBundle is present");
    }
}
