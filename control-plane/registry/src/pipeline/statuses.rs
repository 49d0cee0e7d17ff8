//! Requests about the status of an object. Most writes of a cluster are such, and nothing else of the object needs to be
//! checked again.

use copepod_api::{Request, StatusResult};
use serde_json::Value;

use super::{World, check};
use crate::{Row, json};

/// What a request for the status may say.
pub fn is_of_status(field: &str) -> bool {
    ["apiVersion", "kind", "metadata", "status"].contains(&field)
}

/// Whether a request is about the status alone. Schemas of custom resources may require the rest.
pub fn is_about_status(row: &Row, request: &Request) -> bool {
    row.has_status() && !row.is_custom() && &*request.target.subresource == "status"
}

/// What a request for the status may say of a document.
pub fn stated(document: &Value) -> Value {
    let fields = document.as_object().into_iter().flatten().filter(|(field, _)| is_of_status(field));
    Value::Object(fields.map(|(field, value)| (field.clone(), value.clone())).collect())
}

/// Whether two documents differ in nothing but what a request for the status may say.
pub fn is_same_beside(one: &Value, other: &Value) -> bool {
    let count = |document| rest(document).count();
    count(one) == count(other) && rest(one).all(|(field, value)| other.get(field) == Some(value))
}

/// The object as `stated` says, which is checked, and beside that as it is.
pub fn admitted(
    world: &mut World<'_>,
    row: &Row,
    request: &Request,
    live: &Value,
    mut stated: Value,
) -> StatusResult<Value> {
    // Who set which field is most of the metadata, and is right where it is as it was.
    let (path, field) = ("/metadata", "managedFields");
    let known = live.pointer(path).and_then(|metadata| metadata.get(field));
    let is_known = known.is_some() && stated.pointer(path).and_then(|metadata| metadata.get(field)) == known;
    if let (true, Some(metadata)) = (is_known, stated.pointer_mut(path)) {
        json::remove(metadata, field);
    }
    let mut new = check::admitted(world, row, request, stated)?;
    if let (true, Some(known), Some(metadata)) = (is_known, known, new.pointer_mut(path)) {
        json::set(metadata, field, known.clone());
    }
    if let Some(new) = new.as_object_mut() {
        new.extend(rest(live).map(|(field, value)| (field.clone(), value.clone())));
    }
    Ok(new)
}

fn rest(document: &Value) -> impl Iterator<Item = (&String, &Value)> {
    document.as_object().into_iter().flatten().filter(|(field, _)| !is_of_status(field))
}
