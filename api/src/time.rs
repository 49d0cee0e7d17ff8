//! Time is an argument: nothing in the pure rooms reads a clock.

pub use jiff::{SignedDuration, Timestamp};

/// `2026-11-23T10:53:17Z`, the precision of every `metav1.Time`.
pub fn rfc3339(at: Timestamp) -> String {
    jiff::fmt::strtime::format("%Y-%m-%dT%H:%M:%SZ", at).unwrap_or_default()
}

/// `2026-11-23T10:53:17.000123Z`, the precision of every `metav1.MicroTime`.
pub fn rfc3339_micro(at: Timestamp) -> String {
    jiff::fmt::strtime::format("%Y-%m-%dT%H:%M:%S.%6fZ", at).unwrap_or_default()
}
