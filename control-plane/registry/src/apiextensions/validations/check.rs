//! What is wrong with the rules of a definition.

use copepod_api::field::Errors;
use serde_json::Value;

use super::tree::{Rule, Shape, Tree};
use crate::{
    jsonpath::JsonPath,
    rules::{Part, at, each, text_at},
};

/// What one rule may cost for the largest object that the schema allows, and what all of them may. Kubernetes' bounds.
const RULE_COST_MAX: u64 = 10_000_000;
const ALL_COST_MAX: u64 = 100_000_000;

const REASONS: &[&str] = &["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

/// Says what is wrong with the rules of a whole object's schema.
pub fn check(schema: &Part<'_>, errors: &mut Errors) {
    let tree = Tree::of(schema.value);
    let mut all = 0;
    place(schema, &tree, 1, None, &mut all, errors);
    if all > ALL_COST_MAX {
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        errors.forbidden(schema.path, &exceeds(what, all, ALL_COST_MAX));
    }
}

/// `count`: how many values there may be at this place. `loose`: the list above whose elements nobody can tell apart.
fn place(schema: &Part<'_>, tree: &Tree, count: u64, loose: Option<&str>, all: &mut u64, errors: &mut Errors) {
    if !tree.has_rules {
        return;
    }
    for ((own, stated), rule) in each(schema.value, "x-kubernetes-validations").zip(&tree.rules) {
        let path = schema.path_of(&own);
        let part = Part { value: stated, path: &path };
        texts(&part, schema.value, rule, errors);
        if let (Some(loose), true, false) = (loose, rule.is_transition, rule.is_optional) {
            let why = format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {loose}");
            errors.invalid(part.path_of("rule"), &rule.text, &why);
        }
        for (field, what, program) in [
            ("rule", "estimated rule cost", Some(&rule.program)),
            ("messageExpression", "estimated messageExpression cost", rule.message_program.as_ref()),
        ] {
            let Some(Ok(program)) = program else { continue };
            let cost = program.cost().saturating_mul(count);
            *all = all.saturating_add(cost);
            if cost > RULE_COST_MAX {
                errors.forbidden(part.path_of(field), &exceeds(what, cost, RULE_COST_MAX));
            }
        }
    }
    match tree.shape() {
        Shape::Object(fields) => {
            for (name, field) in fields {
                let path = format!("{}[{name}]", schema.path_of("properties"));
                let value = at(schema.value, "properties").get(name).unwrap_or(&Value::Null);
                place(&Part { value, path: &path }, field, count, loose, all, errors);
            }
        }
        Shape::Map(values, max) => {
            let path = schema.path_of("additionalProperties");
            let value = at(schema.value, "additionalProperties");
            place(&Part { value, path: &path }, values, count.saturating_mul(*max), loose, all, errors);
        }
        Shape::List(items, max, keys, _) => {
            let path = schema.path_of("items");
            let loose = loose.or(if keys.is_empty() { Some(schema.path) } else { None });
            let value = at(schema.value, "items");
            place(&Part { value, path: &path }, items, count.saturating_mul(*max), loose, all, errors);
        }
        _ => {}
    }
}

fn texts(part: &Part<'_>, schema: &Value, rule: &Rule, errors: &mut Errors) {
    if rule.text.trim().is_empty() {
        errors.required(part.path_of("rule"), "rule is not specified");
    } else if let Err(why) = &rule.program {
        errors.invalid(part.path_of("rule"), &rule.text, why);
    }
    if let Some(Err(why)) = &rule.message_program {
        errors.invalid(part.path_of("messageExpression"), text_at(part.value, "messageExpression"), why);
    }
    let message = at(part.value, "message").as_str();
    if message.is_some_and(|message| !message.is_empty() && message.trim().is_empty()) {
        errors.invalid(part.path_of("message"), message, "message must be non-empty if specified");
    }
    if rule.message.contains('\n') {
        errors.invalid(part.path_of("message"), &rule.message, "message must not contain line breaks");
    }
    if rule.text.contains('\n') && rule.message.is_empty() && rule.message_program.is_none() {
        errors.required(part.path_of("message"), "message must be specified if rule contains line breaks");
    }
    part.one_of("reason", REASONS, errors);
    if !rule.field_path.is_empty() {
        let is_there = JsonPath::parse(&rule.field_path).ok().and_then(|path| {
            let names: Vec<String> = path.names()?.into_iter().map(str::to_owned).collect();
            names.iter().try_fold(schema, |schema, name| {
                at(schema, "properties").get(name).or_else(|| schema.get("additionalProperties"))
            })
        });
        if is_there.is_none() {
            errors.invalid(part.path_of("fieldPath"), &rule.field_path, "does not refer to a valid field");
        }
    }
}

fn exceeds(what: &str, cost: u64, budget: u64) -> String {
    let factor = cost as f64 / budget as f64;
    let factor = if factor > 100.0 { "more than 100x".to_owned() } else { format!("{factor:.1}x") };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and \
         maxLength where arrays, maps, and strings are declared)"
    )
}
