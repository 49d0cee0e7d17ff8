//! Puts objects together, and takes places out of them, along their schema.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    fields::{Set, Step, field},
    walk::{entry_step, is_leaf},
};
use crate::schema::Place;

/// `live` with all that `applied` states.
pub fn merge(place: Place<'_>, live: &Value, applied: &Value) -> Value {
    if is_leaf(place, live) || is_leaf(place, applied) {
        return applied.clone();
    }
    match (live, applied) {
        (Value::Object(live), Value::Object(applied)) => {
            let mut merged = live.clone();
            for (name, value) in applied {
                let value = match live.get(name) {
                    Some(live) => merge(place.field(name), live, value),
                    None => value.clone(),
                };
                merged.insert(name.clone(), value);
            }
            Value::Object(merged)
        }
        (Value::Array(live), Value::Array(applied)) => merge_lists(place, live, applied),
        _ => applied.clone(),
    }
}

/// Applied entries keep their order; live ones stand where they stood relative to the entries that both have.
fn merge_lists(place: Place<'_>, live: &[Value], applied: &[Value]) -> Value {
    let step = |value: &Value| entry_step(place, value).ok();
    let applied_steps: Vec<Option<Step>> = applied.iter().map(step).collect();
    let live_steps: Vec<Option<Step>> = live.iter().map(step).collect();
    let mut live_by_step: BTreeMap<&Step, &Value> = BTreeMap::new();
    for (step, value) in live_steps.iter().zip(live) {
        if let Some(step) = step {
            live_by_step.entry(step).or_insert(value);
        }
    }
    let applied_places: BTreeMap<&Step, usize> =
        applied_steps.iter().enumerate().filter_map(|(at, step)| Some((step.as_ref()?, at))).collect();
    let merged_entry = |at: usize| {
        let live = applied_steps[at].as_ref().and_then(|step| live_by_step.get(step));
        live.map_or_else(|| applied[at].clone(), |live| merge(place.items(), live, &applied[at]))
    };

    let mut merged = Vec::with_capacity(live.len() + applied.len());
    let mut next = 0;
    for (step, value) in live_steps.iter().zip(live) {
        match step.as_ref().and_then(|step| applied_places.get(step)) {
            None => merged.push(value.clone()),
            Some(at) => {
                while next <= *at {
                    merged.push(merged_entry(next));
                    next += 1;
                }
            }
        }
    }
    merged.extend((next..applied.len()).map(merged_entry));
    Value::Array(merged)
}

/// `value` without the places `dropped`. Maps and lists that this leaves empty go too, unless they are `kept`.
pub fn remove(place: Place<'_>, value: Value, dropped: &Set, kept: &Set) -> Value {
    if dropped.is_empty() || is_leaf(place, &value) {
        return value;
    }
    let below = |place: Place<'_>, step: &Step, value: Value| {
        if dropped.members.contains(step) {
            return None;
        }
        let Some(dropped) = dropped.children.get(step) else { return Some(value) };
        let was_empty = is_empty(&value);
        let value = remove(place, value, dropped, kept.children.get(step).unwrap_or(&Set::default()));
        (was_empty || !is_empty(&value) || kept.members.contains(step)).then_some(value)
    };
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter()
                .filter_map(|(name, value)| {
                    let value = below(place.field(&name), &field(&name), value)?;
                    Some((name, value))
                })
                .collect(),
        ),
        Value::Array(list) => Value::Array(
            list.into_iter()
                .filter_map(|value| match entry_step(place, &value) {
                    Ok(step) => below(place.items(), &step, value),
                    Err(_) => Some(value),
                })
                .collect(),
        ),
        value => value,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}
