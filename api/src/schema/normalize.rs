//! Brings objects into the form in which Kubernetes would return them.
//!
//! There, every object passes through typed structures on its way in, which drops nulls and rewrites quantities and
//! times; clients compare what they sent with what they get, so the same has to happen here.

use serde_json::Value;

use super::{Node, Schema, Slot, Text, check::whole};
use crate::{Quantity, time};

impl Schema {
    /// Drops nulls, writes quantities in their canonical form (`0.5` becomes `"500m"`), `metav1.Time` to the second in
    /// UTC, whole numbers without a fraction and base64 in one line. What the schema leaves open stays as it is.
    pub fn normalize(&self, object: &mut Value) {
        self.normalize_value(&self.root, object);
    }

    /// Fills in the defaults that the schema of a custom kind states. Rust types state none.
    pub fn fill_defaults(&self, object: &mut Value) {
        self.fill(&self.root, object);
    }

    fn normalize_value(&self, slot: &Slot, value: &mut Value) {
        match (self.node(slot), value) {
            (Node::Object(object), Value::Object(map)) => {
                map.retain(|name, value| {
                    let slot = object.fields.get(&**name).or(object.values.as_ref());
                    !value.is_null() || slot.is_none_or(|slot| slot.is_nullable)
                });
                for (name, value) in map {
                    if let Some(slot) = object.fields.get(&**name).or(object.values.as_ref()) {
                        self.normalize_value(slot, value);
                    }
                }
            }
            (Node::List(items), Value::Array(list)) => {
                list.iter_mut().for_each(|value| self.normalize_value(items, value))
            }
            (Node::Quantity, value) => {
                let text = match &*value {
                    Value::String(text) => text.trim().to_owned(),
                    Value::Number(number) => number.to_string(),
                    _ => return,
                };
                if let Ok(quantity) = Quantity::parse(&text) {
                    *value = quantity.to_string().into();
                }
            }
            (Node::Text(Text::Time), Value::String(text)) => {
                if let Ok(at) = text.parse() {
                    *text = time::rfc3339(at);
                }
            }
            (Node::Text(Text::Bytes), Value::String(text)) => text.retain(|c| c != '\n' && c != '\r'),
            (Node::Integer(..) | Node::IntOrString, Value::Number(number)) if number.is_f64() => {
                if let Some(whole) = whole(number) {
                    *number = whole.into();
                }
            }
            _ => (),
        }
    }

    fn fill(&self, slot: &Slot, value: &mut Value) {
        match (self.node(slot), value) {
            (Node::Object(object), Value::Object(map)) => {
                for (name, slot) in &object.fields {
                    let is_missing = map.get(&**name).is_none_or(|value| value.is_null() && !slot.is_nullable);
                    if let (true, Some(default)) = (is_missing, &slot.default) {
                        map.insert(name.to_string(), (**default).clone());
                    }
                }
                for (name, value) in map {
                    if let Some(slot) = object.fields.get(&**name).or(object.values.as_ref()) {
                        self.fill(slot, value);
                    }
                }
            }
            (Node::List(items), Value::Array(list)) => list.iter_mut().for_each(|value| self.fill(items, value)),
            _ => (),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::testing;

    #[test]
    fn values_take_their_canonical_form() {
        let mut object = json!({"metadata": {"creationTimestamp": null, "deletionTimestamp": "2026-11-23T12:00:00.5+01:00",
            "annotations": {"a": null}}, "spec": {"priority": 3.0, "hostname": null, "containers": [{"name": "c", "resources": {
            "limits": {"cpu": 0.5, "memory": "1024Mi", "x": 2}}, "livenessProbe": {"tcpSocket": {"port": 80.0}}}]}});
        Schema::of(&testing::pod()).normalize(&mut object);
        assert_eq!(
            object,
            json!({"metadata": {"deletionTimestamp": "2026-11-23T11:00:00Z", "annotations": {}},
            "spec": {"priority": 3, "containers": [{"name": "c", "resources": {"limits": {"cpu": "500m", "memory": "1Gi",
            "x": "2"}}, "livenessProbe": {"tcpSocket": {"port": 80}}}]}})
        );
    }

    #[test]
    fn defaults_of_custom_kinds() {
        let mut object = json!({"spec": {"nil": null, "rules": [{"id": "x"}]}});
        let schema = Schema::of(&testing::custom());
        schema.fill_defaults(&mut object);
        schema.normalize(&mut object);
        assert_eq!(object, json!({"spec": {"mode": "fast", "nil": null, "rules": [{"id": "x", "zone": "a"}]}}));
    }

    #[test]
    fn base64_is_kept_in_one_line() {
        let kind = testing::typed::<k8s_openapi::api::core::v1::Secret>("", "Secret", "secrets");
        let schema = Schema::of(&kind);
        let mut object = json!({"data": {"key": "YWJj\nZGVm\n"}});
        assert!(schema.check(&object).is_empty());
        schema.normalize(&mut object);
        assert_eq!(object, json!({"data": {"key": "YWJjZGVm"}}));
        assert!(!schema.check(&json!({"data": {"key": "not base64!"}})).is_empty());
    }
}
