//! Lists, and what their order means.
//!
//! Kubernetes knows lists whose order means nothing: sets, and lists whose elements are known by keys
//! (`x-kubernetes-list-type`). Two of them with the same elements are equal, and `+` brings together what both have.

use std::{collections::BTreeMap, ops::Deref, sync::Arc};

use crate::{Value, json::to_json, value::Key};

/// A list as an expression sees it.
#[derive(Clone, Debug)]
pub struct List {
    items: Vec<Value>,
    order: Order,
}

/// What tells the elements of a list apart.
#[derive(Clone, Debug, Default)]
pub enum Order {
    /// Their places.
    #[default]
    Given,
    /// What they are: each is there once.
    Set,
    /// The values of these fields.
    Keyed(Arc<[String]>),
}

impl Deref for List {
    type Target = Vec<Value>;

    fn deref(&self) -> &Vec<Value> {
        &self.items
    }
}

impl From<Vec<Value>> for List {
    fn from(items: Vec<Value>) -> List {
        List { items, order: Order::Given }
    }
}

impl List {
    pub fn new(items: Vec<Value>, order: Order) -> List {
        List { items, order }
    }

    pub fn is_equal(&self, other: &List) -> bool {
        if self.len() != other.len() {
            return false;
        }
        let order = match (&self.order, &other.order) {
            (Order::Given, Order::Given) => {
                return self.iter().zip(other.iter()).all(|(one, other)| one.is_equal(other));
            }
            (Order::Given, order) | (order, _) => order,
        };
        let known: BTreeMap<String, &Value> = other.iter().map(|item| (order.name(item), item)).collect();
        self.iter().all(|item| known.get(&order.name(item)).is_some_and(|other| item.is_equal(other)))
    }

    /// The elements of this list in their places, those that the other has as well as the other has them; then the rest
    /// of the other.
    pub fn with(&self, other: &List) -> List {
        let mut items = self.items.clone();
        if let Order::Given = self.order {
            items.extend(other.iter().cloned());
            return items.into();
        }
        let mut places: BTreeMap<String, usize> =
            items.iter().enumerate().map(|(place, item)| (self.order.name(item), place)).collect();
        for item in other.iter() {
            match places.get(&self.order.name(item)) {
                Some(place) => items[*place] = item.clone(),
                None => {
                    places.insert(self.order.name(item), items.len());
                    items.push(item.clone());
                }
            }
        }
        List::new(items, self.order.clone())
    }
}

impl Order {
    /// What tells this element from others.
    fn name(&self, item: &Value) -> String {
        let text = |value: &Value| to_json(value).map(|json| json.to_string()).unwrap_or_default();
        match (self, item) {
            (Order::Keyed(keys), Value::Map(fields)) => {
                let values = keys.iter().map(|key| fields.get(&Key::text(key)).map(text).unwrap_or_default());
                values.collect::<Vec<_>>().join(",")
            }
            (_, item) => text(item),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn list(json: serde_json::Value, order: Order) -> List {
        let Value::List(list) = Value::from(&json) else { panic!("{json}") };
        List::new(list.to_vec(), order)
    }

    fn shown(list: List) -> String {
        to_json(&Value::List(Arc::new(list))).unwrap().to_string()
    }

    #[test]
    fn the_order_of_sets_means_nothing_and_that_of_others_does() {
        let set = |json| list(json, Order::Set);
        let given = |json| list(json, Order::Given);
        assert!(set(json!([1, 2])).is_equal(&given(json!([2, 1]))));
        assert!(given(json!([2, 1])).is_equal(&set(json!([1, 2]))));
        assert!(!set(json!([1, 2])).is_equal(&set(json!([1, 3]))));
        assert!(!given(json!([1, 2])).is_equal(&given(json!([2, 1]))));
        assert_eq!(shown(set(json!(["b", "a"])).with(&set(json!(["c", "b"])))), r#"["b","a","c"]"#);
        assert_eq!(shown(given(json!([1])).with(&given(json!([1])))), "[1,1]");
    }

    #[test]
    fn elements_with_keys_take_the_place_of_those_with_the_same() {
        let keyed = |json| list(json, Order::Keyed(["name".to_owned(), "port".to_owned()].into()));
        let one = keyed(json!([{"name": "a", "port": 1, "x": 1}, {"name": "b", "port": 1}]));
        let other = keyed(json!([{"name": "b", "port": 1}, {"name": "a", "port": 1, "x": 1}]));
        assert!(one.is_equal(&other));
        let changed = keyed(json!([{"name": "a", "port": 1, "x": 2}, {"name": "a", "port": 2}]));
        assert!(!one.is_equal(&changed));
        assert_eq!(
            shown(one.with(&changed)),
            r#"[{"name":"a","port":1,"x":2},{"name":"b","port":1},{"name":"a","port":2}]"#
        );
    }
}
