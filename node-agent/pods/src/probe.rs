//! When a container is asked how it is, and what its answers mean.
//!
//! Kubernetes asks every `periodSeconds`, so a container that is up after 200 ms is called ready ten seconds later. Here a
//! container that has not passed yet is asked more often, at intervals that grow with its age up to the period; those
//! extra answers can only make it ready earlier: failures are counted at most once a period.

use copepod_api::time::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Probe};

use crate::backoff::later;

/// The closest two questions to a container that has not passed yet may be.
const EAGER_MIN: SignedDuration = SignedDuration::from_millis(100);

/// How much earlier than a whole period an answer may come and still be counted: timers are not exact.
const COUNT_SLACK: SignedDuration = SignedDuration::from_millis(50);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProbeKind {
    Startup,
    Readiness,
    Liveness,
}

impl ProbeKind {
    pub const ALL: [ProbeKind; 3] = [ProbeKind::Startup, ProbeKind::Readiness, ProbeKind::Liveness];

    pub fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            ProbeKind::Startup => container.startup_probe.as_ref(),
            ProbeKind::Readiness => container.readiness_probe.as_ref(),
            ProbeKind::Liveness => container.liveness_probe.as_ref(),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            ProbeKind::Startup => "Startup",
            ProbeKind::Readiness => "Readiness",
            ProbeKind::Liveness => "Liveness",
        }
    }
}

/// What one probe has said during one run of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeRecord {
    /// When the last answer came.
    pub last_at: Option<Timestamp>,
    /// When the last failure was counted.
    pub counted_at: Option<Timestamp>,
    pub successes: u32,
    pub failures: u32,
    /// What the answers amount to, once a threshold was reached.
    pub verdict: Option<bool>,
    pub message: String,
}

impl ProbeRecord {
    /// The record after an answer.
    pub fn record(&mut self, probe: &Probe, passed: bool, message: String, now: Timestamp) {
        self.last_at = Some(now);
        self.message = message;
        if passed {
            self.failures = 0;
            self.counted_at = None;
            self.successes = self.successes.saturating_add(1);
            if self.successes >= threshold(probe.success_threshold, 1) {
                self.verdict = Some(true);
            }
            return;
        }
        self.successes = 0;
        let counts = self.counted_at.is_none_or(|at| now.duration_since(at) + COUNT_SLACK >= period(probe));
        if counts {
            self.counted_at = Some(now);
            self.failures = self.failures.saturating_add(1);
            if self.failures >= threshold(probe.failure_threshold, 3) {
                self.verdict = Some(false);
            }
        }
    }

    /// When to ask next, for a container running since `since`.
    pub fn due(&self, kind: ProbeKind, probe: &Probe, since: Timestamp) -> Timestamp {
        let first = later(since, seconds(probe.initial_delay_seconds, 0));
        let Some(last) = self.last_at else { return first };
        let eager = kind != ProbeKind::Liveness && self.verdict.is_none() && self.successes == 0;
        if !eager {
            return later(last, period(probe));
        }
        let soon = later(last, (last.duration_since(first) / 2).clamp(EAGER_MIN, period(probe).max(EAGER_MIN)));
        // The answers that count come when they would come without the extra ones.
        match self.counted_at.map(|at| later(at, period(probe))) {
            Some(counting) if counting > last => soon.min(counting),
            _ => soon,
        }
    }
}

/// How long an answer may take.
pub fn timeout(probe: &Probe) -> SignedDuration {
    seconds(probe.timeout_seconds, 1).max(SignedDuration::from_secs(1))
}

fn period(probe: &Probe) -> SignedDuration {
    seconds(probe.period_seconds.filter(|seconds| *seconds > 0), 10)
}

fn seconds(value: Option<i32>, default: i64) -> SignedDuration {
    SignedDuration::from_secs(value.map_or(default, i64::from).max(0))
}

fn threshold(value: Option<i32>, default: u32) -> u32 {
    value.and_then(|value| u32::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(default)
}
