//! Emptier nodes first, and those where CPU and memory run out together.

use crate::place::Scene;

/// What counts for a pod that asks for nothing: some pods are there, and they use something.
const QUIET_CPU: i64 = 100;
const QUIET_MEMORY: i64 = 200 * 1024 * 1024;

pub fn score(scene: &Scene<'_>, row: usize) -> i64 {
    let (asks, used, capacity) = (&scene.shape.asks, &scene.table.used[row], &scene.table.capacity[row]);
    let share = |ask: i64, quiet: i64, used: i64, capacity: i64| {
        let ask = if ask == 0 { quiet } else { ask };
        let after = i128::from(used) + i128::from(ask);
        if capacity <= 0 { 1000 } else { (after * 1000 / i128::from(capacity)).clamp(0, 1000) as i64 }
    };
    let cpu = share(asks.cpu, QUIET_CPU, used.cpu, capacity.cpu);
    let memory = share(asks.memory, QUIET_MEMORY, used.memory, capacity.memory);
    let crowd = share(1, 1, used.pods, capacity.pods);
    let free = (2000 - cpu - memory) / 20;
    let balance = (1000 - (cpu - memory).abs()) / 20;
    free + balance + (1000 - crowd) / 20
}
