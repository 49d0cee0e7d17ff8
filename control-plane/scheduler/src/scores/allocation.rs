//! Emptier nodes first, and those where CPU and memory run out together.

use crate::place::Scene;

/// What counts for a pod that asks for nothing: some pods are there, and they use something.
const QUIET_CPU: i64 = 100;
const QUIET_MEMORY: i64 = 200 * 1024 * 1024;

pub fn score(scene: &Scene<'_>, row: usize) -> i64 {
    let (asks, used, capacity) = (&scene.shape.asks, &scene.table.used[row], &scene.table.capacity[row]);
    let share = |ask: i64, quiet: i64, used: i64, capacity: i64| {
        let ask = if ask == 0 { quiet } else { ask };
        if capacity <= 0 {
            return 1000;
        }
        let thousandfold = used.checked_add(ask).and_then(|after| after.checked_mul(1000));
        let share = match thousandfold {
            Some(thousandfold) => thousandfold / capacity,
            // Petabytes: the wide division takes ten times as long.
            None => ((i128::from(used) + i128::from(ask)) * 1000 / i128::from(capacity)).clamp(0, 1000) as i64,
        };
        share.clamp(0, 1000)
    };
    let cpu = share(asks.cpu, QUIET_CPU, used.cpu, capacity.cpu);
    let memory = share(asks.memory, QUIET_MEMORY, used.memory, capacity.memory);
    let crowd = share(1, 1, used.pods, capacity.pods);
    let free = (2000 - cpu - memory) / 20;
    let balance = (1000 - (cpu - memory).abs()) / 20;
    free + balance + (1000 - crowd) / 20
}
