//! What somebody wants to do.

use std::fmt;

/// Something about objects, or about a path that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish<'a> {
    Object(Attributes<'a>),
    Path { verb: &'a str, path: &'a str },
}

/// What a wish about objects names. Empty: all, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes<'a> {
    pub verb: &'a str,
    pub group: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    /// The node that a selection of pods is limited to.
    pub selected_node: &'a str,
}

impl<'a> Wish<'a> {
    pub fn verb(&self) -> &'a str {
        match self {
            Wish::Object(attributes) => attributes.verb,
            Wish::Path { verb, .. } => verb,
        }
    }

    /// The namespace whose bindings count besides those of the cluster.
    pub fn namespace(&self) -> &'a str {
        match self {
            Wish::Object(attributes) => attributes.namespace,
            Wish::Path { .. } => "",
        }
    }

    /// `User "x" cannot list resource "pods" in API group "" in the namespace "y"`.
    pub fn refusal(&self, user: &str) -> String {
        format!("User {user:?} cannot {self}")
    }
}

impl fmt::Display for Wish<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wish = match self {
            Wish::Path { verb, path } => return write!(f, "{verb} path {path:?}"),
            Wish::Object(wish) => wish,
        };
        write!(f, "{} resource \"{}\" in API group {:?}", wish.verb, wish.full_resource(), wish.group)?;
        match wish.namespace {
            "" => f.write_str(" at the cluster scope"),
            namespace => write!(f, " in the namespace {namespace:?}"),
        }
    }
}

impl Attributes<'_> {
    /// `pods`, `pods/log`.
    pub fn full_resource(&self) -> String {
        match self.subresource {
            "" => self.resource.to_owned(),
            subresource => format!("{}/{subresource}", self.resource),
        }
    }
}
