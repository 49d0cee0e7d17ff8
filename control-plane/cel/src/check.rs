//! Which type an expression has, what is wrong with it before there are any values, and what it may cost at most.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    ast::{Call, Fold, FoldKind, How, Kind, Node, Select},
    declarations,
    parse::marked,
    program::Wrong,
    types::{Meanings, Type},
};

/// The names that an expression may use.
#[derive(Clone, Default)]
pub struct Scope {
    names: BTreeMap<String, Type>,
    /// Objects may be made: `Object{…}`, `JSONPatch{…}`.
    pub makes_objects: bool,
}

impl Scope {
    pub fn with(mut self, name: &str, type_: Type) -> Scope {
        self.names.insert(name.to_owned(), type_);
        self
    }

    pub fn declare(&mut self, name: &str, type_: Type) {
        self.names.insert(name.to_owned(), type_);
    }
}

/// What is known of an expression, or of a part of one.
#[derive(Clone, Debug)]
pub struct Checked {
    pub type_: Type,
    /// What it may cost at most.
    pub cost: u64,
}

/// Infers the type of the whole.
pub fn check(text: &str, node: &Node, scope: &Scope) -> Result<Checked, Wrong> {
    let mut checker = Checker { text, scope, local: Vec::new(), errors: Vec::new() };
    let checked = checker.node(node);
    match checker.errors.is_empty() {
        true => Ok(checked),
        false => Err(Wrong::new(checker.errors.join("\n"))),
    }
}

/// How many mistakes in one expression are told.
const ERRORS_MAX: usize = 10;

const TYPES: &[&str] =
    &["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint", "optional_type"];

struct Checker<'a> {
    text: &'a str,
    scope: &'a Scope,
    /// Names that macros give to elements; the innermost last.
    local: Vec<(String, Type)>,
    errors: Vec<String>,
}

fn free(type_: Type) -> Checked {
    Checked { type_, cost: 0 }
}

