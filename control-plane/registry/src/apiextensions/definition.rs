//! CustomResourceDefinitions.

use copepod_api::{Object, Scope, StatusResult, field::Errors, names as rules_of_names};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

use super::{names, schema, validations};
use crate::{
    Row, json as fields,
    jsonpath::JsonPath,
    pipeline::World,
    row::{self, CREATED_AT, Hooks, NAME, STATUS, kind},
    rules::{Part, at, each, immutable, list_at, text_at},
    webhook_client,
};

pub fn row() -> Row {
    let mut kind = kind::<CustomResourceDefinition>(
        "customresourcedefinitions",
        "customresourcedefinition",
        &["crd", "crds"],
        Scope::Cluster,
        &[STATUS],
    );
    kind.categories = vec!["api-extensions".into()];
    Row::new(
        kind,
        Hooks {
            default,
            admit: |world, definition| admit(world, definition, None),
            admit_update: |world, definition, old| admit(world, definition, Some(old)),
            validate: |definition, errors| {
                validate(definition, errors);
                Ok(())
            },
            validate_update: |new, old, errors| {
                immutable(new, old, &["spec.group", "spec.scope", "spec.names.plural", "spec.names.kind"], errors);
            },
            validate_status: |new, _, errors| {
                let known: Vec<&str> =
                    list_at(new, "spec.versions").iter().map(|version| text_at(version, "name")).collect();
                for (path, stored) in each(new, "status.storedVersions") {
                    if !known.contains(&stored.as_str().unwrap_or_default()) {
                        errors.invalid(path, stored, "must appear in spec.versions");
                    }
                }
            },
            columns: &[NAME, CREATED_AT],
            cells: |object, _| vec![row::name(object), row::created_at(object)],
            generation: true,
            ..Hooks::NONE
        },
    )
}

fn default(definition: &mut Value) {
    let Some(spec) = fields::object(definition, "spec") else { return };
    let kind = text_at(spec, "names.kind").to_owned();
    if let Some(names) = fields::object(spec, "names")
        && !kind.is_empty()
    {
        fields::default(names, "singular", kind.to_lowercase());
        fields::default(names, "listKind", format!("{kind}List"));
    }
    if let Some(conversion) = fields::object(spec, "conversion") {
        fields::default(conversion, "strategy", "None");
        if let Some(webhook) = conversion.get_mut("webhook") {
            webhook_client::default(webhook);
        }
    }
    if at(spec, "preserveUnknownFields") == false {
        fields::remove(spec, "preserveUnknownFields");
    }
}

/// Names are accepted in the transaction that asks for them: nobody can come in between.
fn admit(world: &mut World<'_>, definition: &mut Value, old: Option<&Object>) -> StatusResult<()> {
    if old.is_none() {
        let mut held = list_at(definition, "metadata.finalizers").to_vec();
        if !held.iter().any(|name| name == names::CLEANUP) {
            held.push(json!(names::CLEANUP));
        }
        if let Some(metadata) = fields::object(definition, "metadata") {
            fields::set(metadata, "finalizers", held);
        }
    }
    names::settle(world, definition);
    Ok(())
}

