//! Types, as far as they are known before there are values.

use std::{collections::BTreeMap, fmt, sync::Arc};

/// The most elements that a list in a request can have: a request has three megabytes at most, and an element with its
/// comma three bytes.
pub const ELEMENTS_MAX: u64 = 1024 * 1024;

#[derive(Clone, Debug)]
pub enum Type {
    /// Known only when there is a value.
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Duration,
    Timestamp,
    Type,
    /// And how many elements it may have.
    List(Arc<Type>, u64),
    Map(Arc<Type>, Arc<Type>, u64),
    Object(Arc<ObjectType>),
    Optional(Arc<Type>),
    /// A type that only functions know: `kubernetes.Quantity`.
    Named(&'static str),
    /// Any type, and the same wherever the letter stands in one declaration.
    Param(char),
}

/// An object of which is known which fields it has.
#[derive(Clone, Debug, Default)]
pub struct ObjectType {
    pub name: String,
    pub fields: BTreeMap<String, Type>,
}

impl Type {
    pub fn list(of: Type) -> Type {
        Type::List(Arc::new(of), ELEMENTS_MAX)
    }

    pub fn map(key: Type, value: Type) -> Type {
        Type::Map(Arc::new(key), Arc::new(value), ELEMENTS_MAX)
    }

    pub fn object(name: &str, fields: impl IntoIterator<Item = (String, Type)>) -> Type {
        Type::Object(Arc::new(ObjectType { name: name.to_owned(), fields: fields.into_iter().collect() }))
    }

    /// How many elements there may be to walk over.
    pub fn elements(&self) -> u64 {
        match self {
            Type::List(_, max) | Type::Map(_, _, max) => *max,
            _ => ELEMENTS_MAX,
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Type::Dyn => "dyn",
            Type::Null => "null",
            Type::Bool => "bool",
            Type::Int => "int",
            Type::Uint => "uint",
            Type::Double => "double",
            Type::String => "string",
            Type::Bytes => "bytes",
            Type::Duration => "google.protobuf.Duration",
            Type::Timestamp => "google.protobuf.Timestamp",
            Type::Type => "type",
            Type::Object(object) => &object.name,
            Type::Named(name) => name,
            Type::List(of, _) => return write!(f, "list({of})"),
            Type::Map(key, value, _) => return write!(f, "map({key}, {value})"),
            Type::Optional(of) => return write!(f, "optional_type({of})"),
            Type::Param(letter) => return write!(f, "{letter}"),
        })
    }
}

/// What the letters of a declaration stand for.
#[derive(Default)]
pub struct Meanings(BTreeMap<char, Type>);

impl Meanings {
    /// Whether a value of type `found` can stand where `wanted` is declared.
    pub fn fits(&mut self, wanted: &Type, found: &Type) -> bool {
        match (wanted, found) {
            (Type::Param(letter), found) => match self.0.get(letter).cloned() {
                None | Some(Type::Dyn) => {
                    self.0.insert(*letter, found.clone());
                    true
                }
                Some(meant) if matches!(meant, Type::Null) && is_nullable(found) => {
                    self.0.insert(*letter, found.clone());
                    true
                }
                Some(meant) => self.fits(&meant, found),
            },
            (Type::Dyn, _) | (_, Type::Dyn) => true,
            (wanted, Type::Null) if is_nullable(wanted) => true,
            (Type::List(wanted, _), Type::List(found, _)) => self.fits(wanted, found),
            (Type::Map(key, value, _), Type::Map(found_key, found_value, _)) => {
                self.fits(key, found_key) && self.fits(value, found_value)
            }
            // Objects with known fields are maps, to those who only look for keys.
            (Type::Map(key, _, _), Type::Object(_)) => self.fits(key, &Type::String),
            (Type::Object(_), Type::Map(..)) | (Type::Object(_), Type::Object(_)) => true,
            (Type::Optional(wanted), Type::Optional(found)) => self.fits(wanted, found),
            (Type::Named(wanted), Type::Named(found)) => wanted == found,
            (wanted, found) => std::mem::discriminant(wanted) == std::mem::discriminant(found),
        }
    }

    /// A declared type with its letters replaced.
    pub fn meant(&self, declared: &Type) -> Type {
        match declared {
            Type::Param(letter) => self.0.get(letter).cloned().unwrap_or(Type::Dyn),
            Type::List(of, _) => Type::list(self.meant(of)),
            Type::Map(key, value, _) => Type::map(self.meant(key), self.meant(value)),
            Type::Optional(of) => Type::Optional(Arc::new(self.meant(of))),
            other => other.clone(),
        }
    }
}

fn is_nullable(type_: &Type) -> bool {
    matches!(
        type_,
        Type::Object(_) | Type::Duration | Type::Timestamp | Type::Named(_) | Type::Null | Type::Optional(_)
    )
}
