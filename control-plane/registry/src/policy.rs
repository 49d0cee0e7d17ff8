//! Disruption budgets: `policy/v1`.

use copepod_api::{
    Object, Scope, Timestamp,
    field::{Errors, Path},
    selector::LabelSelector,
};
use k8s_openapi::{api::policy::v1::PodDisruptionBudget, apimachinery::pkg::util::intstr::IntOrString};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Row,
    json::number,
    row::{self, AGE, Column, Hooks, NAME, STATUS, column, kind},
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Min Available", "string", "How many pods must stay."),
    column("Max Unavailable", "string", "How many pods may be away."),
    column("Allowed Disruptions", "integer", "How many pods may be evicted now."),
    AGE,
];

pub(crate) fn rows() -> Vec<Row> {
    vec![pod_disruption_budget()]
}

fn pod_disruption_budget() -> Row {
    Row::new(
        kind::<PodDisruptionBudget>(
            "poddisruptionbudgets",
            "poddisruptionbudget",
            &["pdb"],
            Scope::Namespaced,
            &[STATUS],
        ),
        Hooks {
            validate: |object, errors| {
                validate(&PodDisruptionBudget::deserialize(object).map_err(|error| error.to_string())?, errors);
                Ok(())
            },
            columns: COLUMNS,
            cells,
            generation: true,
            revision_required: true,
            ..Hooks::NONE
        },
    )
}

fn validate(budget: &PodDisruptionBudget, errors: &mut Errors) {
    let path = Path::root("spec");
    let Some(spec) = &budget.spec else { return };
    if spec.min_available.is_some() && spec.max_unavailable.is_some() {
        let why = "minAvailable and maxUnavailable cannot be both set";
        errors.invalid(path, spec, why);
    }
    for (field, value) in [("minAvailable", &spec.min_available), ("maxUnavailable", &spec.max_unavailable)] {
        match value {
            Some(IntOrString::Int(number)) if *number < 0 => {
                errors.invalid(path.at(field), number, "must be greater than or equal to 0");
            }
            Some(IntOrString::String(text)) => {
                let percent = text
                    .strip_suffix('%')
                    .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
                    .and_then(|digits| digits.parse::<u64>().ok());
                match percent {
                    None => errors.invalid(
                        path.at(field),
                        text,
                        "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%')",
                    ),
                    Some(percent) if percent > 100 => {
                        errors.invalid(path.at(field), text, "must not be greater than 100%");
                    }
                    Some(_) => {}
                }
            }
            _ => {}
        }
    }
    if let Some(selector) = &spec.selector
        && let Err(why) = LabelSelector::from_typed(selector)
    {
        errors.invalid(path.at("selector"), selector, &why);
    }
    match spec.unhealthy_pod_eviction_policy.as_deref() {
        None | Some("AlwaysAllow" | "IfHealthyBudget") => {}
        Some(other) => {
            errors.not_supported(path.at("unhealthyPodEvictionPolicy"), other, &["AlwaysAllow", "IfHealthyBudget"]);
        }
    }
}

fn cells(object: &Object, now: Timestamp) -> Vec<Value> {
    let budget = object.value();
    let amount = |pointer: &str| match budget.pointer(pointer) {
        Some(Value::String(text)) => json!(text),
        Some(Value::Number(number)) => json!(number.to_string()),
        _ => json!("N/A"),
    };
    vec![
        row::name(object),
        amount("/spec/minAvailable"),
        amount("/spec/maxUnavailable"),
        json!(number(budget, "/status/disruptionsAllowed").unwrap_or(0)),
        row::age(object, now),
    ]
}