fn validate(definition: &Value, errors: &mut Errors) {
    let spec = Part { value: at(definition, "spec"), path: "spec" };
    let (group, plural) = (text_at(spec.value, "group"), text_at(spec.value, "names.plural"));
    let name = text_at(definition, "metadata.name");
    if name != format!("{plural}.{group}") {
        errors.invalid("metadata.name", name, "must be spec.names.plural+\".\"+spec.group");
    }
    spec.required("group", errors);
    spec.named("group", rules_of_names::dns_subdomain, errors);
    if !group.is_empty() && !group.contains('.') {
        errors.invalid("spec.group", group, "should be a domain with at least one dot");
    }
    spec.required("scope", errors);
    spec.one_of("scope", &["Cluster", "Namespaced"], errors);
    for field in ["names.plural", "names.singular", "names.kind", "names.listKind"] {
        spec.required(field, errors);
        spec.named(field, |name| rules_of_names::dns1035_label(&name.to_lowercase()), errors);
    }
    if text_at(spec.value, "names.kind") == text_at(spec.value, "names.listKind") {
        let kind = text_at(spec.value, "names.listKind");
        errors.invalid("spec.names.listKind", kind, "kind and listKind may not be the same");
    }
    for field in ["names.shortNames", "names.categories"] {
        for (path, name) in each(spec.value, field) {
            let name = name.as_str().unwrap_or_default();
            if let Err(why) = rules_of_names::dns1035_label(name) {
                errors.invalid(format!("spec.{path}"), name, &why);
            }
        }
    }
    if at(spec.value, "preserveUnknownFields") == true {
        errors.invalid(
            "spec.preserveUnknownFields",
            true,
            "must be false in order to use defaults and structural schemas",
        );
    }
    conversion(&spec, errors);
    let stored = list_at(spec.value, "versions").iter().filter(|version| at(version, "storage") == true).count();
    if stored != 1 {
        let versions: Vec<&str> =
            list_at(spec.value, "versions").iter().map(|version| text_at(version, "name")).collect();
        errors.invalid("spec.versions", versions, "must have exactly one version marked as storage version");
    }
    let mut seen = Vec::new();
    for (path, version) in each(definition, "spec.versions") {
        let name = text_at(version, "name");
        if seen.contains(&name) {
            errors.duplicate(format!("{path}.name"), name);
        }
        seen.push(name);
        one_version(&Part { value: version, path: &path }, errors);
    }
}

fn conversion(spec: &Part<'_>, errors: &mut Errors) {
    let webhook = Part { value: at(spec.value, "conversion.webhook"), path: "spec.conversion.webhook" };
    match text_at(spec.value, "conversion.strategy") {
        "None" | "" if webhook.value.is_null() => {}
        "None" | "" => errors.forbidden(webhook.path, "should not be set when strategy is not set to Webhook"),
        "Webhook" if webhook.value.is_null() => {
            errors.required(webhook.path, "required when strategy is set to Webhook")
        }
        "Webhook" => {
            webhook_client::review_versions(&webhook, "conversionReviewVersions", errors);
            webhook_client::validate(&webhook, errors);
        }
        other => errors.not_supported("spec.conversion.strategy", other, &["None", "Webhook"]),
    }
}

fn one_version(version: &Part<'_>, errors: &mut Errors) {
    version.required("name", errors);
    version.named("name", rules_of_names::dns1035_label, errors);
    let path = version.path_of("schema.openAPIV3Schema");
    if version.is_set("schema.openAPIV3Schema") {
        let schema = Part { value: at(version.value, "schema.openAPIV3Schema"), path: &path };
        let before = errors.len();
        schema::validate(&schema, errors);
        if errors.len() == before {
            validations::check(&schema, errors);
        }
    } else {
        errors.required(path, "schemas are required");
    }
    for (own, column) in each(version.value, "additionalPrinterColumns") {
        let path = version.path_of(&own);
        let column = Part { value: column, path: &path };
        column.required("name", errors);
        column.required("type", errors);
        column.one_of("type", &["boolean", "date", "integer", "number", "string"], errors);
        json_path(&column, "jsonPath", errors);
    }
    for (own, field) in each(version.value, "selectableFields") {
        let path = version.path_of(&own);
        json_path(&Part { value: field, path: &path }, "jsonPath", errors);
    }
    if version.is_set("subresources.scale") {
        for (field, root) in [("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")] {
            let own = format!("subresources.scale.{field}");
            json_path(version, &own, errors);
            let text = text_at(version.value, &own);
            if !text.is_empty() && !text.starts_with(root) {
                errors.invalid(
                    version.path_of(&own),
                    text,
                    &format!("should be a json path under {}", root.trim_end_matches('.')),
                );
            }
        }
    }
}

fn json_path(of: &Part<'_>, field: &str, errors: &mut Errors) {
    of.required(field, errors);
    let text = text_at(of.value, field);
    if let Err(why) = JsonPath::parse(text)
        && !text.is_empty()
    {
        errors.invalid(of.path_of(field), text, &why);
    }
}
