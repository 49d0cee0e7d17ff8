//! A pod gets what it asks for, or another node.

use copepod_api::quantity::Quantity;

use crate::{
    place::Scene,
    refusal::{Check, Reason},
};

pub fn check(scene: &Scene<'_>, row: usize) -> Check {
    let (asks, used, capacity) = (&scene.shape.asks, &scene.table.used[row], &scene.table.capacity[row]);
    let fits = |ask: i64, used: i64, capacity: i64| ask == 0 || ask <= capacity - used;
    let others_fit = asks.other.iter().all(|(name, ask)| {
        let of = |amounts: &crate::amounts::Amounts| amounts.other.get(name).copied().unwrap_or(0);
        fits(*ask, of(used), of(capacity))
    });
    if fits(asks.cpu, used.cpu, capacity.cpu)
        && fits(asks.memory, used.memory, capacity.memory)
        && fits(asks.storage, used.storage, capacity.storage)
        && fits(asks.pods, used.pods, capacity.pods)
        && others_fit
    {
        return Ok(());
    }
    let mut reasons = Vec::new();
    if !fits(asks.pods, used.pods, capacity.pods) {
        reasons.push(Reason::told("Too many pods", format!("it has {} of {} pods", used.pods, capacity.pods)));
    }
    let mut lack = |name: &str, ask: i64, used: i64, capacity: i64, write: fn(i64) -> Quantity| {
        if !fits(ask, used, capacity) {
            let free = write((capacity - used).max(0));
            let detail = format!("needs {} {name}, {free} free of {}", write(ask), write(capacity));
            reasons.push(Reason::told(format!("Insufficient {name}"), detail));
        }
    };
    lack("cpu", asks.cpu, used.cpu, capacity.cpu, Quantity::from_milli);
    lack("memory", asks.memory, used.memory, capacity.memory, Quantity::from_bytes);
    lack("ephemeral-storage", asks.storage, used.storage, capacity.storage, Quantity::from_bytes);
    for (name, ask) in &asks.other {
        let of = |amounts: &crate::amounts::Amounts| amounts.other.get(name).copied().unwrap_or(0);
        lack(name, *ask, of(used), of(capacity), Quantity::from_value);
    }
    Err(reasons)
}
