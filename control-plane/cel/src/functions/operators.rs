//! Operators, indexing, optional values, and what is there for numbers.

use std::{cmp::Ordering, sync::Arc};

use super::Called;
use crate::{Budget, Fault, Value, value::Key};

pub fn call(name: &str, args: &[Value], budget: &mut Budget) -> Called {
    let outcome = match (name, args) {
        ("!_", [Value::Bool(value)]) => Ok(Value::Bool(!value)),
        ("-_", [Value::Int(number)]) => number.checked_neg().map(Value::Int).ok_or_else(overflow),
        ("-_", [Value::Double(number)]) => Ok(Value::Double(-number)),
        ("_==_" | "_!=_", [one, other]) => {
            // A comparison ends with the smaller of both.
            let smaller = if one.weight(budget.left()) < other.weight(budget.left()) { one } else { other };
            budget.weigh(smaller, 1).map(|()| Value::Bool(one.is_equal(other) == (name == "_==_")))
        }
        ("_<_" | "_<=_" | "_>_" | "_>=_", [one, other]) => ordered(name, one, other, budget)?,
        ("_+_", [one, other]) => add(one, other, budget)?,
        ("_-_", [one, other]) => subtract(one, other)?,
        ("_*_" | "_/_" | "_%_", [one, other]) => multiply(name, one, other)?,
        ("@in", [item, all @ Value::List(items)]) => {
            budget.weigh(all, 1).map(|()| Value::Bool(items.iter().any(|other| item.is_equal(other))))
        }
        ("@in", [item, Value::Map(fields)]) => {
            Ok(Value::Bool(Key::of(item).is_some_and(|key| fields.contains_key(&key))))
        }
        ("_[_]", [of, at]) => index(of, at)?.and_then(|found| found.ok_or_else(|| missing(of, at))),
        ("_[?_]", [of, at]) => index(of, at)?.map(|found| Value::Optional(found.map(Box::new))),
        ("optional.of", [value]) => Ok(some(value)),
        ("optional.ofNonZeroValue", [value]) => Ok(if is_zero(value) { Value::Optional(None) } else { some(value) }),
        ("optional.none", []) => Ok(Value::Optional(None)),
        ("hasValue", [Value::Optional(value)]) => Ok(Value::Bool(value.is_some())),
        ("value", [Value::Optional(value)]) => {
            value.as_deref().cloned().ok_or_else(|| Fault::new("optional.none() dereference"))
        }
        ("orValue", [Value::Optional(value), other]) => Ok(value.as_deref().unwrap_or(other).clone()),
        ("or", [Value::Optional(value), other]) => Ok(if value.is_some() { args[0].clone() } else { other.clone() }),
        ("math.greatest" | "math.least", all) => extreme(name, all)?,
        ("math.abs", [Value::Int(number)]) => number.checked_abs().map(Value::Int).ok_or_else(overflow),
        ("math.abs", [Value::Double(number)]) => Ok(Value::Double(number.abs())),
        ("math.ceil", [Value::Double(number)]) => Ok(Value::Double(number.ceil())),
        ("math.floor", [Value::Double(number)]) => Ok(Value::Double(number.floor())),
        ("math.round", [Value::Double(number)]) => Ok(Value::Double(number.round())),
        ("math.trunc", [Value::Double(number)]) => Ok(Value::Double(number.trunc())),
        ("math.sign", [Value::Int(number)]) => Ok(Value::Int(number.signum())),
        ("math.sign", [Value::Double(number)]) => Ok(Value::Double(if *number == 0.0 { 0.0 } else { number.signum() })),
        _ => return None,
    };
    Some(outcome)
}

fn some(value: &Value) -> Value {
    Value::Optional(Some(Box::new(value.clone())))
}

/// The first moment of the year one, in seconds: what a time is that nobody set.
const YEAR_ONE: i64 = -62_135_596_800;

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Int(number) => *number == 0,
        Value::Uint(number) => *number == 0,
        Value::Double(number) => *number == 0.0,
        Value::Duration(duration) => duration.is_zero(),
        Value::Timestamp(at) => at.as_second() == YEAR_ONE && at.subsec_nanosecond() == 0,
        Value::String(_) | Value::Bytes(_) | Value::List(_) | Value::Map(_) => value.size() == 0,
        _ => false,
    }
}

fn overflow() -> Fault {
    Fault::new("integer overflow")
}

fn ordered(name: &str, one: &Value, other: &Value, budget: &mut Budget) -> Called {
    let order = match (one, other) {
        (Value::Double(one), _) if one.is_nan() => return Some(Ok(Value::Bool(false))),
        (_, Value::Double(other)) if other.is_nan() => return Some(Ok(Value::Bool(false))),
        _ => one.compare(other)?,
    };
    let holds = match name {
        "_<_" => order == Ordering::Less,
        "_<=_" => order != Ordering::Greater,
        "_>_" => order == Ordering::Greater,
        _ => order != Ordering::Less,
    };
    Some(budget.walk(one.size().min(other.size())).map(|()| Value::Bool(holds)))
}

