//! How long to wait before trying again.
//!
//! A container that fails at once is started again after a second, then two, four, … up to a minute. An exit with code
//! zero is not a failure; it is only kept from spinning. A run of ten minutes clears the slate.

use copepod_api::time::{SignedDuration, Timestamp};

use crate::observed::{Ended, Trouble};

/// The wait after the first failure. Shorter, and a container that cannot work burns a CPU; longer, and a dependency that
/// is a moment late costs everybody that moment many times over.
const RESTART_FIRST: SignedDuration = SignedDuration::from_secs(1);

/// The longest wait between two runs. Operators watch a crash loop while they fix its cause; five minutes, as Kubernetes
/// has it, is longer than most fixes take.
const RESTART_MAX: SignedDuration = SignedDuration::from_secs(60);

/// A run this long was not a failure to start.
const HEALTHY_RUN: SignedDuration = SignedDuration::from_mins(10);

/// Registries count requests, so pulling is tried again less eagerly than starting.
const PULL_FIRST: SignedDuration = SignedDuration::from_secs(2);
const PULL_MAX: SignedDuration = SignedDuration::from_secs(60);

/// What failed on this machine or waits for an object: cheap to try, and objects also wake the pod when they come.
const LOCAL_FIRST: SignedDuration = SignedDuration::from_millis(500);
const LOCAL_MAX: SignedDuration = SignedDuration::from_secs(10);

/// The count of failures in a row after one more run.
pub fn failures_after(before: u32, ended: &Ended) -> u32 {
    let before = if ended.ran_for() >= HEALTHY_RUN { 0 } else { before };
    if ended.exit_code == 0 { 0 } else { before.saturating_add(1) }
}

/// When a container that ended may run again.
pub fn restart_at(failures: u32, ended: &Ended) -> Timestamp {
    later(ended.finished_at, doubling(RESTART_FIRST, RESTART_MAX, failures))
}

/// How long the wait before the next run is in all; for the status message.
pub fn restart_wait(failures: u32) -> SignedDuration {
    doubling(RESTART_FIRST, RESTART_MAX, failures)
}

/// When to pull again.
pub fn pull_at(trouble: &Trouble) -> Timestamp {
    later(trouble.at, doubling(PULL_FIRST, PULL_MAX, trouble.count))
}

/// When to try again what failed on this machine.
pub fn retry_at(trouble: &Trouble) -> Timestamp {
    later(trouble.at, doubling(LOCAL_FIRST, LOCAL_MAX, trouble.count))
}

fn doubling(first: SignedDuration, max: SignedDuration, failures: u32) -> SignedDuration {
    // Sixteen doublings exceed every maximum here and cannot overflow.
    let factor = 1i32 << failures.saturating_sub(1).min(16);
    first.checked_mul(factor).unwrap_or(max).min(max)
}

pub(crate) fn later(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}
