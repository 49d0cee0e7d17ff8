//! Classes: what a claim may ask for by name.

use copepod_api::{Scope, field::Errors, names};
use k8s_openapi::api::storage::v1::{StorageClass, VolumeAttributesClass};
use serde_json::{Value, json};

use crate::{
    Row, json as fields,
    row::{self, AGE, Column, Hooks, NAME, column, kind},
    rules::{Part, at, each, immutable, list_at, map_at, text_at},
};

const PARAMETERS_MAX: usize = 512;
const PARAMETERS_BYTES_MAX: usize = 256 * 1024;

/// Marks the class of claims that name none.
pub const IS_DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";
const WAS_DEFAULT: &str = "storageclass.beta.kubernetes.io/is-default-class";

pub fn storage() -> Row {
    const COLUMNS: &[Column] = &[
        NAME,
        column("Provisioner", "string", "Who makes volumes of this class."),
        column("ReclaimPolicy", "string", "What becomes of a volume that its claim left."),
        column("VolumeBindingMode", "string", "When claims are bound and volumes made."),
        column("AllowVolumeExpansion", "string", "Whether claims may grow."),
        AGE,
    ];
    Row::new(
        kind::<StorageClass>("storageclasses", "storageclass", &["sc"], Scope::Cluster, &[]),
        Hooks {
            default: |class| {
                fields::default(class, "reclaimPolicy", "Delete");
                fields::default(class, "volumeBindingMode", "Immediate");
            },
            validate: |class, errors| {
                let whole = Part::whole(class);
                whole.required("provisioner", errors);
                whole.named("provisioner", |name| names::qualified_name(&name.to_lowercase()), errors);
                parameters(class, errors);
                whole.one_of("reclaimPolicy", &["Delete", "Retain"], errors);
                whole.one_of("volumeBindingMode", &["Immediate", "WaitForFirstConsumer"], errors);
                for (path, term) in each(class, "allowedTopologies") {
                    for (path, rule) in
                        each(term, "matchLabelExpressions").map(|(own, rule)| (format!("{path}.{own}"), rule))
                    {
                        let rule = Part { value: rule, path: &path };
                        rule.required("key", errors);
                        rule.named("key", names::label_key, errors);
                        rule.required("values", errors);
                    }
                }
                Ok(())
            },
            validate_update: |new, old, errors| {
                immutable(new, old, &["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"], errors);
            },
            columns: COLUMNS,
            cells: |object, now| {
                let class = object.value();
                let is_default = [IS_DEFAULT, WAS_DEFAULT]
                    .iter()
                    .any(|mark| object.meta.annotations.get(mark).is_some_and(|value| value == "true"));
                let name = object.key.name();
                vec![
                    if is_default { json!(format!("{name} (default)")) } else { json!(name) },
                    json!(text_at(class, "provisioner")),
                    json!(text_at(class, "reclaimPolicy")),
                    json!(text_at(class, "volumeBindingMode")),
                    json!(at(class, "allowVolumeExpansion").as_bool().unwrap_or(false).to_string()),
                    row::age(object, now),
                ]
            },
            ..Hooks::NONE
        },
    )
}

fn parameters(class: &Value, errors: &mut Errors) {
    let n_bytes: usize =
        map_at(class, "parameters").map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    if map_at(class, "parameters").count() > PARAMETERS_MAX {
        errors.too_long("parameters", PARAMETERS_MAX);
    } else if n_bytes > PARAMETERS_BYTES_MAX {
        errors.too_long("parameters", PARAMETERS_BYTES_MAX);
    }
    if map_at(class, "parameters").any(|(key, _)| key.is_empty()) {
        errors.invalid("parameters", "", "field can not be empty.");
    }
}

pub fn attributes() -> Row {
    const COLUMNS: &[Column] = &[NAME, column("DriverName", "string", "Who changes volumes to this class."), AGE];
    Row::new(
        kind::<VolumeAttributesClass>(
            "volumeattributesclasses",
            "volumeattributesclass",
            &["vac"],
            Scope::Cluster,
            &[],
        ),
        Hooks {
            validate: |class, errors| {
                let whole = Part::whole(class);
                whole.required("driverName", errors);
                whole.named("driverName", |name| names::dns_subdomain(&name.to_lowercase()), errors);
                if list_at(class, "parameters").is_empty() && !whole.is_set("parameters") {
                    errors.required("parameters", "must contain at least one key/value pair");
                }
                parameters(class, errors);
                Ok(())
            },
            validate_update: |new, old, errors| immutable(new, old, &["driverName", "parameters"], errors),
            columns: COLUMNS,
            cells: |object, now| {
                vec![row::name(object), json!(text_at(object.value(), "driverName")), row::age(object, now)]
            },
            ..Hooks::NONE
        },
    )
}
