//! Errors as clients see them: Kubernetes `Status` objects with a reason, a code and a sentence that says what to do.

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use serde_json::Value;

use crate::{Kind, Resource, field};

/// A refusal. One function per sentence, so that wording stands in one place.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{}", self.message())]
pub struct Status(Box<meta::Status>);

pub type StatusResult<T> = Result<T, Status>;

impl Status {
    pub fn new(code: u16, reason: &str, message: impl Into<String>) -> Status {
        Status(Box::new(meta::Status {
            code: Some(code.into()),
            reason: Some(reason.to_owned()),
            message: Some(message.into()),
            status: Some("Failure".to_owned()),
            ..meta::Status::default()
        }))
    }

    fn about(mut self, resource: &Resource, name: &str) -> Status {
        self.0.details = Some(meta::StatusDetails {
            group: (!resource.group.is_empty()).then(|| resource.group.to_string()),
            kind: Some(resource.plural.to_string()),
            name: (!name.is_empty()).then(|| name.to_owned()),
            ..meta::StatusDetails::default()
        });
        self
    }

    pub fn bad_request(message: impl Into<String>) -> Status {
        Status::new(400, "BadRequest", message)
    }

    pub fn unauthorized() -> Status {
        Status::new(401, "Unauthorized", "Unauthorized")
    }

    pub fn forbidden(resource: &Resource, name: &str, why: impl std::fmt::Display) -> Status {
        let named = if name.is_empty() { String::new() } else { format!(" \"{name}\"") };
        Status::new(403, "Forbidden", format!("{resource}{named} is forbidden: {why}")).about(resource, name)
    }

    pub fn not_found(resource: &Resource, name: &str) -> Status {
        Status::new(404, "NotFound", format!("{resource} \"{name}\" not found")).about(resource, name)
    }

    /// A path that nothing is served at.
    pub fn no_such_path() -> Status {
        Status::new(404, "NotFound", "the server could not find the requested resource")
    }

    pub fn method_not_allowed(message: impl Into<String>) -> Status {
        Status::new(405, "MethodNotAllowed", message)
    }

    pub fn not_acceptable(message: impl Into<String>) -> Status {
        Status::new(406, "NotAcceptable", message)
    }

    pub fn already_exists(resource: &Resource, name: &str) -> Status {
        Status::new(409, "AlreadyExists", format!("{resource} \"{name}\" already exists")).about(resource, name)
    }

    pub fn conflict(resource: &Resource, name: &str, why: impl std::fmt::Display) -> Status {
        Status::new(409, "Conflict", format!("Operation cannot be fulfilled on {resource} \"{name}\": {why}"))
            .about(resource, name)
    }

    /// The object changed between being read and being written.
    pub fn changed_meanwhile(resource: &Resource, name: &str) -> Status {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Status::conflict(resource, name, why)
    }

    pub fn expired(message: impl Into<String>) -> Status {
        Status::new(410, "Expired", message)
    }

    pub fn too_large(message: impl Into<String>) -> Status {
        Status::new(413, "RequestEntityTooLarge", message)
    }

    pub fn unsupported_media_type(message: impl Into<String>) -> Status {
        Status::new(415, "UnsupportedMediaType", message)
    }

    /// Values that break the rules of their kind; one cause a field.
    pub fn invalid(kind: &Kind, name: &str, errors: field::Errors) -> Status {
        Status::invalid_as(&kind.group, &kind.name, name, errors)
    }

    /// The same for what is no object: the options of a request.
    pub fn invalid_as(group: &str, kind: &str, name: &str, errors: field::Errors) -> Status {
        let causes = errors.into_causes();
        let listed: Vec<String> = causes
            .iter()
            .map(|cause| {
                format!("{}: {}", cause.field.as_deref().unwrap_or(""), cause.message.as_deref().unwrap_or(""))
            })
            .collect();
        let listed = if listed.len() == 1 { listed[0].clone() } else { format!("[{}]", listed.join(", ")) };
        let full_kind = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let mut status = Status::new(422, "Invalid", format!("{full_kind} \"{name}\" is invalid: {listed}"));
        status.0.details = Some(meta::StatusDetails {
            group: (!group.is_empty()).then(|| group.to_owned()),
            kind: Some(kind.to_owned()),
            name: Some(name.to_owned()),
            causes: Some(causes),
            ..meta::StatusDetails::default()
        });
        status
    }

    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: i32) -> Status {
        let mut status = Status::new(429, "TooManyRequests", message);
        status.details_mut().retry_after_seconds = Some(retry_after_seconds);
        status
    }

    pub fn internal(message: impl std::fmt::Display) -> Status {
        Status::new(500, "InternalError", format!("Internal error occurred: {message}"))
    }

    pub fn unavailable(message: impl Into<String>) -> Status {
        Status::new(503, "ServiceUnavailable", message)
    }

    pub fn timeout(message: impl Into<String>) -> Status {
        Status::new(504, "Timeout", message)
    }

    pub fn with_cause(mut self, reason: &str, field: &str, message: impl Into<String>) -> Status {
        let cause = meta::StatusCause {
            field: (!field.is_empty()).then(|| field.to_owned()),
            message: Some(message.into()),
            reason: Some(reason.to_owned()),
        };
        self.details_mut().causes.get_or_insert_default().push(cause);
        self
    }

    /// A refused page of a list says where an inconsistent one would go on.
    pub fn with_continue(mut self, token: String) -> Status {
        self.0.metadata.continue_ = Some(token);
        self
    }

    pub fn code(&self) -> u16 {
        self.0.code.and_then(|code| u16::try_from(code).ok()).unwrap_or(500)
    }

    pub fn reason(&self) -> &str {
        self.0.reason.as_deref().unwrap_or_default()
    }

    pub fn message(&self) -> &str {
        self.0.message.as_deref().unwrap_or_default()
    }

    pub fn details_mut(&mut self) -> &mut meta::StatusDetails {
        self.0.details.get_or_insert_default()
    }

    pub fn details(&self) -> Option<&meta::StatusDetails> {
        self.0.details.as_ref()
    }

    pub fn to_value(&self) -> Value {
        serde_json::to_value(&*self.0).expect("a Status always encodes")
    }

    /// A Status read from a response body.
    pub fn from_value(value: Value) -> Option<Status> {
        serde_json::from_value(value).ok().map(|status| Status(Box::new(status)))
    }
}
