//! What a request wishes of a program whose kinds nobody here knows: its path and method have to say it.

use copepod_access::{Attributes, Wish};
use http::Method;

use crate::query::Query;

/// The parts of `/apis/GROUP/VERSION/…`.
pub struct Parts {
    pub group: String,
    pub version: String,
    rest: Vec<String>,
}

impl Parts {
    pub fn of(path: &str) -> Option<Parts> {
        let mut parts = path.split('/').filter(|part| !part.is_empty());
        if parts.next() != Some("apis") {
            return None;
        }
        let decoded = |part: &str| crate::path::decoded(part).ok();
        let (group, version) = (decoded(parts.next()?)?, decoded(parts.next()?)?);
        Some(Parts { group, version, rest: parts.map(decoded).collect::<Option<_>>()? })
    }

    /// As Kubernetes reads paths: resource, name and subresource, in a namespace or not. `verb` is what `verb` says.
    pub fn wish<'a>(&'a self, path: &'a str, verb: &'a str) -> Wish<'a> {
        let part = |index: usize| self.rest.get(index).map(String::as_str).unwrap_or_default();
        if self.rest.is_empty() {
            return Wish::Path { verb, path };
        }
        let is_inside = part(0) == "namespaces" && self.rest.len() > 2;
        let (namespace, first) = if is_inside { (part(1), 2) } else { ("", 0) };
        Wish::Object(Attributes {
            verb,
            group: &self.group,
            resource: part(first),
            name: part(first + 1),
            subresource: part(first + 2),
            namespace,
            ..Attributes::default()
        })
    }

    /// Kubernetes' verb for a method; of a path that names no resource, the method's own name.
    pub fn verb(&self, method: &Method, query: &Query) -> &'static str {
        let first =
            if self.rest.first().is_some_and(|part| part == "namespaces") && self.rest.len() > 2 { 2 } else { 0 };
        let is_collection = self.rest.len() <= first + 1 && !self.rest.is_empty();
        match *method {
            Method::GET if is_collection && query.flag("watch").unwrap_or(false) => "watch",
            Method::GET if is_collection => "list",
            Method::POST if self.rest.is_empty() => "post",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if is_collection => "deletecollection",
            Method::DELETE => "delete",
            _ => "get",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_methods_say_what_is_wished() {
        let cases = [
            (Method::GET, "/apis/g/v1", r#"get path "/apis/g/v1""#),
            (Method::GET, "/apis/g/v1/flunders", r#"list resource "flunders" in API group "g" at the cluster scope"#),
            (
                Method::GET,
                "/apis/g/v1/namespaces/n/flunders?watch=1",
                r#"watch resource "flunders" in API group "g" in the namespace "n""#,
            ),
            (
                Method::PUT,
                "/apis/g/v1/namespaces/n/flunders/a/status",
                r#"update resource "flunders/status" in API group "g" in the namespace "n""#,
            ),
            (
                Method::DELETE,
                "/apis/g/v1/namespaces/n/flunders",
                r#"deletecollection resource "flunders" in API group "g" in the namespace "n""#,
            ),
        ];
        for (method, path, expected) in cases {
            let uri: http::Uri = path.parse().unwrap();
            let parts = Parts::of(uri.path()).unwrap();
            let verb = parts.verb(&method, &Query::of(&uri).unwrap());
            assert_eq!(parts.wish(uri.path(), verb).to_string(), expected);
        }
        assert!(Parts::of("/api/v1/pods").is_none() && Parts::of("/apis/g").is_none());
    }
}
