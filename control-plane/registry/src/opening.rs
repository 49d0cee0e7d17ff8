//! Subresources through which fields of the spec change that no other update may touch.
//!
//! A pod's spec is fixed once it is written, but for two doors: `ephemeralcontainers` and `resize`. Each is a list of
//! fields and the rules of changing them. What else a request says is not looked at, as with `status`.

use copepod_api::field::Errors;
use serde_json::{Value, json};

use crate::json::{object, set, take_over};

/// A subresource that changes certain fields and nothing else.
#[derive(Clone, Copy)]
pub(crate) struct Opening {
    pub name: &'static str,
    /// Paths from the top of the object. `*` is every element of a list, and elements answer each other by their names.
    pub fields: &'static [&'static [&'static str]],
    /// What is wrong with a change that came this way: new, old. Instead of the rules for updates of the whole object.
    pub validate_update: fn(&Value, &Value, &mut Errors),
}

impl Opening {
    /// The object as it is, with the opened fields as they were sent.
    pub fn changed(&self, live: &Value, sent: &Value) -> Value {
        let mut changed = live.clone();
        self.fields.iter().for_each(|path| carry(&mut changed, sent, path));
        if let Some(metadata) = object(&mut changed, "metadata") {
            take_over(metadata, "managedFields", sent.get("metadata").unwrap_or(&Value::Null));
        }
        changed
    }

    /// What an applier can come to own this way.
    pub fn stated(&self, sent: &Value) -> Value {
        let mut own = json!({});
        for field in ["apiVersion", "kind", "metadata"] {
            take_over(&mut own, field, sent);
        }
        self.fields.iter().for_each(|path| pick(&mut own, sent, path));
        own
    }
}

/// Takes what stands at `path` over. Lists with other elements than before are taken as they are, for the rules to see.
fn carry(into: &mut Value, from: &Value, path: &[&str]) {
    match path {
        [] => {}
        [field] => take_over(into, field, from),
        [list, "*", rest @ ..] => match (into.get_mut(*list), from.get(*list)) {
            (Some(Value::Array(own)), Some(Value::Array(sent))) if names(own).eq(names(sent)) => {
                own.iter_mut().zip(sent).for_each(|(own, sent)| carry(own, sent, rest));
            }
            _ => take_over(into, list, from),
        },
        [field, rest @ ..] => {
            let nothing = Value::Null;
            if let Some(own) = object(into, field) {
                carry(own, from.get(*field).unwrap_or(&nothing), rest);
            }
        }
    }
}

/// Adds what stands at `path`, with the names of the elements on the way and nothing else.
fn pick(into: &mut Value, from: &Value, path: &[&str]) {
    match path {
        [] => {}
        [field] => {
            if let Some(value) = from.get(*field) {
                set(into, field, value.clone());
            }
        }
        [list, "*", rest @ ..] => {
            let Some(sent) = from.get(*list).and_then(Value::as_array) else { return };
            let known = into.get(*list).and_then(Value::as_array).cloned().unwrap_or_default();
            let picked = sent.iter().enumerate().map(|(index, sent)| {
                let mut own = known.get(index).cloned().unwrap_or_else(|| json!({}));
                take_over(&mut own, "name", sent);
                pick(&mut own, sent, rest);
                own
            });
            set(into, list, picked.collect::<Vec<_>>());
        }
        [field, rest @ ..] => {
            if let (Some(own), Some(sent)) = (object(into, field), from.get(*field)) {
                pick(own, sent, rest);
            }
        }
    }
}

fn names(list: &[Value]) -> impl Iterator<Item = Option<&Value>> {
    list.iter().map(|element| element.get("name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPENING: Opening = Opening {
        name: "size",
        fields: &[&["spec", "parts", "*", "size"], &["spec", "parts", "*", "rule"]],
        validate_update: |_, _, _| (),
    };

    #[test]
    fn only_what_is_opened_changes() {
        let live = json!({"metadata": {"name": "a"}, "spec": {"x": 1, "parts": [{"name": "p", "size": 1, "y": 1}]}});
        let sent = json!({"metadata": {"name": "a", "labels": {"l": "m"}}, "spec": {"parts": [{"name": "p", "size": 2, "y": 2}]}});
        let mut expected = live.clone();
        expected["spec"]["parts"][0]["size"] = json!(2);
        assert_eq!(OPENING.changed(&live, &sent), expected);
    }

    #[test]
    fn other_elements_are_left_for_the_rules_to_judge() {
        let live = json!({"metadata": {}, "spec": {"parts": [{"name": "p"}]}});
        let sent = json!({"metadata": {}, "spec": {"parts": [{"name": "q", "y": 2}]}});
        assert_eq!(OPENING.changed(&live, &sent)["spec"], sent["spec"]);
    }

    #[test]
    fn an_applier_owns_what_is_opened_and_nothing_else() {
        let sent = json!({"kind": "K", "spec": {"x": 1, "parts": [{"name": "p", "size": 2, "rule": "r", "y": 2}]}});
        let own = json!({"kind": "K", "spec": {"parts": [{"name": "p", "size": 2, "rule": "r"}]}});
        assert_eq!(OPENING.stated(&sent), own);
    }
}