fn add(one: &Value, other: &Value, budget: &mut Budget) -> Called {
    Some(match (one, other) {
        (Value::Int(one), Value::Int(other)) => one.checked_add(*other).map(Value::Int).ok_or_else(overflow),
        (Value::Uint(one), Value::Uint(other)) => one.checked_add(*other).map(Value::Uint).ok_or_else(overflow),
        (Value::Double(one), Value::Double(other)) => Ok(Value::Double(one + other)),
        (Value::String(one), Value::String(other)) => {
            budget.walk(one.len() + other.len()).map(|()| Value::from(format!("{one}{other}")))
        }
        (Value::Bytes(one), Value::Bytes(other)) => {
            budget.walk(one.len() + other.len()).map(|()| Value::Bytes([&**one, &**other].concat().into()))
        }
        (Value::List(one), Value::List(other)) => {
            budget.spend((one.len() + other.len()) as u64).map(|()| Value::List(Arc::new(one.with(other))))
        }
        (Value::Duration(one), Value::Duration(other)) => {
            one.checked_add(*other).map(Value::Duration).ok_or_else(overflow)
        }
        (Value::Timestamp(at), Value::Duration(by)) | (Value::Duration(by), Value::Timestamp(at)) => {
            at.checked_add(*by).map(Value::Timestamp).map_err(|_| overflow())
        }
        _ => return None,
    })
}

fn subtract(one: &Value, other: &Value) -> Called {
    Some(match (one, other) {
        (Value::Int(one), Value::Int(other)) => one.checked_sub(*other).map(Value::Int).ok_or_else(overflow),
        (Value::Uint(one), Value::Uint(other)) => one.checked_sub(*other).map(Value::Uint).ok_or_else(overflow),
        (Value::Double(one), Value::Double(other)) => Ok(Value::Double(one - other)),
        (Value::Duration(one), Value::Duration(other)) => {
            one.checked_sub(*other).map(Value::Duration).ok_or_else(overflow)
        }
        (Value::Timestamp(one), Value::Timestamp(other)) => Ok(Value::Duration(one.duration_since(*other))),
        (Value::Timestamp(at), Value::Duration(by)) => {
            at.checked_sub(*by).map(Value::Timestamp).map_err(|_| overflow())
        }
        _ => return None,
    })
}

fn multiply(name: &str, one: &Value, other: &Value) -> Called {
    let by_zero = || Fault::new(if name == "_%_" { "modulus by zero" } else { "division by zero" });
    Some(match (name, one, other) {
        ("_/_" | "_%_", Value::Int(_), Value::Int(0)) | ("_/_" | "_%_", Value::Uint(_), Value::Uint(0)) => {
            Err(by_zero())
        }
        ("_*_", Value::Int(one), Value::Int(other)) => one.checked_mul(*other).map(Value::Int).ok_or_else(overflow),
        ("_/_", Value::Int(one), Value::Int(other)) => one.checked_div(*other).map(Value::Int).ok_or_else(overflow),
        ("_%_", Value::Int(one), Value::Int(other)) => one.checked_rem(*other).map(Value::Int).ok_or_else(overflow),
        ("_*_", Value::Uint(one), Value::Uint(other)) => one.checked_mul(*other).map(Value::Uint).ok_or_else(overflow),
        ("_/_", Value::Uint(one), Value::Uint(other)) => Ok(Value::Uint(one / other)),
        ("_%_", Value::Uint(one), Value::Uint(other)) => Ok(Value::Uint(one % other)),
        ("_*_", Value::Double(one), Value::Double(other)) => Ok(Value::Double(one * other)),
        ("_/_", Value::Double(one), Value::Double(other)) => Ok(Value::Double(one / other)),
        _ => return None,
    })
}

type Found = Result<Option<Value>, Fault>;

fn index(of: &Value, at: &Value) -> Option<Found> {
    Some(match (of, at) {
        (Value::List(items), Value::Int(_) | Value::Uint(_) | Value::Double(_)) => match Key::of(at) {
            Some(Key::Int(at)) => Ok(usize::try_from(at).ok().and_then(|at| items.get(at)).cloned()),
            _ => Ok(None),
        },
        (Value::Map(fields), at) => match Key::of(at) {
            Some(key) => Ok(fields.get(&key).cloned()),
            None => Err(Fault::new(format!("unsupported key type: {}", at.type_name()))),
        },
        (Value::Structure(structure), Value::String(name)) => Ok(structure.fields.get(&**name).cloned()),
        _ => return None,
    })
}

fn missing(of: &Value, at: &Value) -> Fault {
    let shown = super::text_of(at).unwrap_or_default();
    match of {
        Value::List(_) => Fault::new(format!("index out of bounds: {shown}")),
        _ => Fault::new(format!("no such key: {shown}")),
    }
}

fn extreme(name: &str, args: &[Value]) -> Called {
    let all = match args {
        [Value::List(items)] => Arc::clone(items),
        args => Arc::new(args.to_vec().into()),
    };
    let wanted = if name == "math.greatest" { Ordering::Greater } else { Ordering::Less };
    let mut all = all.iter();
    let mut best = all.next()?;
    for value in all {
        if value.compare(best)? == wanted {
            best = value;
        }
    }
    Some(Ok(best.clone()))
}
