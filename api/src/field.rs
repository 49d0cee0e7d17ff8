//! Errors of validation: all of them at once, each with the path of its field.
//!
//! Wording follows Kubernetes' `field.Error`, because people and tests search for it.

use std::fmt::Display;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusCause;

/// Collects errors while walking down an object.
#[derive(Debug, Default, PartialEq)]
pub struct Errors {
    causes: Vec<StatusCause>,
}

/// A place in an object: `spec.containers[0].image`. Built on the way down, written only when an error is found.
#[derive(Clone, Copy)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    pub const fn root(field: &'a str) -> Path<'a> {
        Path { parent: None, step: Step::Field(field) }
    }

    pub fn at(&'a self, field: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Field(field) }
    }

    pub fn index(&'a self, index: usize) -> Path<'a> {
        Path { parent: Some(self), step: Step::Index(index) }
    }

    /// An entry of a map: `metadata.labels[app]`.
    pub fn key(&'a self, key: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Key(key) }
    }
}

impl Display for Path<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Field(field) if self.parent.is_some() => write!(f, ".{field}"),
            Step::Field(field) => f.write_str(field),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) => write!(f, "[{key}]"),
        }
    }
}

impl Errors {
    pub fn is_empty(&self) -> bool {
        self.causes.is_empty()
    }

    pub fn len(&self) -> usize {
        self.causes.len()
    }

    pub fn into_causes(self) -> Vec<StatusCause> {
        self.causes
    }

    pub fn causes(&self) -> &[StatusCause] {
        &self.causes
    }

    pub fn add(&mut self, reason: &str, path: impl Display, message: String) {
        self.causes.push(StatusCause {
            field: Some(path.to_string()),
            message: Some(message),
            reason: Some(reason.to_owned()),
        });
    }

    pub fn required(&mut self, path: impl Display, hint: &str) {
        let hint = if hint.is_empty() { String::new() } else { format!(": {hint}") };
        self.add("FieldValueRequired", path, format!("Required value{hint}"));
    }

    pub fn invalid(&mut self, path: impl Display, value: impl serde::Serialize, why: &str) {
        let value = serde_json::to_string(&value).unwrap_or_default();
        self.add("FieldValueInvalid", path, format!("Invalid value: {value}: {why}"));
    }

    pub fn not_supported(&mut self, path: impl Display, value: &str, supported: &[&str]) {
        let supported: Vec<String> = supported.iter().map(|value| format!("\"{value}\"")).collect();
        let message = format!("Unsupported value: \"{value}\": supported values: {}", supported.join(", "));
        self.add("FieldValueNotSupported", path, message);
    }

    pub fn duplicate(&mut self, path: impl Display, value: impl serde::Serialize) {
        let value = serde_json::to_string(&value).unwrap_or_default();
        self.add("FieldValueDuplicate", path, format!("Duplicate value: {value}"));
    }

    pub fn forbidden(&mut self, path: impl Display, why: &str) {
        self.add("FieldValueForbidden", path, format!("Forbidden: {why}"));
    }

    pub fn not_found(&mut self, path: impl Display, value: impl serde::Serialize) {
        let value = serde_json::to_string(&value).unwrap_or_default();
        self.add("FieldValueNotFound", path, format!("Not found: {value}"));
    }

    pub fn too_long(&mut self, path: impl Display, max_bytes: usize) {
        self.add("FieldValueTooLong", path, format!("Too long: may not be more than {max_bytes} bytes"));
    }

    pub fn type_invalid(&mut self, path: impl Display, value: impl serde::Serialize, why: &str) {
        let value = serde_json::to_string(&value).unwrap_or_default();
        self.add("FieldValueTypeInvalid", path, format!("Invalid value: {value}: {why}"));
    }

    pub fn merge(&mut self, other: Errors) {
        self.causes.extend(other.causes);
    }
}
