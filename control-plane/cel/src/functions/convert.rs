//! From one type to another.

use jiff::{SignedDuration, Timestamp};

use super::{Called, time};
use crate::{Budget, Fault, Value};

pub fn call(name: &str, args: &[Value], budget: &mut Budget) -> Called {
    let [value] = args else { return None };
    let outcome = match name {
        "dyn" => Ok(value.clone()),
        "type" => Ok(Value::Type(value.type_name().into())),
        "string" => return string(value, budget),
        "bool" => boolean(value)?,
        "int" => int(value)?,
        "uint" => uint(value)?,
        "double" => double(value)?,
        "bytes" => match value {
            Value::Bytes(_) => Ok(value.clone()),
            Value::String(text) => budget.walk(text.len()).map(|()| Value::Bytes(text.as_bytes().into())),
            _ => return None,
        },
        "duration" => match value {
            Value::Duration(_) => Ok(value.clone()),
            Value::String(text) => time::duration(text).map(Value::Duration),
            _ => return None,
        },
        "timestamp" => match value {
            Value::Timestamp(_) => Ok(value.clone()),
            Value::String(text) => time::timestamp(text).map(Value::Timestamp),
            Value::Int(seconds) => Timestamp::from_second(*seconds).map(Value::Timestamp).map_err(|_| range()),
            _ => return None,
        },
        _ => return None,
    };
    Some(outcome)
}

fn range() -> Fault {
    Fault::new("range error")
}

fn string(value: &Value, budget: &mut Budget) -> Called {
    let text = text_of(value)?;
    Some(budget.walk(text.len()).map(|()| text.into()))
}

/// The value as text, if it has one.
pub fn text_of(value: &Value) -> Option<String> {
    Some(match value {
        Value::String(text) => text.to_string(),
        Value::Bool(value) => value.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Uint(number) => number.to_string(),
        Value::Double(number) => number.to_string(),
        Value::Bytes(bytes) => String::from_utf8(bytes.to_vec()).ok()?,
        Value::Timestamp(at) => at.to_string(),
        Value::Duration(duration) => time::shown(*duration),
        Value::Ip(ip) => ip.to_string(),
        Value::Cidr(cidr) => cidr.to_string(),
        Value::Quantity(quantity) => quantity.to_string(),
        Value::Url(url) => url.to_string(),
        Value::Version(version) => version.to_string(),
        _ => return None,
    })
}

/// Any value, for messages.
pub fn shown(value: &Value) -> String {
    let listed = |parts: Vec<String>| parts.join(", ");
    match value {
        Value::Null => "null".to_owned(),
        Value::List(items) => format!("[{}]", listed(items.iter().map(shown).collect())),
        Value::Map(fields) => {
            let entry = |(key, value): (&crate::value::Key, &Value)| {
                format!("{}: {}", shown(&Value::from(key.clone())), shown(value))
            };
            format!("{{{}}}", listed(fields.iter().map(entry).collect()))
        }
        Value::Type(name) => name.to_string(),
        Value::Optional(Some(value)) => format!("optional({})", shown(value)),
        other => text_of(other).unwrap_or_else(|| other.type_name().to_owned()),
    }
}

fn boolean(value: &Value) -> Called {
    Some(match value {
        Value::Bool(_) => Ok(value.clone()),
        Value::String(text) => match &**text {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true.into()),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false.into()),
            _ => Err(Fault::new("type conversion error from 'string' to 'bool'")),
        },
        _ => return None,
    })
}

fn int(value: &Value) -> Called {
    Some(match value {
        Value::Int(_) => Ok(value.clone()),
        Value::Uint(number) => i64::try_from(*number).map(Value::Int).map_err(|_| range()),
        Value::Double(number) if number.abs() < 9.223_372_036_854_775e18 => Ok(Value::Int(*number as i64)),
        Value::Double(_) => Err(range()),
        Value::String(text) => {
            text.parse().map(Value::Int).map_err(|_| Fault::new("type conversion error from 'string' to 'int'"))
        }
        Value::Timestamp(at) => Ok(Value::Int(at.as_second())),
        Value::Duration(duration) => {
            i64::try_from(SignedDuration::as_nanos(duration)).map(Value::Int).map_err(|_| range())
        }
        _ => return None,
    })
}

fn uint(value: &Value) -> Called {
    Some(match value {
        Value::Uint(_) => Ok(value.clone()),
        Value::Int(number) => u64::try_from(*number).map(Value::Uint).map_err(|_| range()),
        Value::Double(number) if (0.0..1.844_674_407_370_955e19).contains(number) => Ok(Value::Uint(*number as u64)),
        Value::Double(_) => Err(range()),
        Value::String(text) => {
            text.parse().map(Value::Uint).map_err(|_| Fault::new("type conversion error from 'string' to 'uint'"))
        }
        _ => return None,
    })
}

fn double(value: &Value) -> Called {
    Some(match value {
        Value::Double(_) => Ok(value.clone()),
        Value::Int(number) => Ok(Value::Double(*number as f64)),
        Value::Uint(number) => Ok(Value::Double(*number as f64)),
        Value::String(text) => {
            text.parse().map(Value::Double).map_err(|_| Fault::new("type conversion error from 'string' to 'double'"))
        }
        _ => return None,
    })
}
