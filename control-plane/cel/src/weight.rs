//! How much there is of a value.
//!
//! Parts of values are shared: a few lines make a list of lists of lists of the same list, which is small in memory and
//! has more elements than anybody can walk over. So what walks over whole values weighs them first.

use crate::{Budget, Fault, Value};

/// The largest value that leaves an evaluation, in elements. An object of the largest size has about this many.
const VALUES_MAX: u64 = 1_000_000;

/// How deep a value may nest that leaves an evaluation: deeper than any JSON that a request may have.
const DEPTH_MAX: usize = 256;

impl Value {
    /// Elements, and a tenth of the letters; counted up to one more than `max`.
    pub(crate) fn weight(&self, max: u64) -> u64 {
        let mut weight = 0_u64;
        let mut open = vec![self];
        while let Some(value) = open.pop() {
            weight += 1;
            match value {
                Value::String(text) => weight += text.len() as u64 / 10,
                Value::Bytes(bytes) => weight += bytes.len() as u64 / 10,
                Value::List(items) => {
                    // What is on the stack already has not been counted yet, but is as good as counted.
                    if weight + (items.len() + open.len()) as u64 > max {
                        return max + 1;
                    }
                    open.extend(items.iter());
                }
                Value::Map(fields) => {
                    if weight + (fields.len() + open.len()) as u64 > max {
                        return max + 1;
                    }
                    open.extend(fields.values());
                }
                Value::Structure(structure) => open.extend(structure.fields.values()),
                Value::Optional(Some(value)) => open.push(value),
                _ => {}
            }
            if weight > max {
                return max + 1;
            }
        }
        weight
    }

    /// Whether it can be handed on: to JSON, or to another expression.
    pub fn leaves(&self) -> Result<(), Fault> {
        if self.weight(VALUES_MAX) > VALUES_MAX || self.is_deeper_than(DEPTH_MAX) { Err(Fault::Cost) } else { Ok(()) }
    }

    fn is_deeper_than(&self, depth: usize) -> bool {
        let Some(depth) = depth.checked_sub(1) else { return true };
        match self {
            Value::List(items) => items.iter().any(|item| item.is_deeper_than(depth)),
            Value::Map(fields) => fields.values().any(|value| value.is_deeper_than(depth)),
            Value::Structure(structure) => structure.fields.values().any(|value| value.is_deeper_than(depth)),
            Value::Optional(Some(value)) => value.is_deeper_than(depth),
            _ => false,
        }
    }
}

impl Budget {
    /// Pays for a walk over the whole value, so and so many times.
    pub(crate) fn weigh(&mut self, value: &Value, times: usize) -> Result<(), Fault> {
        let weight = value.weight(self.left());
        self.spend(weight.saturating_mul(times.max(1) as u64))
    }
}
