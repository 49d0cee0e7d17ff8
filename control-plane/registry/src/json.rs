//! Reading and filling JSON objects by path.

use serde_json::{Map, Value};

/// The text at a JSON pointer; an empty text counts as absent.
pub fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty())
}

pub fn number(value: &Value, pointer: &str) -> Option<i64> {
    value.pointer(pointer).and_then(Value::as_i64)
}

pub fn items<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The object at `field`, made where it is missing. `None` where something else stands there: validation will tell.
pub fn object<'a>(value: &'a mut Value, field: &str) -> Option<&'a mut Value> {
    let slot = value.as_object_mut()?.entry(field).or_insert_with(|| Value::Object(Map::new()));
    slot.is_object().then_some(slot)
}

/// The elements of a list, where there is one.
pub fn each<'a>(value: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> {
    value.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten()
}

/// Sets a field that is absent, null or an empty text.
pub fn default(value: &mut Value, field: &str, to: impl Into<Value>) {
    if let Some(map) = value.as_object_mut() {
        let absent = match map.get(field) {
            None | Some(Value::Null) => true,
            Some(Value::String(text)) => text.is_empty(),
            Some(_) => false,
        };
        if absent {
            map.insert(field.to_owned(), to.into());
        }
    }
}

pub fn set(value: &mut Value, field: &str, to: impl Into<Value>) {
    if let Some(map) = value.as_object_mut() {
        map.insert(field.to_owned(), to.into());
    }
}

/// Takes a field over from another object: absent there is absent here.
pub fn take_over(value: &mut Value, field: &str, from: &Value) {
    if let Some(map) = value.as_object_mut().filter(|map| map.get(field) != from.get(field)) {
        match from.get(field) {
            Some(old) => map.insert(field.to_owned(), old.clone()),
            None => map.remove(field),
        };
    }
}

pub fn remove(value: &mut Value, field: &str) {
    if let Some(map) = value.as_object_mut() {
        map.remove(field);
    }
}

/// `null` means absent: `creationTimestamp: null` is what many encoders write.
pub fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}
