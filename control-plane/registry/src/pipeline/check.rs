//! From what a client sent to an object of a kind: is it one, does it say the right address, which of its fields exist.

use copepod_api::{
    Action, Kind, Patch, Request, Status, StatusResult, field::Errors, request::FieldValidation, schema::Findings,
};
use serde_json::Value;

use super::World;
use crate::{Row, json, json::text, objectmeta, opening::Opening};

/// How many unknown fields an error or the warnings of a request name.
const FINDINGS_SHOWN_MAX: usize = 20;

/// A copy of what the client sent, without nulls and unknown fields, with its address filled in from the request's.
pub fn admit(world: &mut World<'_>, row: &Row, request: &Request, sent: &Value) -> StatusResult<Value> {
    admitted(world, row, request, sent.clone())
}

/// The same, of what nobody else needs.
pub fn admitted(world: &mut World<'_>, row: &Row, request: &Request, mut object: Value) -> StatusResult<Value> {
    address(&row.kind, request, &mut object)?;
    fields(world, row, request, &mut object)?;
    Ok(object)
}

/// The object is of the right kind and stands where the request says.
fn address(kind: &Kind, request: &Request, object: &mut Value) -> StatusResult<()> {
    if !object.is_object() {
        return Err(Status::bad_request(format!("the body must be a JSON object of the kind {}", kind.name)));
    }
    for (field, expected) in [("apiVersion", kind.api_version()), ("kind", kind.name.to_string())] {
        match text(object, &format!("/{field}")) {
            None => json::set(object, field, expected),
            Some(found) if found == expected => {}
            Some(found) => {
                return Err(Status::bad_request(format!(
                    "the {field} in the data ({found}) does not match the expected {field} ({expected})"
                )));
            }
        }
    }
    let target = &request.target;
    let Some(metadata) = json::object(object, "metadata") else {
        return Err(unreadable(kind, "metadata: must be an object"));
    };
    for field in ["name", "namespace", "generateName"] {
        if metadata.get(field).is_some_and(|value| !value.is_string() && !value.is_null()) {
            return Err(unreadable(kind, &format!("metadata.{field}: must be a string")));
        }
    }
    match text(metadata, "/namespace") {
        Some(namespace) if namespace != &*target.namespace => {
            return Err(Status::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        _ if kind.is_namespaced() => json::set(metadata, "namespace", &*target.namespace),
        _ => json::remove(metadata, "namespace"),
    }
    match text(metadata, "/name") {
        Some(name) if !target.name.is_empty() && name != &*target.name => {
            let url = &target.name;
            Err(Status::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({url})"
            )))
        }
        None if !target.name.is_empty() => {
            json::set(metadata, "name", &*target.name);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Values of the wrong type are refused; unknown fields are refused, reported or dropped, as the client asked.
fn fields(world: &mut World<'_>, row: &Row, request: &Request, object: &mut Value) -> StatusResult<()> {
    if row.is_custom() {
        // What the schema fills in need not be sent, even where it is required.
        row.schema().fill_defaults(object);
    }
    let findings = row.schema().check(object);
    if row.is_custom() && !findings.errors.is_empty() {
        let name = text(object, "/metadata/name").unwrap_or_default();
        return Err(Status::invalid(&row.kind, name, findings.errors));
    }
    if !findings.errors.is_empty() {
        return Err(unreadable(&row.kind, &listed(findings.errors)));
    }
    if !findings.unknown.is_empty() {
        let mut sentences = findings.unknown_sentences();
        let hidden = sentences.len().saturating_sub(FINDINGS_SHOWN_MAX);
        sentences.truncate(FINDINGS_SHOWN_MAX);
        if hidden > 0 {
            sentences.push(format!("and {hidden} more"));
        }
        match request.options.field_validation {
            FieldValidation::Ignore => {}
            FieldValidation::Warn => sentences.into_iter().for_each(|sentence| world.warn(sentence)),
            FieldValidation::Strict if matches!(request.action, Action::Patch { patch: Patch::Apply(_) }) => {
                return Err(undeclared(row, request, &findings));
            }
            FieldValidation::Strict => {
                let meant: Vec<String> = findings
                    .suggestions
                    .iter()
                    .map(|(unknown, meant)| format!("; did you mean {meant:?} where you wrote {unknown:?}?"))
                    .collect();
                let sentence = format!("strict decoding error: {}{}", sentences.join(", "), meant.concat());
                return Err(unreadable(&row.kind, &sentence));
            }
        }
        row.schema().prune(object);
    }
    row.schema().normalize(object);
    Ok(())
}

/// An object that somebody changed on its way: with defaults again, and with nothing that its kind does not have.
pub fn readmit(row: &Row, object: &mut Value) -> StatusResult<()> {
    row.fill(object);
    let findings = row.schema().check(object);
    if !findings.errors.is_empty() && !row.is_custom() {
        return Err(Status::internal(listed(findings.errors)));
    }
    if !findings.errors.is_empty() {
        let name = text(object, "/metadata/name").unwrap_or_default();
        return Err(Status::invalid(&row.kind, name, findings.errors));
    }
    if !findings.unknown.is_empty() {
        row.schema().prune(object);
    }
    row.schema().normalize(object);
    Ok(())
}

/// What is applied has fields that the kind does not have, in the words of server-side apply (KEP-555).
fn undeclared(row: &Row, request: &Request, findings: &Findings) -> Status {
    let (kind, target) = (&row.kind, &request.target);
    let name = if target.namespace.is_empty() {
        format!("/{}", target.name)
    } else {
        format!("{}/{}", target.namespace, target.name)
    };
    let fault = |path: &String| {
        let meant = findings.suggestions.get(path).map(|meant| format!(" (did you mean {meant:?}?)"));
        format!(".{path}: field not declared in schema{}", meant.unwrap_or_default())
    };
    let faults: Vec<String> = findings.unknown.iter().take(FINDINGS_SHOWN_MAX).map(fault).collect();
    let faults = match &faults[..] {
        [one] => one.clone(),
        many => format!("errors:\n  {}", many.join("\n  ")),
    };
    let api_version = kind.api_version();
    let kind = &kind.name;
    Status::bad_request(format!("failed to create typed patch object ({name}; {api_version}, Kind={kind}): {faults}"))
}

fn listed(errors: Errors) -> String {
    let sentences: Vec<String> = errors
        .into_causes()
        .into_iter()
        .map(|cause| format!("{}: {}", cause.field.unwrap_or_default(), cause.message.unwrap_or_default()))
        .collect();
    sentences.join(", ")
}

/// The body is JSON, but not an object of this kind.
pub fn unreadable(kind: &Kind, why: &str) -> Status {
    let (version, name) = (&kind.version, &kind.name);
    Status::bad_request(format!("{name} in version \"{version}\" cannot be handled as a {name}: {why}"))
}

/// What the user wants of two objects differs: anything but metadata and status.
fn wants_differ(new: &Value, old: &Value) -> bool {
    fn wants(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
        let fields = object.as_object().into_iter().flatten();
        fields.filter(|(field, _)| *field != "metadata" && *field != "status")
    }
    !wants(new).eq(wants(old))
}

/// Everything that is wrong with an object, and with the change from `old` to it.
///
/// What did not change is not judged again: an object stored under older rules can still report its status, lose a
/// finalizer, and go.
///
/// A change that came through an opening has rules of its own.
pub fn validate(row: &Row, object: &Value, old: Option<&Value>, opening: Option<&Opening>) -> StatusResult<()> {
    let mut errors = Errors::default();
    objectmeta::validate(row, object, &mut errors);
    if let Some(old) = old {
        objectmeta::validate_update(object, old, &mut errors);
    }
    if old.is_none_or(|old| wants_differ(object, old)) {
        (row.hooks.validate)(object, &mut errors).map_err(|why| unreadable(&row.kind, &why))?;
        if let Some(old) = old {
            opening.map_or(row.hooks.validate_update, |opening| opening.validate_update)(object, old, &mut errors);
        }
    }
    if let Some(old) = old
        && object.get("status") != old.get("status")
    {
        (row.hooks.validate_status)(object, old, &mut errors);
    }
    let differs = old.is_none_or(|old| wants_differ(object, old) || object.get("status") != old.get("status"));
    if differs && errors.is_empty() {
        row.judge(object, old, &mut errors);
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Status::invalid(&row.kind, text(object, "/metadata/name").unwrap_or_default(), errors)),
    }
}
