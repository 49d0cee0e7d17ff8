//! Who waits for whom at the API: `flowcontrol.apiserver.k8s.io/v1`.

use copepod_api::{Scope, field::Errors};
use k8s_openapi::api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};
use serde_json::{Value, json};

use crate::{
    Row, json as fields,
    row::{self, AGE, Column, Hooks, NAME, STATUS, column, kind},
    rules::{Part, at, each, list_at, text_at},
};

const PRECEDENCE_MAX: i64 = 10_000;

pub(crate) fn rows() -> Vec<Row> {
    vec![schema(), level()]
}

fn schema() -> Row {
    const COLUMNS: &[Column] = &[
        NAME,
        column("PriorityLevel", "string", "The level of its requests."),
        column("MatchingPrecedence", "string", "Which schema is asked first: the lowest."),
        column("DistinguisherMethod", "string", "What makes a flow of its own."),
        AGE,
        column("MissingPL", "string", "Whether the level is missing."),
    ];
    Row::new(
        kind::<FlowSchema>("flowschemas", "flowschema", &[], Scope::Cluster, &[STATUS]),
        Hooks {
            default: |schema| {
                if let Some(spec) = fields::object(schema, "spec") {
                    fields::default(spec, "matchingPrecedence", 1000);
                }
            },
            validate: |schema, errors| {
                validate_schema(schema, errors);
                Ok(())
            },
            columns: COLUMNS,
            cells: |object, now| {
                let schema = object.value();
                let missing = list_at(schema, "status.conditions")
                    .iter()
                    .find(|condition| text_at(condition, "type") == "Dangling")
                    .map_or("?", |condition| text_at(condition, "status"));
                let method = text_at(schema, "spec.distinguisherMethod.type");
                vec![
                    row::name(object),
                    json!(text_at(schema, "spec.priorityLevelConfiguration.name")),
                    json!(at(schema, "spec.matchingPrecedence").to_string()),
                    json!(if method.is_empty() { "<none>" } else { method }),
                    row::age(object, now),
                    json!(missing),
                ]
            },
            generation: true,
            ..Hooks::NONE
        },
    )
}

fn validate_schema(schema: &Value, errors: &mut Errors) {
    let spec = Part { value: at(schema, "spec"), path: "spec" };
    let precedence = at(spec.value, "matchingPrecedence").as_i64().unwrap_or(0);
    let name = text_at(schema, "metadata.name");
    if precedence <= 0 {
        errors.invalid("spec.matchingPrecedence", precedence, "must be a positive value");
    }
    if precedence > PRECEDENCE_MAX {
        errors.invalid("spec.matchingPrecedence", precedence, &format!("must not be greater than {PRECEDENCE_MAX}"));
    }
    if precedence == 1 && name != "exempt" {
        errors.invalid(
            "spec.matchingPrecedence",
            precedence,
            "only the schema named 'exempt' may have matchingPrecedence 1",
        );
    }
    spec.required("priorityLevelConfiguration.name", errors);
    spec.one_of("distinguisherMethod.type", &["ByNamespace", "ByUser"], errors);
    for (path, rule) in each(schema, "spec.rules") {
        let part = Part { value: rule, path: &path };
        part.required("subjects", errors);
        if !part.is_set("resourceRules") && !part.is_set("nonResourceRules") {
            errors.required(&path, "at least one of resourceRules and nonResourceRules has to be non-empty");
        }
        for (own, subject) in each(rule, "subjects") {
            let path = part.path_of(&own);
            let subject = Part { value: subject, path: &path };
            subject.required("kind", errors);
            subject.one_of("kind", &["Group", "ServiceAccount", "User"], errors);
        }
        for (own, rule) in each(rule, "resourceRules") {
            let path = part.path_of(&own);
            let rule = Part { value: rule, path: &path };
            for field in ["verbs", "apiGroups", "resources"] {
                rule.required(field, errors);
            }
            if !rule.is_set("namespaces") && at(rule.value, "clusterScope") != true {
                errors.required(
                    rule.path_of("namespaces"),
                    "resource rules that are not cluster scoped must supply at least one namespace",
                );
            }
        }
        for (own, rule) in each(rule, "nonResourceRules") {
            let path = part.path_of(&own);
            let rule = Part { value: rule, path: &path };
            rule.required("verbs", errors);
            rule.required("nonResourceURLs", errors);
        }
    }
}

