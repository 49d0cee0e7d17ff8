//! Values of expressions. Every step is paid for.

use std::{cmp::Ordering, collections::BTreeMap, sync::Arc};

use crate::{
    Budget, Fault, Structure, Value,
    ast::{Element, Entry, Field, Fold, FoldKind, How, Kind, Node, Select},
    functions,
    value::Key,
};

/// How large texts and lists may grow. A few doublings make any value too large for the machine.
const SIZE_MAX: usize = 4 * 1024 * 1024;

/// What the names of an expression stand for.
pub trait Bindings {
    /// The value of a name, or of a field of a name (`variables.replicas`), where that has a value of its own.
    fn get(&self, name: &str, budget: &mut Budget) -> Option<Result<Value, Fault>>;
}

/// Names with values.
#[derive(Clone, Debug, Default)]
pub struct Variables(BTreeMap<String, Value>);

impl Variables {
    pub fn set(&mut self, name: &str, value: Value) {
        self.0.insert(name.to_owned(), value);
    }

    pub fn with(mut self, name: &str, value: Value) -> Variables {
        self.set(name, value);
        self
    }
}

impl Bindings for Variables {
    fn get(&self, name: &str, _: &mut Budget) -> Option<Result<Value, Fault>> {
        self.0.get(name).cloned().map(Ok)
    }
}

pub fn evaluate(node: &Node, bindings: &dyn Bindings, budget: &mut Budget) -> Result<Value, Fault> {
    Evaluation { bindings, budget, local: Vec::new() }.node(node)
}

struct Evaluation<'a> {
    bindings: &'a dyn Bindings,
    budget: &'a mut Budget,
    local: Vec<(&'a str, Value)>,
}

impl<'a> Evaluation<'a> {
    fn node(&mut self, node: &'a Node) -> Result<Value, Fault> {
        match &node.kind {
            Kind::Literal(value) => Ok(value.clone()),
            Kind::Name(name) => self.named(name),
            Kind::Select(select) => self.select(select),
            Kind::And(sides) => self.logic(sides, false),
            Kind::Or(sides) => self.logic(sides, true),
            Kind::Choice(parts) => match self.node(&parts.0)? {
                Value::Bool(true) => self.node(&parts.1),
                Value::Bool(false) => self.node(&parts.2),
                _ => Err(no_overload()),
            },
            Kind::List(elements) => self.list(elements),
            Kind::Map(entries) => self.map(entries),
            Kind::Structure { name, fields } => self.structure(name, fields),
            Kind::Call(call) => {
                let args = call.args.iter().map(|arg| self.node(arg)).collect::<Result<Vec<_>, _>>()?;
                self.budget.spend(1)?;
                let value = functions::call(&call.name, args, self.budget)?;
                if value.size() > SIZE_MAX {
                    return Err(Fault::Cost);
                }
                Ok(value)
            }
            Kind::Fold(fold) => self.fold(fold),
            Kind::IfPresent(present) => match self.node(&present.of)? {
                Value::Optional(None) => Ok(Value::Optional(None)),
                Value::Optional(Some(value)) => {
                    self.local.push((&present.name, *value));
                    let body = self.node(&present.body);
                    self.local.pop();
                    if present.is_flat { body } else { Ok(Value::Optional(Some(Box::new(body?)))) }
                }
                _ => Err(no_overload()),
            },
        }
    }

    fn named(&mut self, name: &str) -> Result<Value, Fault> {
        self.budget.spend(1)?;
        if let Some((_, value)) = self.local.iter().rev().find(|(own, _)| *own == name) {
            return Ok(value.clone());
        }
        let bare = name.trim_start_matches('.');
        match self.bindings.get(bare, self.budget) {
            Some(value) => value,
            // The checker has seen that it is one.
            None => Ok(Value::Type(bare.into())),
        }
    }