impl Checker<'_> {
    fn wrong(&mut self, node: &Node, why: &str) -> Type {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(marked(self.text, node.at.0, node.at.1, why));
        }
        Type::Dyn
    }

    fn node(&mut self, node: &Node) -> Checked {
        match &node.kind {
            Kind::Literal(value) => free(literal(value)),
            Kind::Name(name) => Checked { type_: self.named(node, name), cost: 1 },
            Kind::Select(select) => self.select(node, select),
            Kind::And(sides) | Kind::Or(sides) => {
                let (left, right) = (self.node(&sides.0), self.node(&sides.1));
                let operator = if matches!(node.kind, Kind::And(_)) { "_&&_" } else { "_||_" };
                if !self.fits(&Type::Bool, &left.type_) || !self.fits(&Type::Bool, &right.type_) {
                    self.no_overload(node, operator, &[left.type_, right.type_]);
                }
                Checked { type_: Type::Bool, cost: left.cost.saturating_add(right.cost) }
            }
            Kind::Choice(parts) => {
                let (condition, then, otherwise) = (self.node(&parts.0), self.node(&parts.1), self.node(&parts.2));
                let mut meanings = Meanings::default();
                let all = [condition.type_.clone(), then.type_.clone(), otherwise.type_.clone()];
                let any = Type::Param('A');
                let fits = self.fits(&Type::Bool, &condition.type_)
                    && meanings.fits(&any, &then.type_)
                    && meanings.fits(&any, &otherwise.type_);
                if !fits {
                    self.no_overload(node, "_?_:_", &all);
                }
                let cost = condition.cost.saturating_add(then.cost.max(otherwise.cost));
                Checked { type_: meanings.meant(&any), cost }
            }
            Kind::List(elements) => {
                let (mut of, mut cost) = (None, 10_u64);
                for element in elements {
                    let checked = self.node(&element.value);
                    cost = cost.saturating_add(checked.cost);
                    let type_ = if element.is_optional { inner(&checked.type_) } else { checked.type_ };
                    of = Some(joined(of, type_));
                }
                let of = of.unwrap_or(Type::Dyn);
                Checked { type_: Type::List(Arc::new(of), elements.len() as u64), cost }
            }
            Kind::Map(entries) => {
                let (mut key, mut value, mut cost) = (None, None, 30_u64);
                for entry in entries {
                    let (own_key, own_value) = (self.node(&entry.key), self.node(&entry.value));
                    cost = cost.saturating_add(own_key.cost).saturating_add(own_value.cost);
                    let own = if entry.is_optional { inner(&own_value.type_) } else { own_value.type_ };
                    key = Some(joined(key, own_key.type_));
                    value = Some(joined(value, own));
                }
                let (key, value) = (key.unwrap_or(Type::Dyn), value.unwrap_or(Type::Dyn));
                Checked { type_: Type::Map(Arc::new(key), Arc::new(value), entries.len() as u64), cost }
            }
            Kind::Structure { name, fields } => {
                let is_known = name == "JSONPatch" || name == "Object" || name.starts_with("Object.");
                if !self.scope.makes_objects || !is_known {
                    self.wrong(node, &format!("undeclared reference to '{name}' (in container '')"));
                }
                let costs = fields.iter().map(|field| self.node(&field.value).cost);
                let cost = costs.fold(40_u64, u64::saturating_add);
                Checked { type_: Type::object(name, []), cost }
            }
            Kind::Call(call) => self.call(node, call),
            Kind::Fold(fold) => self.fold(node, fold),
            Kind::IfPresent(present) => {
                let of = self.node(&present.of);
                self.local.push((present.name.clone(), inner(&of.type_)));
                let body = self.node(&present.body);
                self.local.pop();
                let type_ = if present.is_flat { body.type_ } else { Type::Optional(Arc::new(body.type_)) };
                Checked { type_, cost: of.cost.saturating_add(body.cost) }
            }
        }
    }

    fn named(&mut self, node: &Node, name: &str) -> Type {
        let bare = name.trim_start_matches('.');
        let local = self.local.iter().rev().find(|(own, _)| own == name).map(|(_, type_)| type_.clone());
        if let Some(found) = local.or_else(|| self.scope.names.get(bare).cloned()) {
            return found;
        }
        if TYPES.contains(&bare) {
            return Type::Type;
        }
        self.wrong(node, &format!("undeclared reference to '{name}' (in container '')"))
    }

    fn select(&mut self, node: &Node, select: &Select) -> Checked {
        if let (Kind::Name(name), How::Get) = (&select.of.kind, select.how)
            && !self.local.iter().any(|(own, _)| own == name)
            && let Some(type_) = self.scope.names.get(&format!("{name}.{}", select.field))
        {
            return Checked { type_: type_.clone(), cost: 2 };
        }
        let of = self.node(&select.of);
        let cost = of.cost.saturating_add(1);
        let (of, was_optional) = match &of.type_ {
            Type::Optional(of) => ((**of).clone(), true),
            other => (other.clone(), false),
        };
        let field = match &of {
            Type::Dyn => Type::Dyn,
            Type::Map(_, value, _) => (**value).clone(),
            Type::Object(object) if object.fields.is_empty() => Type::Dyn,
            Type::Object(object) => match object.fields.get(&select.field) {
                Some(field) => field.clone(),
                None => self.wrong(node, &format!("undefined field '{}'", select.field)),
            },
            other => {
                let why = format!("type '{other}' does not support field selection");
                self.wrong(node, &why)
            }
        };
        let type_ = match select.how {
            How::Test => Type::Bool,
            How::Try => Type::Optional(Arc::new(field)),
            How::Get if was_optional => Type::Optional(Arc::new(field)),
            How::Get => field,
        };
        Checked { type_, cost }
    }

    fn call(&mut self, node: &Node, call: &Call) -> Checked {
        let args: Vec<Checked> = call.args.iter().map(|arg| self.node(arg)).collect();
        let own = work(&call.name, &args);
        let cost = args.iter().fold(own, |cost, arg| cost.saturating_add(arg.cost));
        let types: Vec<Type> = args.into_iter().map(|arg| arg.type_).collect();
        // Objects with known fields may be indexed by a constant name, and by any name.
        if let ("_[_]" | "_[?_]", [Type::Object(_), _]) = (&*call.name, &types[..]) {
            return Checked { type_: Type::Dyn, cost };
        }
        // Anything may be compared with null, whether it can be null or not.
        if let ("_==_" | "_!=_", true) = (&*call.name, types.iter().any(|type_| matches!(type_, Type::Null))) {
            return Checked { type_: Type::Bool, cost };
        }
        let declared = declarations::named(&call.name);
        let same_shape = declared.iter().filter(|declared| declared.is_member == call.is_member);
        let mut result: Option<Type> = None;
        let mut is_known = false;
        for declared in same_shape {
            is_known = true;
            let mut meanings = Meanings::default();
            let fits = declared.args.len() == types.len()
                && declared.args.iter().zip(&types).all(|(wanted, found)| meanings.fits(wanted, found));
            if fits {
                result = Some(joined(result, meanings.meant(&declared.result)));
            }
        }
        // `math.greatest` takes any number of arguments.
        if call.name.starts_with("math.") && types.len() > 2 {
            result = Some(types[0].clone());
        }
        let type_ = match result {
            Some(result) => result,
            None if is_known => self.no_overload_of(node, call, &types),
            None => self.wrong(node, &format!("undeclared reference to '{}' (in container '')", call.name)),
        };
        Checked { type_, cost }
    }

    fn fold(&mut self, node: &Node, fold: &Fold) -> Checked {
        let range = self.node(&fold.range);
        let (first, second) = match (&range.type_, &fold.second) {
            (Type::Dyn, _) => (Type::Dyn, Type::Dyn),
            (Type::List(of, _), None) => ((**of).clone(), Type::Dyn),
            (Type::List(of, _), Some(_)) => (Type::Int, (**of).clone()),
            (Type::Map(key, value, _), _) => ((**key).clone(), (**value).clone()),
            (Type::Object(_), _) => (Type::String, Type::Dyn),
            (other, _) => {
                let why = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                (self.wrong(&fold.range, &why), Type::Dyn)
            }
        };
        let depth = self.local.len();
        self.local.push((fold.name.clone(), first));
        if let Some(name) = &fold.second {
            self.local.push((name.clone(), second));
        }
        let filter = fold.filter.as_ref().map(|filter| self.node(filter));
        let body = self.node(&fold.body);
        self.local.truncate(depth);

        let is_test = matches!(fold.kind, FoldKind::All | FoldKind::Exists | FoldKind::ExistsOne);
        let tested = filter.iter().map(|filter| &filter.type_).chain(is_test.then_some(&body.type_));
        for type_ in tested.cloned().collect::<Vec<_>>() {
            if !self.fits(&Type::Bool, &type_) {
                let operator = if fold.kind == FoldKind::Exists { "_||_" } else { "_&&_" };
                self.no_overload(node, operator, &[Type::Bool, type_]);
            }
        }
        let max = range.type_.elements();
        let each = body.cost.saturating_add(filter.map_or(0, |filter| filter.cost)).saturating_add(2);
        let cost = range.cost.saturating_add(max.saturating_mul(each)).saturating_add(1);
        let type_ = match (fold.kind, &range.type_) {
            (FoldKind::Sorted, own) => own.clone(),
            (FoldKind::List, _) => Type::List(Arc::new(body.type_), max),
            (FoldKind::Values, Type::Map(key, ..)) => Type::Map(key.clone(), Arc::new(body.type_), max),
            (FoldKind::Values | FoldKind::Entries, _) => Type::map(Type::Dyn, Type::Dyn),
            _ => Type::Bool,
        };
        Checked { type_, cost }
    }

    fn fits(&self, wanted: &Type, found: &Type) -> bool {
        Meanings::default().fits(wanted, found)
    }

    fn no_overload(&mut self, node: &Node, operator: &str, types: &[Type]) -> Type {
        let why = format!("found no matching overload for '{operator}' applied to '({})'", listed(types));
        self.wrong(node, &why)
    }

    fn no_overload_of(&mut self, node: &Node, call: &Call, types: &[Type]) -> Type {
        match types.split_first() {
            Some((target, rest)) if call.is_member => {
                let (name, rest) = (&call.name, listed(rest));
                let why = format!("found no matching overload for '{name}' applied to '{target}.({rest})'");
                self.wrong(node, &why)
            }
            _ => self.no_overload(node, &call.name, types),
        }
    }
}

