//! Kubernetes' quantities: `quantity("1Gi")`.

use std::cmp::Ordering;

use copepod_api::quantity::Quantity;

use super::Called;
use crate::{Budget, Fault, Value};

pub fn call(name: &str, args: &[Value], _: &mut Budget) -> Called {
    let outcome = match (name, args) {
        ("quantity", [Value::String(text)]) => Quantity::parse(text).map(Value::Quantity).map_err(Fault::new),
        ("isQuantity", [Value::String(text)]) => Ok(Quantity::parse(text).is_ok().into()),
        ("isInteger", [Value::Quantity(own)]) => Ok(own.is_whole().into()),
        ("asInteger", [Value::Quantity(own)]) => match own.is_whole() {
            true => Ok(Value::Int(own.value())),
            false => Err(Fault::new("cannot convert value to integer")),
        },
        ("asApproximateFloat", [Value::Quantity(own)]) => Ok(Value::Double(match own.is_whole() {
            true => own.value() as f64,
            false => own.milli() as f64 / 1000.0,
        })),
        ("sign", [Value::Quantity(own)]) => {
            Ok(Value::Int(if own.is_zero() { 0 } else { if own.is_negative() { -1 } else { 1 } }))
        }
        ("add", [Value::Quantity(own), other]) => Ok(Value::Quantity(*own + number(other)?)),
        ("sub", [Value::Quantity(own), other]) => Ok(Value::Quantity(*own - number(other)?)),
        ("compareTo", [Value::Quantity(own), Value::Quantity(other)]) => Ok(Value::Int(own.cmp(other) as i64)),
        ("isGreaterThan", [Value::Quantity(own), Value::Quantity(other)]) => {
            Ok((own.cmp(other) == Ordering::Greater).into())
        }
        ("isLessThan", [Value::Quantity(own), Value::Quantity(other)]) => Ok((own.cmp(other) == Ordering::Less).into()),
        _ => return None,
    };
    Some(outcome)
}

fn number(value: &Value) -> Option<Quantity> {
    match value {
        Value::Quantity(quantity) => Some(*quantity),
        Value::Int(number) => Some(Quantity::from_value(*number)),
        _ => None,
    }
}