    fn select(&mut self, select: &'a Select) -> Result<Value, Fault> {
        self.budget.spend(1)?;
        if let (Kind::Name(name), How::Get) = (&select.of.kind, select.how)
            && !self.local.iter().any(|(own, _)| own == name)
            && let Some(value) = self.bindings.get(&format!("{name}.{}", select.field), self.budget)
        {
            return value;
        }
        let (of, was_optional) = match self.node(&select.of)? {
            Value::Optional(None) if select.how == How::Test => return Ok(Value::Bool(false)),
            Value::Optional(None) => return Ok(Value::Optional(None)),
            Value::Optional(Some(value)) => (*value, true),
            value => (value, false),
        };
        let found = match &of {
            Value::Map(fields) => fields.get(&Key::text(&select.field)).cloned(),
            Value::Structure(structure) => structure.fields.get(&select.field).cloned(),
            Value::Null if select.how != How::Get => None,
            _ => return Err(no_overload()),
        };
        match select.how {
            How::Test => Ok(Value::Bool(found.is_some())),
            How::Try => Ok(Value::Optional(found.map(Box::new))),
            How::Get if was_optional => Ok(Value::Optional(found.map(Box::new))),
            How::Get => found.ok_or_else(|| Fault::new(format!("no such key: {}", select.field))),
        }
    }

    /// One side can decide, even where the other has no value.
    fn logic(&mut self, sides: &'a (Node, Node), decides: bool) -> Result<Value, Fault> {
        let left = self.node(&sides.0);
        match &left {
            Ok(Value::Bool(value)) if *value == decides => return Ok(Value::Bool(decides)),
            Err(Fault::Cost) => return left,
            _ => {}
        }
        let right = self.node(&sides.1);
        match (left, right) {
            (_, Ok(Value::Bool(value))) if value == decides => Ok(Value::Bool(decides)),
            (_, Err(Fault::Cost)) => Err(Fault::Cost),
            (Ok(Value::Bool(_)), Ok(Value::Bool(value))) => Ok(Value::Bool(value)),
            (Err(fault), _) | (_, Err(fault)) => Err(fault),
            _ => Err(no_overload()),
        }
    }

    fn list(&mut self, elements: &'a [Element]) -> Result<Value, Fault> {
        self.budget.spend(10)?;
        let mut items = Vec::with_capacity(elements.len());
        for element in elements {
            items.extend(self.present(&element.value, element.is_optional)?);
        }
        Ok(items.into())
    }

    fn map(&mut self, entries: &'a [Entry]) -> Result<Value, Fault> {
        self.budget.spend(30)?;
        let mut fields = BTreeMap::new();
        for entry in entries {
            let key = key(&self.node(&entry.key)?)?;
            if let Some(value) = self.present(&entry.value, entry.is_optional)?
                && fields.insert(key, value).is_some()
            {
                return Err(Fault::new("a key stands in the map twice"));
            }
        }
        Ok(Value::Map(Arc::new(fields)))
    }

    fn structure(&mut self, name: &str, fields: &'a [Field]) -> Result<Value, Fault> {
        self.budget.spend(40)?;
        let mut made = BTreeMap::new();
        for field in fields {
            if let Some(value) = self.present(&field.value, field.is_optional)? {
                made.insert(field.name.clone(), value);
            }
        }
        Ok(Value::Structure(Arc::new(Structure { name: name.to_owned(), fields: made })))
    }

    /// The value of a part; nothing where it is optional and not there.
    fn present(&mut self, node: &'a Node, is_optional: bool) -> Result<Option<Value>, Fault> {
        match (self.node(node)?, is_optional) {
            (Value::Optional(value), true) => Ok(value.map(|value| *value)),
            (_, true) => Err(no_overload()),
            (value, false) => Ok(Some(value)),
        }
    }