fn level() -> Row {
    const COLUMNS: &[Column] = &[
        NAME,
        column("Type", "string", "Whether it is limited."),
        column("NominalConcurrencyShares", "string", "Its share of the seats."),
        column("Queues", "string", "How many queues it has."),
        column("HandSize", "string", "How many queues a flow may use."),
        column("QueueLengthLimit", "string", "How many requests wait in a queue."),
        AGE,
    ];
    Row::new(
        kind::<PriorityLevelConfiguration>(
            "prioritylevelconfigurations",
            "prioritylevelconfiguration",
            &[],
            Scope::Cluster,
            &[STATUS],
        ),
        Hooks {
            default: default_level,
            validate: |level, errors| {
                validate_level(level, errors);
                Ok(())
            },
            columns: COLUMNS,
            cells: |object, now| {
                let spec = at(object.value(), "spec");
                let number = |path: &str| match at(spec, path) {
                    Value::Number(number) => json!(number.to_string()),
                    _ => json!("<none>"),
                };
                let shares = if text_at(spec, "type") == "Exempt" { "exempt" } else { "limited" };
                vec![
                    row::name(object),
                    json!(text_at(spec, "type")),
                    number(&format!("{shares}.nominalConcurrencyShares")),
                    number("limited.limitResponse.queuing.queues"),
                    number("limited.limitResponse.queuing.handSize"),
                    number("limited.limitResponse.queuing.queueLengthLimit"),
                    row::age(object, now),
                ]
            },
            generation: true,
            ..Hooks::NONE
        },
    )
}

fn default_level(level: &mut Value) {
    let Some(spec) = fields::object(level, "spec") else { return };
    if text_at(spec, "type") == "Exempt" {
        if let Some(exempt) = fields::object(spec, "exempt") {
            fields::default(exempt, "nominalConcurrencyShares", 0);
            fields::default(exempt, "lendablePercent", 0);
        }
        return;
    }
    let Some(limited) = spec.get_mut("limited") else { return };
    fields::default(limited, "nominalConcurrencyShares", 30);
    fields::default(limited, "lendablePercent", 0);
    if let Some(queuing) = limited.pointer_mut("/limitResponse/queuing") {
        fields::default(queuing, "queues", 64);
        fields::default(queuing, "handSize", 8);
        fields::default(queuing, "queueLengthLimit", 50);
    }
}

fn validate_level(level: &Value, errors: &mut Errors) {
    let spec = Part { value: at(level, "spec"), path: "spec" };
    let name = text_at(level, "metadata.name");
    let type_ = text_at(spec.value, "type");
    spec.required("type", errors);
    spec.one_of("type", &["Exempt", "Limited"], errors);
    if (name == "exempt") != (type_ == "Exempt") && !type_.is_empty() {
        errors.invalid("spec.type", type_, "must be 'Exempt' if and only if `name` is 'exempt'");
    }
    match type_ {
        "Exempt" if spec.is_set("limited") => {
            errors.forbidden("spec.limited", "must be nil if the type is not Limited")
        }
        "Limited" if !spec.is_set("limited") => {
            errors.required("spec.limited", "must not be empty when type is Limited")
        }
        "Limited" => {
            spec.at_least("limited.nominalConcurrencyShares", 0, errors);
            spec.required("limited.limitResponse.type", errors);
            spec.one_of("limited.limitResponse.type", &["Queue", "Reject"], errors);
            let queues = text_at(spec.value, "limited.limitResponse.type") == "Queue";
            if !queues && spec.is_set("limited.limitResponse.queuing") {
                errors.forbidden(
                    "spec.limited.limitResponse.queuing",
                    "must be nil if limited.limitResponse.type is not Queue",
                );
            }
            if queues {
                spec.required("limited.limitResponse.queuing", errors);
                for field in ["queues", "handSize", "queueLengthLimit"] {
                    spec.at_least(&format!("limited.limitResponse.queuing.{field}"), 1, errors);
                }
                let number = |field: &str| at(spec.value, &format!("limited.limitResponse.queuing.{field}")).as_i64();
                if number("handSize") > number("queues") {
                    let size = number("handSize");
                    errors.invalid(
                        "spec.limited.limitResponse.queuing.handSize",
                        size,
                        "should not be greater than queues",
                    );
                }
            }
        }
        _ => {}
    }
}
