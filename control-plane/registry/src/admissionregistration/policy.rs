//! Rules in CEL about writes, and where they hold.

use copepod_api::{Scope, field::Errors};
use copepod_cel::{Declarations, Type};
use k8s_openapi::api::admissionregistration::v1::{
    MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, ValidatingAdmissionPolicy,
    ValidatingAdmissionPolicyBinding,
};
use serde_json::{Value, json};

use super::{extension, rules};
use crate::{
    Row,
    asking::{expressions, mutating, policy, typing},
    json as fields,
    pipeline::World,
    row::{self, AGE, Column, Hooks, NAME, STATUS, column, kind},
    rules::{Part, at, each, list_at, text_at},
};

pub fn validating() -> Row {
    const COLUMNS: &[Column] = &[
        NAME,
        column("Validations", "integer", "How many rules it has."),
        column("ParamKind", "string", "The kind of its parameters."),
        AGE,
    ];
    Row::new(
        extension(kind::<ValidatingAdmissionPolicy>(
            "validatingadmissionpolicies",
            "validatingadmissionpolicy",
            &[],
            Scope::Cluster,
            &[STATUS],
        )),
        Hooks {
            default,
            validate: |policy, errors| {
                let declared = shared(policy, errors);
                let spec = Part { value: at(policy, "spec"), path: "spec" };
                if !spec.is_set("validations") && !spec.is_set("auditAnnotations") {
                    errors
                        .required("spec.validations", "validations or auditAnnotations must contain at least one item");
                }
                for (path, rule) in each(policy, "spec.validations") {
                    let rule = Part { value: rule, path: &path };
                    rule.required("expression", errors);
                    rule.one_of("reason", &["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"], errors);
                    expressions::check(&rule, "expression", &declared, &[Type::Bool], errors);
                    expressions::check(&rule, "messageExpression", &declared, &[Type::String], errors);
                }
                for (path, note) in each(policy, "spec.auditAnnotations") {
                    let note = Part { value: note, path: &path };
                    note.required("key", errors);
                    note.required("valueExpression", errors);
                    expressions::check(&note, "valueExpression", &declared, &[Type::String, Type::Null], errors);
                }
                Ok(())
            },
            admit: |world, policy| {
                typed(world, policy, 1);
                Ok(())
            },
            admit_update: |world, policy, old| {
                let before = fields::number(old.value(), "/metadata/generation").unwrap_or(0);
                let differs = policy.get("spec") != old.value().get("spec");
                typed(world, policy, before + i64::from(differs));
                Ok(())
            },
            columns: COLUMNS,
            cells: |object, now| cells(object, "spec.validations", now),
            generation: true,
            ..Hooks::NONE
        },
    )
}

/// Notes in the status which expressions do not fit the kinds that the policy is about.
fn typed(world: &World<'_>, policy: &mut Value, generation: i64) {
    let mut status = typing::status(world, policy, generation);
    fields::take_over(&mut status, "conditions", &policy["status"]);
    fields::set(policy, "status", status);
}

pub fn mutating() -> Row {
    const COLUMNS: &[Column] = &[
        NAME,
        column("Mutations", "integer", "How many changes it makes."),
        column("ParamKind", "string", "The kind of its parameters."),
        AGE,
    ];
    Row::new(
        extension(kind::<MutatingAdmissionPolicy>(
            "mutatingadmissionpolicies",
            "mutatingadmissionpolicy",
            &[],
            Scope::Cluster,
            &[],
        )),
        Hooks {
            default: |policy| {
                default(policy);
                if let Some(spec) = fields::object(policy, "spec") {
                    fields::default(spec, "reinvocationPolicy", "Never");
                }
            },
            validate: |policy, errors| {
                let mut declared = shared(policy, errors);
                declared.makes_objects = true;
                let spec = Part { value: at(policy, "spec"), path: "spec" };
                spec.required("mutations", errors);
                spec.required("reinvocationPolicy", errors);
                spec.one_of("reinvocationPolicy", &["IfNeeded", "Never"], errors);
                for (path, mutation) in each(policy, "spec.mutations") {
                    let mutation = Part { value: mutation, path: &path };
                    mutation.required("patchType", errors);
                    mutation.one_of("patchType", &["ApplyConfiguration", "JSONPatch"], errors);
                    let (needed, other) = match text_at(mutation.value, "patchType") {
                        "JSONPatch" => ("jsonPatch", "applyConfiguration"),
                        _ => ("applyConfiguration", "jsonPatch"),
                    };
                    mutation.required(&format!("{needed}.expression"), errors);
                    let wanted = mutating::wanted(needed == "jsonPatch");
                    expressions::check(&mutation, &format!("{needed}.expression"), &declared, &wanted, errors);
                    if mutation.is_set(other) {
                        errors.invalid(mutation.path_of(other), "{}", "does not fit the patchType");
                    }
                }
                Ok(())
            },
            columns: COLUMNS,
            cells: |object, now| cells(object, "spec.mutations", now),
            generation: true,
            ..Hooks::NONE
        },
    )
}

fn cells(object: &copepod_api::Object, counted: &str, now: copepod_api::Timestamp) -> Vec<Value> {
    let policy = object.value();
    let kind = match (text_at(policy, "spec.paramKind.apiVersion"), text_at(policy, "spec.paramKind.kind")) {
        (_, "") => "<unset>".to_owned(),
        (version, kind) => format!("{version}/{kind}"),
    };
    vec![row::name(object), json!(list_at(policy, counted).len()), json!(kind), row::age(object, now)]
}

fn default(policy: &mut Value) {
    let Some(spec) = fields::object(policy, "spec") else { return };
    fields::default(spec, "failurePolicy", "Fail");
    if let Some(constraints) = spec.get_mut("matchConstraints") {
        constraint_defaults(constraints);
    }
}

