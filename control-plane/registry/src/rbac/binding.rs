//! Bindings: who holds a role, in a namespace or everywhere.

use copepod_access::escalation::check_binding;
use copepod_api::{
    Object, Scope, Timestamp,
    field::{Errors, Path},
    names,
};
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding, RoleRef, Subject};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{GROUP, guard};
use crate::{
    Row, json as fields,
    json::{items, text},
    row::{self, AGE, Column, Hooks, NAME, column, kind, wide},
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Role", "string", "The role that is given."),
    AGE,
    wide("Users", "The users that hold it."),
    wide("Groups", "The groups that hold it."),
    wide("ServiceAccounts", "The service accounts that hold it."),
];

const SHARED: Hooks = Hooks {
    default,
    guard: |world, request, new, old| guard(world, request, new, old, check_binding),
    validate_update: |new, old, errors| {
        if new.get("roleRef") != old.get("roleRef") {
            errors.invalid("roleRef", new.get("roleRef"), "cannot change roleRef");
        }
    },
    columns: COLUMNS,
    cells,
    name_rule: names::path_segment,
    ..Hooks::NONE
};

pub fn row() -> Row {
    Row::new(
        kind::<RoleBinding>("rolebindings", "rolebinding", &[], Scope::Namespaced, &[]),
        Hooks {
            validate: |object, errors| {
                let binding = RoleBinding::deserialize(object).map_err(|error| error.to_string())?;
                role(&binding.role_ref, &["Role", "ClusterRole"], errors);
                subjects(binding.subjects.as_deref().unwrap_or_default(), true, errors);
                Ok(())
            },
            ..SHARED
        },
    )
}

pub fn cluster_row() -> Row {
    Row::new(
        kind::<ClusterRoleBinding>("clusterrolebindings", "clusterrolebinding", &[], Scope::Cluster, &[]),
        Hooks {
            validate: |object, errors| {
                let binding = ClusterRoleBinding::deserialize(object).map_err(|error| error.to_string())?;
                role(&binding.role_ref, &["ClusterRole"], errors);
                subjects(binding.subjects.as_deref().unwrap_or_default(), false, errors);
                Ok(())
            },
            ..SHARED
        },
    )
}

fn default(object: &mut Value) {
    if let Some(role) = fields::object(object, "roleRef") {
        fill_group(role);
    }
    for subject in fields::each(object, "subjects") {
        if matches!(text(subject, "/kind"), Some("User" | "Group")) {
            fill_group(subject);
        }
    }
}

fn fill_group(value: &mut Value) {
    if text(value, "/apiGroup").is_none_or(str::is_empty) {
        fields::set(value, "apiGroup", GROUP);
    }
}

fn role(role: &RoleRef, kinds: &[&str], errors: &mut Errors) {
    let path = Path::root("roleRef");
    let group = role.api_group.as_deref().unwrap_or_default();
    if group != GROUP {
        errors.not_supported(path.at("apiGroup"), group, &[GROUP]);
    }
    if !kinds.contains(&role.kind.as_str()) {
        errors.not_supported(path.at("kind"), &role.kind, kinds);
    }
    if role.name.is_empty() {
        errors.required(path.at("name"), "");
    } else if let Err(why) = names::path_segment(&role.name) {
        errors.invalid(path.at("name"), &role.name, &why);
    }
}

fn subjects(subjects: &[Subject], is_namespaced: bool, errors: &mut Errors) {
    let path = Path::root("subjects");
    for (index, subject) in subjects.iter().enumerate() {
        let path = path.index(index);
        let group = subject.api_group.as_deref().unwrap_or_default();
        if subject.name.is_empty() {
            errors.required(path.at("name"), "");
        }
        match subject.kind.as_str() {
            "ServiceAccount" => {
                if let Err(why) = names::dns_subdomain(&subject.name)
                    && !subject.name.is_empty()
                {
                    errors.invalid(path.at("name"), &subject.name, &why);
                }
                if !group.is_empty() {
                    errors.not_supported(path.at("apiGroup"), group, &[""]);
                }
                if !is_namespaced && subject.namespace.as_deref().is_none_or(str::is_empty) {
                    errors.required(path.at("namespace"), "");
                }
            }
            "User" | "Group" if group != GROUP => errors.not_supported(path.at("apiGroup"), group, &[GROUP]),
            "User" | "Group" => {}
            other => errors.not_supported(path.at("kind"), other, &["ServiceAccount", "User", "Group"]),
        }
    }
}

fn cells(object: &Object, now: Timestamp) -> Vec<Value> {
    let binding = object.value();
    let part = |pointer: &str| text(binding, pointer).unwrap_or_default();
    let named = |kind: &str| {
        let of_kind = items(binding, "/subjects").iter().filter(|subject| text(subject, "/kind") == Some(kind));
        let names: Vec<String> = of_kind
            .map(|subject| {
                let name = text(subject, "/name").unwrap_or_default();
                match kind {
                    "ServiceAccount" => format!("{}/{name}", text(subject, "/namespace").unwrap_or_default()),
                    _ => name.to_owned(),
                }
            })
            .collect();
        json!(names.join(", "))
    };
    vec![
        row::name(object),
        json!(format!("{}/{}", part("/roleRef/kind"), part("/roleRef/name"))),
        row::age(object, now),
        named("User"),
        named("Group"),
        named("ServiceAccount"),
    ]
}
