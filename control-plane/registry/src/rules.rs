//! Rules that many kinds share, about fields named by their path: `spec.rules[0].host`.
//!
//! What has a wrong type never gets here: the schema refuses it before. So a rule may look at the JSON as it is.

use copepod_api::{field::Errors, quantity::Quantity};
use serde_json::Value;

const NO_VALUE: &Value = &Value::Null;

/// What stands at a path below `value`; null where nothing does.
pub fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    path.split('.').try_fold(value, |value, field| value.get(field)).unwrap_or(NO_VALUE)
}

pub fn text_at<'a>(value: &'a Value, path: &str) -> &'a str {
    at(value, path).as_str().unwrap_or_default()
}

pub fn list_at<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    at(value, path).as_array().map_or(&[], Vec::as_slice)
}

pub fn map_at<'a>(value: &'a Value, path: &str) -> impl Iterator<Item = (&'a str, &'a Value)> {
    at(value, path).as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), value))
}

/// The elements of a list, each with its path.
pub fn each<'a>(value: &'a Value, path: &'a str) -> impl Iterator<Item = (String, &'a Value)> {
    list_at(value, path).iter().enumerate().map(move |(index, item)| (format!("{path}[{index}]"), item))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// A part of an object, with the path that leads to it.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    pub value: &'a Value,
    /// Empty for the whole object.
    pub path: &'a str,
}

impl<'a> Part<'a> {
    pub fn whole(object: &'a Value) -> Part<'a> {
        Part { value: object, path: "" }
    }

    pub fn path_of(&self, field: &str) -> String {
        if self.path.is_empty() { field.to_owned() } else { format!("{}.{field}", self.path) }
    }

    pub fn is_set(&self, field: &str) -> bool {
        !is_empty(at(self.value, field))
    }

    /// It must be there, and not be empty.
    pub fn required(&self, field: &str, errors: &mut Errors) {
        if !self.is_set(field) {
            errors.required(self.path_of(field), "");
        }
    }

    /// Where it is there, it is one of these.
    pub fn one_of(&self, field: &str, supported: &[&str], errors: &mut Errors) {
        let value = text_at(self.value, field);
        if !value.is_empty() && !supported.contains(&value) {
            errors.not_supported(self.path_of(field), value, supported);
        }
    }

    /// Where it is there, it is a name by this rule.
    pub fn named(&self, field: &str, rule: fn(&str) -> Result<(), String>, errors: &mut Errors) {
        let value = text_at(self.value, field);
        if let Err(why) = rule(value)
            && !value.is_empty()
        {
            errors.invalid(self.path_of(field), value, &why);
        }
    }

    /// Where it is there, it is no smaller.
    pub fn at_least(&self, field: &str, least: i64, errors: &mut Errors) {
        if let Some(number) = at(self.value, field).as_i64().filter(|number| *number < least) {
            errors.invalid(self.path_of(field), number, &format!("must be greater than or equal to {least}"));
        }
    }

    /// Amounts by name, none of them negative.
    pub fn amounts(&self, field: &str, errors: &mut Errors) {
        for (name, value) in map_at(self.value, field) {
            let path = format!("{}[{name}]", self.path_of(field));
            match quantity(value) {
                Err(why) => errors.invalid(path, value, &why),
                Ok(amount) if amount.is_negative() => {
                    errors.invalid(path, value, "must be greater than or equal to 0");
                }
                Ok(_) => {}
            }
        }
    }
}

/// A quantity is written as text or as a number.
pub fn quantity(value: &Value) -> Result<Quantity, String> {
    match value {
        Value::String(text) => Quantity::parse(text),
        Value::Number(number) => Quantity::parse(&number.to_string()),
        _ => Err("must be a quantity".to_owned()),
    }
}

/// Fields that stay as they are from the creation on.
pub fn immutable(new: &Value, old: &Value, paths: &[&str], errors: &mut Errors) {
    for path in paths {
        let new = at(new, path);
        if new != at(old, path) {
            errors.invalid(path, new, "field is immutable");
        }
    }
}