    fn fold(&mut self, fold: &'a Fold) -> Result<Value, Fault> {
        self.budget.spend(1)?;
        let range = self.node(&fold.range)?;
        let pairs: Vec<(Value, Value)> = match &range {
            Value::List(items) if fold.second.is_some() => {
                items.iter().enumerate().map(|(at, item)| (Value::Int(at as i64), item.clone())).collect()
            }
            Value::List(items) => items.iter().map(|item| (item.clone(), Value::Null)).collect(),
            Value::Map(fields) => fields.iter().map(|(key, value)| (Value::from(key.clone()), value.clone())).collect(),
            _ => return Err(no_overload()),
        };
        let mut result = Gathered::new(fold.kind);
        let depth = self.local.len();
        for (first, second) in pairs {
            self.budget.spend(1)?;
            let name = first.clone();
            self.local.push((&fold.name, first));
            if let Some(own) = &fold.second {
                self.local.push((own, second));
            }
            let is_in = match &fold.filter {
                None => Ok(true),
                Some(filter) => self.node(filter).and_then(|value| truth(&value)),
            };
            let outcome = match is_in {
                Ok(true) => Some(self.node(&fold.body)),
                Ok(false) => None,
                Err(fault) => Some(Err(fault)),
            };
            self.local.truncate(depth);
            let Some(outcome) = outcome else { continue };
            if result.take(name, outcome)? {
                break;
            }
        }
        result.end()
    }
}

/// What a fold has come to so far.
struct Gathered {
    kind: FoldKind,
    items: Vec<Value>,
    /// What `sortBy` sorts by, beside the items.
    keys: Vec<Value>,
    fields: BTreeMap<Key, Value>,
    count: usize,
    /// `all` and `exists` can be decided by a later element.
    fault: Option<Fault>,
}

impl Gathered {
    fn new(kind: FoldKind) -> Gathered {
        Gathered { kind, items: Vec::new(), keys: Vec::new(), fields: BTreeMap::new(), count: 0, fault: None }
    }

    /// Takes the value for one element; says whether the result is decided.
    fn take(&mut self, name: Value, outcome: Result<Value, Fault>) -> Result<bool, Fault> {
        match self.kind {
            FoldKind::All | FoldKind::Exists => match outcome.and_then(|value| truth(&value)) {
                Ok(value) if value == (self.kind == FoldKind::Exists) => {
                    self.count = 1;
                    return Ok(true);
                }
                Ok(_) => {}
                Err(Fault::Cost) => return Err(Fault::Cost),
                Err(fault) => self.fault = Some(fault),
            },
            FoldKind::ExistsOne => self.count += usize::from(truth(&outcome?)?),
            FoldKind::List => self.items.push(outcome?),
            FoldKind::Sorted => {
                self.keys.push(outcome?);
                self.items.push(name);
            }
            FoldKind::Values => {
                self.fields.insert(key(&name)?, outcome?);
            }
            FoldKind::Entries => match outcome? {
                Value::Map(fields) => {
                    for (key, value) in fields.iter() {
                        if self.fields.insert(key.clone(), value.clone()).is_some() {
                            return Err(Fault::new("insert failed: key already exists"));
                        }
                    }
                }
                _ => return Err(no_overload()),
            },
        }
        Ok(false)
    }

    fn end(self) -> Result<Value, Fault> {
        match (self.kind, self.fault) {
            (FoldKind::All | FoldKind::Exists, Some(fault)) if self.count == 0 => Err(fault),
            (FoldKind::All, _) => Ok(Value::Bool(self.count == 0)),
            (FoldKind::Exists | FoldKind::ExistsOne, _) => Ok(Value::Bool(self.count == 1)),
            (FoldKind::List, _) => Ok(self.items.into()),
            (FoldKind::Sorted, _) => {
                if self.keys.windows(2).any(|pair| pair[0].compare(&pair[1]).is_none()) {
                    return Err(no_overload());
                }
                let mut pairs: Vec<(Value, Value)> = self.keys.into_iter().zip(self.items).collect();
                pairs.sort_by(|(one, _), (other, _)| one.compare(other).unwrap_or(Ordering::Equal));
                Ok(pairs.into_iter().map(|(_, item)| item).collect::<Vec<_>>().into())
            }
            (FoldKind::Values | FoldKind::Entries, _) => Ok(Value::Map(Arc::new(self.fields))),
        }
    }
}

fn truth(value: &Value) -> Result<bool, Fault> {
    match value {
        Value::Bool(value) => Ok(*value),
        _ => Err(no_overload()),
    }
}

fn key(value: &Value) -> Result<Key, Fault> {
    Key::of(value).ok_or_else(|| Fault::new(format!("unsupported key type: {}", value.type_name())))
}

pub fn no_overload() -> Fault {
    Fault::new("no such overload")
}