fn constraint_defaults(constraints: &mut Value) {
    rules::default_selectors(constraints);
    for field in ["resourceRules", "excludeResourceRules"] {
        fields::each(constraints, field).for_each(rules::default_rule);
    }
}

/// What both kinds have. Gives the names that the rest of their expressions may use.
fn shared(policy: &Value, errors: &mut Errors) -> Declarations {
    let spec = Part { value: at(policy, "spec"), path: "spec" };
    spec.one_of("failurePolicy", &["Fail", "Ignore"], errors);
    if spec.is_set("paramKind") {
        spec.required("paramKind.apiVersion", errors);
        spec.required("paramKind.kind", errors);
    }
    rules::conditions(&spec, errors);
    let declared = policy::declared(spec.value);
    expressions::check_conditions(&spec, &declared, errors);
    let (declared, programs) = policy::with_variables(spec.value, declared);
    spec.required("matchConstraints", errors);
    let constraints = Part { value: at(spec.value, "matchConstraints"), path: "spec.matchConstraints" };
    constraints.required("resourceRules", errors);
    matched(&constraints, errors);
    let mut seen = Vec::new();
    for ((path, variable), (_, program)) in each(policy, "spec.variables").zip(programs) {
        let part = Part { value: variable, path: &path };
        part.required("name", errors);
        part.required("expression", errors);
        if let (Err(why), true) = (program, part.is_set("expression")) {
            errors.invalid(part.path_of("expression"), text_at(variable, "expression"), &why);
        }
        let name = text_at(variable, "name");
        let is_identifier = name
            .chars()
            .enumerate()
            .all(|(at, letter)| letter == '_' || letter.is_ascii_alphabetic() || (at > 0 && letter.is_ascii_digit()));
        if !is_identifier {
            errors.invalid(part.path_of("name"), name, "name is not a valid CEL identifier");
        }
        if seen.contains(&name) {
            errors.duplicate(part.path_of("name"), name);
        }
        seen.push(name);
    }
    declared
}

fn matched(constraints: &Part<'_>, errors: &mut Errors) {
    rules::selectors(constraints, errors);
    for field in ["resourceRules", "excludeResourceRules"] {
        for (own, rule) in each(constraints.value, field) {
            let path = constraints.path_of(&own);
            rules::rule(&Part { value: rule, path: &path }, errors);
        }
    }
}

const BINDING_COLUMNS: &[Column] = &[
    NAME,
    column("PolicyName", "string", "The policy that it puts in force."),
    column("ParamRef", "string", "Its parameters."),
    AGE,
];

const BINDING: Hooks = Hooks {
    default: |binding| {
        if let Some(constraints) = binding.pointer_mut("/spec/matchResources") {
            constraint_defaults(constraints);
        }
    },
    columns: BINDING_COLUMNS,
    cells: |object, now| {
        let spec = at(object.value(), "spec");
        let parameter = match (text_at(spec, "paramRef.namespace"), text_at(spec, "paramRef.name")) {
            (_, "") if at(spec, "paramRef").is_null() => "<unset>".to_owned(),
            ("", name) => name.to_owned(),
            (namespace, name) => format!("{namespace}/{name}"),
        };
        vec![row::name(object), json!(text_at(spec, "policyName")), json!(parameter), row::age(object, now)]
    },
    generation: true,
    ..Hooks::NONE
};

fn binding(binding: &Value, errors: &mut Errors) {
    let spec = Part { value: at(binding, "spec"), path: "spec" };
    spec.required("policyName", errors);
    if spec.is_set("paramRef") {
        match (spec.is_set("paramRef.name"), at(spec.value, "paramRef.selector").is_object()) {
            (false, false) => errors.required("spec.paramRef", "one of name or selector must be specified"),
            (true, true) => errors.forbidden("spec.paramRef.name", "name and selector are mutually exclusive"),
            _ => {}
        }
        spec.required("paramRef.parameterNotFoundAction", errors);
        spec.one_of("paramRef.parameterNotFoundAction", &["Allow", "Deny"], errors);
    }
    let resources = Part { value: at(spec.value, "matchResources"), path: "spec.matchResources" };
    matched(&resources, errors);
}

pub fn validating_binding() -> Row {
    Row::new(
        extension(kind::<ValidatingAdmissionPolicyBinding>(
            "validatingadmissionpolicybindings",
            "validatingadmissionpolicybinding",
            &[],
            Scope::Cluster,
            &[],
        )),
        Hooks {
            validate: |object, errors| {
                binding(object, errors);
                let actions = list_at(object, "spec.validationActions");
                if actions.is_empty() {
                    errors.required("spec.validationActions", "at least one validation action is required");
                }
                for (path, action) in each(object, "spec.validationActions") {
                    let action = action.as_str().unwrap_or_default();
                    if !["Audit", "Deny", "Warn"].contains(&action) {
                        errors.not_supported(path, action, &["Audit", "Deny", "Warn"]);
                    }
                }
                if actions.iter().any(|action| action == "Deny") && actions.iter().any(|action| action == "Warn") {
                    let why = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
                    errors.invalid("spec.validationActions", actions, why);
                }
                Ok(())
            },
            ..BINDING
        },
    )
}

pub fn mutating_binding() -> Row {
    Row::new(
        extension(kind::<MutatingAdmissionPolicyBinding>(
            "mutatingadmissionpolicybindings",
            "mutatingadmissionpolicybinding",
            &[],
            Scope::Cluster,
            &[],
        )),
        Hooks {
            validate: |object, errors| {
                binding(object, errors);
                Ok(())
            },
            ..BINDING
        },
    )
}
