//! Programs that are asked about writes.

use copepod_api::{Scope, field::Errors, names};
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use serde_json::{Value, json};

use super::{extension, rules};
use crate::{
    Row,
    asking::expressions,
    json as fields,
    row::{self, AGE, Column, Hooks, NAME, column, kind},
    rules::{Part, at, each, list_at, text_at},
    webhook_client,
};

const COLUMNS: &[Column] = &[NAME, column("Webhooks", "integer", "How many are asked."), AGE];

const SHARED: Hooks = Hooks {
    columns: COLUMNS,
    cells: |object, now| {
        vec![row::name(object), json!(list_at(object.value(), "webhooks").len()), row::age(object, now)]
    },
    generation: true,
    ..Hooks::NONE
};

pub fn validating() -> Row {
    Row::new(
        extension(kind::<ValidatingWebhookConfiguration>(
            "validatingwebhookconfigurations",
            "validatingwebhookconfiguration",
            &[],
            Scope::Cluster,
            &[],
        )),
        Hooks {
            default: |configuration| fields::each(configuration, "webhooks").for_each(default),
            validate: |configuration, errors| {
                validate(configuration, errors);
                Ok(())
            },
            ..SHARED
        },
    )
}

pub fn mutating() -> Row {
    Row::new(
        extension(kind::<MutatingWebhookConfiguration>(
            "mutatingwebhookconfigurations",
            "mutatingwebhookconfiguration",
            &[],
            Scope::Cluster,
            &[],
        )),
        Hooks {
            default: |configuration| {
                for webhook in fields::each(configuration, "webhooks") {
                    default(webhook);
                    fields::default(webhook, "reinvocationPolicy", "Never");
                }
            },
            validate: |configuration, errors| {
                validate(configuration, errors);
                for (path, webhook) in each(configuration, "webhooks") {
                    Part { value: webhook, path: &path }.one_of("reinvocationPolicy", &["IfNeeded", "Never"], errors);
                }
                Ok(())
            },
            ..SHARED
        },
    )
}

fn default(webhook: &mut Value) {
    fields::default(webhook, "failurePolicy", "Fail");
    fields::default(webhook, "timeoutSeconds", 10);
    rules::default_selectors(webhook);
    fields::each(webhook, "rules").for_each(rules::default_rule);
    webhook_client::default(webhook);
}

fn validate(configuration: &Value, errors: &mut Errors) {
    let mut seen = Vec::new();
    for (path, webhook) in each(configuration, "webhooks") {
        let part = Part { value: webhook, path: &path };
        let name = text_at(webhook, "name");
        part.required("name", errors);
        if !name.is_empty() && name.split('.').count() < 3 {
            errors.invalid(
                part.path_of("name"),
                name,
                "should be a domain with at least three segments separated by dots",
            );
        }
        part.named("name", names::dns_subdomain, errors);
        if seen.contains(&name) {
            errors.duplicate(part.path_of("name"), name);
        }
        seen.push(name);
        for (own, rule) in each(webhook, "rules") {
            let path = part.path_of(&own);
            rules::rule(&Part { value: rule, path: &path }, errors);
        }
        part.one_of("failurePolicy", &["Fail", "Ignore"], errors);
        part.required("sideEffects", errors);
        part.one_of("sideEffects", &["None", "NoneOnDryRun"], errors);
        rules::selectors(&part, errors);
        rules::conditions(&part, errors);
        expressions::check_conditions(&part, &expressions::declared(), errors);
        let seconds = at(webhook, "timeoutSeconds").as_i64().unwrap_or(10);
        if !(1..=30).contains(&seconds) {
            errors.invalid(
                part.path_of("timeoutSeconds"),
                seconds,
                "the timeout value must be between 1 and 30 seconds",
            );
        }
        webhook_client::review_versions(&part, "admissionReviewVersions", errors);
        webhook_client::validate(&part, errors);
    }
}
