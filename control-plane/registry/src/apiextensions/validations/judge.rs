//! What is wrong with an object by the rules of its kind.

use copepod_api::field::Errors;
use copepod_cel::{Budget, Fault, Program, Value as CelValue, Variables};
use serde_json::Value;

use super::tree::{Rule, Shape, Tree};

/// What all rules together may cost for one object. Kubernetes' bound.
const OBJECT_COST_MAX: u64 = 10_000_000;

/// How long the text may be that an expression makes of a refusal.
const MESSAGE_BYTES_MAX: usize = 5 * 1024;

/// Holds the rules against an object, and against the change from the old one to it.
///
/// What did not change is not judged again, but for what rules say about changes.
pub fn judge(tree: &Tree, object: &Value, old: Option<&Value>, errors: &mut Errors) {
    let mut judge = Judge { budget: Budget::new(OBJECT_COST_MAX), is_over: false, errors };
    judge.place(tree, "", object, old);
}

struct Judge<'e> {
    budget: Budget,
    /// No further rules are looked at.
    is_over: bool,
    errors: &'e mut Errors,
}

impl Judge<'_> {
    fn place(&mut self, tree: &Tree, path: &str, value: &Value, old: Option<&Value>) {
        if !tree.has_rules || self.is_over || value.is_null() {
            return;
        }
        self.rules(tree, path, value, old);
        let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        match (tree.shape(), value) {
            (Shape::Object(fields), Value::Object(all)) => {
                for (name, field) in fields {
                    if let Some(value) = all.get(name) {
                        self.place(field, &below(name), value, old.and_then(|old| old.get(name)));
                    }
                }
            }
            (Shape::Map(values, _), Value::Object(all)) => {
                for (name, value) in all {
                    self.place(values, &format!("{path}[{name}]"), value, old.and_then(|old| old.get(name)));
                }
            }
            (Shape::List(items, _, keys, _), Value::Array(all)) => {
                for (index, item) in all.iter().enumerate() {
                    let old = old.and_then(|old| same_entry(old, item, keys));
                    self.place(items, &format!("{path}[{index}]"), item, old);
                }
            }
            _ => {}
        }
    }

    fn rules(&mut self, tree: &Tree, path: &str, value: &Value, old: Option<&Value>) {
        let is_same = old == Some(value);
        let mut variables: Option<(CelValue, Option<CelValue>)> = None;
        for rule in &tree.rules {
            let is_due = match (rule.is_transition, old) {
                (true, None) => rule.is_optional,
                (true, Some(_)) => true,
                (false, _) => !is_same,
            };
            if !is_due || self.is_over {
                continue;
            }
            let (own, before) = variables.get_or_insert_with(|| (tree.value(value), old.map(|old| tree.value(old))));
            let before = match (rule.is_optional, before.clone()) {
                (true, before) => CelValue::Optional(before.map(Box::new)),
                (false, before) => before.unwrap_or(CelValue::Null),
            };
            let names = Variables::default().with("self", own.clone()).with("oldSelf", before);
            self.rule(rule, path, value, &names);
        }
    }

    fn rule(&mut self, rule: &Rule, path: &str, value: &Value, names: &Variables) {
        let shown = match &rule.message {
            message if message.trim().is_empty() => rule.text.trim().to_owned(),
            message => message.trim().to_owned(),
        };
        let outcome = match &rule.program {
            Ok(program) => program.evaluate_once(names, &mut self.budget),
            Err(why) => Err(Fault::Failed(why.clone())),
        };
        let why = match outcome {
            Ok(CelValue::Bool(true)) => return,
            Ok(_) => {
                let message = self.message(rule, names);
                let path = below(path, &rule.field_path);
                return self.refuse(&rule.reason, &path, value, &message);
            }
            Err(Fault::Cost) => {
                self.is_over = true;
                format!(
                    "'{}': no further validation rules will be run due to call cost exceeds limit for rule: {shown}",
                    Fault::Cost
                )
            }
            Err(Fault::Failed(why)) if why.starts_with("no such overload") => format!(
                "'{why}': call arguments did not match a supported operator, function or macro signature for rule: {shown}"
            ),
            Err(Fault::Failed(why)) => format!("{why} evaluating rule: {shown}"),
        };
        self.refuse("", path, value, &why);
    }

    fn message(&mut self, rule: &Rule, names: &Variables) -> String {
        let made = rule.message_program.as_ref().and_then(|program| self.text(program.as_ref().ok()?, names));
        match made {
            Some(text) => text,
            None if rule.message.trim().is_empty() => format!("failed rule: {}", rule.text.trim()),
            None => rule.message.trim().to_owned(),
        }
    }

    fn text(&mut self, program: &Program, names: &Variables) -> Option<String> {
        let CelValue::String(text) = program.evaluate_once(names, &mut self.budget).ok()? else { return None };
        let text = text.trim();
        (!text.is_empty() && !text.contains('\n') && text.len() <= MESSAGE_BYTES_MAX).then(|| text.to_owned())
    }

    fn refuse(&mut self, reason: &str, path: &str, value: &Value, why: &str) {
        let path = if path.is_empty() { "<nil>" } else { path };
        let is_large = value.is_object() || value.is_array();
        match reason {
            "FieldValueRequired" => self.errors.required(path, why),
            "FieldValueForbidden" => self.errors.forbidden(path, why),
            "FieldValueDuplicate" => self.errors.add(reason, path, format!("Duplicate value: {why}")),
            _ if is_large => self.errors.add("FieldValueInvalid", path, format!("Invalid value: {why}")),
            _ => self.errors.invalid(path, value, why),
        }
    }
}

/// The field that a rule names, below its own place.
fn below(path: &str, field: &str) -> String {
    if path.is_empty() { field.trim_start_matches('.').to_owned() } else { format!("{path}{field}") }
}

/// The entry of the old list with the same keys. Without keys nobody can tell.
fn same_entry<'a>(old: &'a Value, item: &Value, keys: &[String]) -> Option<&'a Value> {
    let is_same = |other: &&Value| keys.iter().all(|key| item.get(key) == other.get(key));
    old.as_array()?.iter().find(is_same).filter(|_| !keys.is_empty())
}
