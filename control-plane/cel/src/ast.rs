//! Expressions, with their macros as what they mean.

use crate::Value;

/// An expression and where it stands in the text.
#[derive(Clone, Debug)]
pub struct Node {
    pub kind: Kind,
    /// Line and column, from one.
    pub at: (usize, usize),
}

#[derive(Clone, Debug)]
pub enum Kind {
    Literal(Value),
    Name(String),
    Select(Box<Select>),
    /// A function, an operator, or a member function, whose target is the first argument.
    Call(Call),
    And(Box<(Node, Node)>),
    Or(Box<(Node, Node)>),
    /// Condition, then, else.
    Choice(Box<(Node, Node, Node)>),
    List(Vec<Element>),
    Map(Vec<Entry>),
    /// `Object.spec{replicas: 1}`.
    Structure {
        name: String,
        fields: Vec<Field>,
    },
    Fold(Box<Fold>),
    /// `optMap` and `optFlatMap`: a value that is looked at where it is there.
    IfPresent(Box<IfPresent>),
}

#[derive(Clone, Debug)]
pub struct Select {
    pub of: Node,
    pub field: String,
    pub how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// `a.b`
    Get,
    /// `has(a.b)`
    Test,
    /// `a.?b`
    Try,
}

#[derive(Clone, Debug)]
pub struct Call {
    pub name: String,
    pub is_member: bool,
    pub args: Vec<Node>,
}

#[derive(Clone, Debug)]
pub struct Element {
    pub value: Node,
    /// `[?a]`: an optional value, which may not be there.
    pub is_optional: bool,
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub key: Node,
    pub value: Node,
    pub is_optional: bool,
}

#[derive(Clone, Debug)]
pub struct Field {
    pub name: String,
    pub value: Node,
    pub is_optional: bool,
}

/// A walk over the elements of a list or the keys of a map.
#[derive(Clone, Debug)]
pub struct Fold {
    pub kind: FoldKind,
    pub range: Node,
    pub name: String,
    /// With two names: index and element, or key and value.
    pub second: Option<String>,
    /// Elements that do not fit it are left out.
    pub filter: Option<Node>,
    pub body: Node,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoldKind {
    All,
    Exists,
    ExistsOne,
    /// `map` and `filter`, `transformList`.
    List,
    /// `sortBy`: the elements in the order of what the body makes of them.
    Sorted,
    /// `transformMap`: new values for the keys.
    Values,
    /// `transformMapEntry`: new maps of one entry.
    Entries,
}

#[derive(Clone, Debug)]
pub struct IfPresent {
    pub of: Node,
    pub name: String,
    pub body: Node,
    /// The body is an optional value itself.
    pub is_flat: bool,
}

impl Node {
    /// Whether a name stands anywhere in it.
    pub fn uses(&self, wanted: &str) -> bool {
        let uses = |node: &Node| node.uses(wanted);
        match &self.kind {
            Kind::Literal(_) => false,
            Kind::Name(name) => name == wanted,
            Kind::Select(select) => uses(&select.of),
            Kind::Call(call) => call.args.iter().any(uses),
            Kind::And(sides) | Kind::Or(sides) => uses(&sides.0) || uses(&sides.1),
            Kind::Choice(parts) => uses(&parts.0) || uses(&parts.1) || uses(&parts.2),
            Kind::List(elements) => elements.iter().any(|element| uses(&element.value)),
            Kind::Map(entries) => entries.iter().any(|entry| uses(&entry.key) || uses(&entry.value)),
            Kind::Structure { fields, .. } => fields.iter().any(|field| uses(&field.value)),
            Kind::Fold(fold) => uses(&fold.range) || fold.filter.as_ref().is_some_and(uses) || uses(&fold.body),
            Kind::IfPresent(present) => uses(&present.of) || uses(&present.body),
        }
    }
}