fn listed(types: &[Type]) -> String {
    types.iter().map(Type::to_string).collect::<Vec<_>>().join(", ")
}

/// What is in an optional value.
fn inner(type_: &Type) -> Type {
    match type_ {
        Type::Optional(of) => (**of).clone(),
        _ => Type::Dyn,
    }
}

/// The type of something that may be one or the other.
fn joined(one: Option<Type>, other: Type) -> Type {
    match one {
        None => other,
        Some(one) if one.to_string() == other.to_string() => one,
        Some(_) => Type::Dyn,
    }
}

/// What it costs to ask who may do what.
pub const AUTHORIZATION_COST: u64 = 350_000;

/// What a function itself costs at most.
fn work(name: &str, args: &[Checked]) -> u64 {
    let elements =
        || args.iter().map(|arg| &arg.type_).filter(|type_| matches!(type_, Type::List(..))).map(Type::elements);
    match name {
        "check" => AUTHORIZATION_COST,
        "lists.range" => crate::types::ELEMENTS_MAX,
        "sets.contains" | "sets.intersects" | "sets.equivalent" => elements().fold(1, u64::saturating_mul),
        "@in" | "isSorted" | "sum" | "min" | "max" | "indexOf" | "lastIndexOf" | "distinct" | "sort" | "join" => {
            elements().max().unwrap_or(1)
        }
        _ => 1,
    }
}

fn literal(value: &crate::Value) -> Type {
    use crate::Value;
    match value {
        Value::Null => Type::Null,
        Value::Bool(_) => Type::Bool,
        Value::Int(_) => Type::Int,
        Value::Uint(_) => Type::Uint,
        Value::Double(_) => Type::Double,
        Value::String(_) => Type::String,
        Value::Bytes(_) => Type::Bytes,
        Value::Type(_) => Type::Type,
        _ => Type::Dyn,
    }
}
