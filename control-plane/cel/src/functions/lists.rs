//! Lists, and lists as sets.

use std::cmp::Ordering;

use super::Called;
use crate::{Budget, Fault, Value, eval::no_overload};

pub fn call(name: &str, args: &[Value], budget: &mut Budget) -> Called {
    match args {
        [all @ Value::List(items), rest @ ..] => {
            if let Err(fault) = work(name, all, rest, budget) {
                return Some(Err(fault));
            }
            list(name, items, rest)
        }
        [Value::Map(fields)] if name == "size" => Some(Ok(Value::Int(fields.len() as i64))),
        [Value::Bytes(bytes)] if name == "size" => Some(Ok(Value::Int(bytes.len() as i64))),
        [Value::Int(count)] if name == "lists.range" => Some(range(*count, budget)),
        _ => None,
    }
}

fn range(count: i64, budget: &mut Budget) -> Result<Value, Fault> {
    // As many as can be paid for are no danger to memory.
    budget.spend(u64::try_from(count).unwrap_or(0))?;
    Ok((0..count).map(Value::Int).collect::<Vec<_>>().into())
}

/// Pays for a walk over the list: as often as it is compared with something.
fn work(name: &str, all: &Value, rest: &[Value], budget: &mut Budget) -> Result<(), Fault> {
    match (name, rest) {
        ("size" | "first" | "last", _) => Ok(()),
        ("distinct", _) => budget.weigh(all, all.size()),
        ("sets.contains" | "sets.intersects" | "sets.equivalent", [other]) => {
            budget.weigh(all, other.size())?;
            budget.weigh(other, 1)
        }
        ("flatten", _) => {
            let Value::List(items) = all else { return Ok(()) };
            budget.spend(items.iter().map(|item| item.size() as u64 + 1).fold(0, u64::saturating_add))
        }
        ("indexOf" | "lastIndexOf" | "isSorted" | "min" | "max" | "sort" | "sum", _) => budget.weigh(all, 1),
        _ => budget.spend(all.size() as u64),
    }
}

fn list(name: &str, items: &[Value], rest: &[Value]) -> Called {
    let has = |items: &[Value], wanted: &Value| items.iter().any(|item| item.is_equal(wanted));
    let optional = |found: Option<&Value>| Value::Optional(found.cloned().map(Box::new));
    let outcome = match (name, rest) {
        ("size", []) => Ok(Value::Int(items.len() as i64)),
        ("indexOf", [wanted]) => Ok(place(items.iter().position(|item| item.is_equal(wanted)))),
        ("lastIndexOf", [wanted]) => Ok(place(items.iter().rposition(|item| item.is_equal(wanted)))),
        ("isSorted", []) => {
            let is_right = |pair: &[Value]| pair[0].compare(&pair[1]).map(|order| order != Ordering::Greater);
            let all: Option<Vec<bool>> = items.windows(2).map(is_right).collect();
            all.map(|all| all.into_iter().all(|is_right| is_right).into()).ok_or_else(no_overload)
        }
        ("sum", []) => sum(items),
        ("min", []) => extreme(items, Ordering::Less, "min"),
        ("max", []) => extreme(items, Ordering::Greater, "max"),
        ("slice", [Value::Int(start), Value::Int(end)]) => {
            let range = usize::try_from(*start).ok().zip(usize::try_from(*end).ok());
            let part = range.and_then(|(start, end)| items.get(start..end));
            part.map(|part| part.to_vec().into())
                .ok_or_else(|| Fault::new(format!("cannot slice({start}, {end}), list has {} elements", items.len())))
        }
        ("distinct", []) => {
            let mut kept: Vec<Value> = Vec::new();
            for item in items {
                if !has(&kept, item) {
                    kept.push(item.clone());
                }
            }
            Ok(kept.into())
        }
        ("sort", []) => {
            let is_ordered = items.windows(2).all(|pair| pair[0].compare(&pair[1]).is_some());
            let mut sorted = items.to_vec();
            sorted.sort_by(|one, other| one.compare(other).unwrap_or(Ordering::Equal));
            if is_ordered { Ok(sorted.into()) } else { Err(no_overload()) }
        }
        ("reverse", []) => Ok(items.iter().rev().cloned().collect::<Vec<_>>().into()),
        ("flatten", []) => {
            let mut flat = Vec::new();
            for item in items {
                match item {
                    Value::List(inner) => flat.extend(inner.iter().cloned()),
                    other => flat.push(other.clone()),
                }
            }
            Ok(flat.into())
        }
        ("first", []) => Ok(optional(items.first())),
        ("last", []) => Ok(optional(items.last())),
        ("unwrapOpt" | "optional.unwrap", []) => {
            let there = items.iter().filter_map(|item| match item {
                Value::Optional(value) => value.as_deref().cloned(),
                _ => None,
            });
            Ok(there.collect::<Vec<_>>().into())
        }
        ("sets.contains", [Value::List(others)]) => Ok(others.iter().all(|other| has(items, other)).into()),
        ("sets.intersects", [Value::List(others)]) => Ok(others.iter().any(|other| has(items, other)).into()),
        ("sets.equivalent", [Value::List(others)]) => {
            let is_same = others.iter().all(|other| has(items, other)) && items.iter().all(|item| has(others, item));
            Ok(is_same.into())
        }
        _ => return None,
    };
    Some(outcome)
}

fn place(found: Option<usize>) -> Value {
    Value::Int(found.map_or(-1, |at| at as i64))
}

fn sum(items: &[Value]) -> Result<Value, Fault> {
    // The parts of a sum cost nothing more than the walk, which is paid for.
    let mut free = Budget::new(items.len() as u64);
    let Some((first, rest)) = items.split_first() else { return Ok(Value::Int(0)) };
    rest.iter().try_fold(first.clone(), |sum, item| super::call("_+_", vec![sum, item.clone()], &mut free))
}

fn extreme(items: &[Value], wanted: Ordering, name: &str) -> Result<Value, Fault> {
    let mut items = items.iter();
    let mut best = items.next().ok_or_else(|| Fault::new(format!("{name} called on empty list")))?;
    for item in items {
        if item.compare(best).ok_or_else(no_overload)? == wanted {
            best = item;
        }
    }
    Ok(best.clone())
}
