//! ValidatingAdmissionPolicy: rules in CEL that a write must keep.

use std::sync::Arc;

use copepod_api::{Object, Resource, Status, StatusResult};
use copepod_cel::{Budget, Fault, Type, Value as CelValue};
use serde_json::Value;

use super::{
    GROUP,
    attempt::Attempt,
    expressions::{self, Compiled, compiled},
    policy::{self, Binding, Case, POLICY_COST_MAX, Policy},
};
use crate::{
    pipeline::World,
    rules::{list_at, text_at},
};

const POLICIES: Resource = Resource::known(GROUP, "validatingadmissionpolicies");
const BINDINGS: Resource = Resource::known(GROUP, "validatingadmissionpolicybindings");

/// How long the text may be that an expression makes of a refusal.
const MESSAGE_BYTES_MAX: usize = 5 * 1024;

struct Validating {
    policy: Policy,
    rules: Vec<Rule>,
    /// `auditAnnotations`. Nothing keeps what they say, but one that fails counts as a rule that fails.
    notes: Vec<(String, Compiled)>,
}

struct Rule {
    text: String,
    program: Compiled,
    message: String,
    message_program: Option<Compiled>,
    reason: String,
}

impl Validating {
    fn of(object: &Object) -> Validating {
        let value: Value = serde_json::from_slice(&object.bytes()).unwrap_or_default();
        let (policy, declared) = Policy::of(object, &value);
        let rule = |rule: &Value| {
            let message = text_at(rule, "messageExpression");
            Rule {
                text: text_at(rule, "expression").to_owned(),
                program: compiled(text_at(rule, "expression"), &declared, &[Type::Bool]),
                message: text_at(rule, "message").to_owned(),
                message_program: (!message.is_empty()).then(|| compiled(message, &declared, &[Type::String])),
                reason: text_at(rule, "reason").to_owned(),
            }
        };
        let rules = list_at(&value, "spec.validations").iter().map(rule).collect();
        let note = |note: &Value| {
            let text = text_at(note, "valueExpression");
            (text.to_owned(), compiled(text, &declared, &[Type::String, Type::Null]))
        };
        let notes = list_at(&value, "spec.auditAnnotations").iter().map(note).collect();
        Validating { policy, rules, notes }
    }
}

/// What a policy has against a write.
struct Objection {
    message: String,
    reason: String,
}

/// Holds all policies that are in force against a write. The first refusal, by the names of policies, counts.
pub fn validate(world: &mut World<'_>, attempt: &Attempt<'_>, object: &Value) -> StatusResult<()> {
    let policies = world.view.derived(&POLICIES, |policies| {
        policies.filter_map(|policy| policy.derived(Validating::of)).collect::<Vec<Arc<Validating>>>()
    });
    let Some(policies) = policies else { return Ok(()) };
    let bindings = policy::bindings(&world.view, &BINDINGS);
    let mut refused = None;
    for validating in policies.iter() {
        let own = &validating.policy;
        for case in policy::cases(world, own, &bindings, attempt, object) {
            match case {
                Ok(case) => {
                    let objections = judged(validating, &case);
                    carry_out(world, &own.name, case.binding, objections, attempt, object, &mut refused);
                }
                Err(_) if own.may_fail => {}
                Err(unfit) => {
                    let Some(binding) = unfit.binding else { continue };
                    let objection = Objection { message: unfit.why, reason: String::new() };
                    let mut binding = binding.clone();
                    if unfit.is_configuration {
                        binding.actions = vec!["Deny".to_owned()];
                    }
                    carry_out(world, &own.name, &binding, vec![objection], attempt, object, &mut refused);
                }
            }
        }
    }
    refused.map_or(Ok(()), Err)
}

fn judged(validating: &Validating, case: &Case<'_>) -> Vec<Objection> {
    let mut budget = Budget::new(POLICY_COST_MAX);
    let mut objections = Vec::new();
    for rule in &validating.rules {
        let value = evaluated(&rule.program, case, &mut budget);
        let objection = match value {
            Ok(CelValue::Bool(true)) => continue,
            Ok(_) => Objection { message: message(rule, case, &mut budget), reason: rule.reason.clone() },
            Err(_) if validating.policy.may_fail => continue,
            Err(fault) => Objection { message: expressions::told(&fault, &rule.text), reason: rule.reason.clone() },
        };
        objections.push(objection);
        if budget.is_spent() {
            return objections;
        }
    }
    for (text, program) in validating.notes.iter().filter(|_| !validating.policy.may_fail) {
        if let Err(fault) = evaluated(program, case, &mut budget) {
            objections.push(Objection { message: expressions::told(&fault, text), reason: String::new() });
        }
    }
    objections
}

fn evaluated(program: &Compiled, case: &Case<'_>, budget: &mut Budget) -> Result<CelValue, Fault> {
    match program {
        Ok(program) => program.evaluate_once(&case.variables, budget),
        Err(why) => Err(Fault::Failed(why.clone())),
    }
}

fn message(rule: &Rule, case: &Case<'_>, budget: &mut Budget) -> String {
    let made = rule.message_program.as_ref().and_then(|program| match evaluated(program, case, budget) {
        Ok(CelValue::String(text)) => Some(text.trim().to_owned()),
        _ => None,
    });
    let is_fit = |text: &String| !text.is_empty() && text.len() <= MESSAGE_BYTES_MAX && !text.contains('\n');
    match made.filter(is_fit) {
        Some(text) => text,
        None if rule.message.is_empty() => format!("failed expression: {}", rule.text.trim()),
        None => rule.message.trim().to_owned(),
    }
}

/// Does with objections what a binding says: refuses, or warns. (Nothing is written down here for auditors.)
fn carry_out(
    world: &mut World<'_>,
    policy: &str,
    binding: &Binding,
    objections: Vec<Objection>,
    attempt: &Attempt<'_>,
    object: &Value,
    refused: &mut Option<Status>,
) {
    let binding_name = &binding.name;
    for Objection { message, reason } in objections {
        for action in &binding.actions {
            match &**action {
                "Warn" => world.warn(format!(
                    "Validation failed for ValidatingAdmissionPolicy '{policy}' with binding '{binding_name}': {message}"
                )),
                "Deny" if refused.is_none() => {
                    let why = format!(
                        "ValidatingAdmissionPolicy '{policy}' with binding '{binding_name}' denied request: {message}"
                    );
                    let (code, reason) = reason_of(&reason);
                    let about = attempt.old.unwrap_or(object);
                    let name = attempt.name(if object.is_null() { about } else { object });
                    *refused = Some(refusal(attempt, name, why, code, reason, &message));
                }
                _ => {}
            }
        }
    }
}

fn reason_of(reason: &str) -> (u16, &str) {
    match reason {
        "Forbidden" => (403, reason),
        "Unauthorized" => (401, reason),
        "RequestEntityTooLarge" => (413, reason),
        _ => (422, "Invalid"),
    }
}

/// A refusal in the words of `forbidden`, with a reason of its own.
pub fn refusal(attempt: &Attempt<'_>, name: &str, why: String, code: u16, reason: &str, message: &str) -> Status {
    let forbidden = Status::forbidden(&attempt.row.kind.resource(), name, why);
    let mut status = Status::new(code, reason, forbidden.message());
    if let Some(details) = forbidden.details() {
        *status.details_mut() = details.clone();
    }
    status.with_cause("", "", message)
}
