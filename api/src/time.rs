//! Time is an argument: nothing in the pure rooms reads a clock.

pub use jiff::{SignedDuration, Timestamp};

/// `2026-11-23T10:53:17Z`, the precision of every `metav1.Time`.
pub fn rfc3339(at: Timestamp) -> String {
    jiff::fmt::strtime::format("%Y-%m-%dT%H:%M:%SZ", at).unwrap_or_default()
}

/// `2026-11-23T10:53:17.000123Z`, the precision of every `metav1.MicroTime`.
/// A time zone by its name, from the tables that are compiled in: every server knows the same.
pub fn zone(name: &str) -> Result<jiff::tz::TimeZone, jiff::Error> {
    static ZONES: std::sync::LazyLock<jiff::tz::TimeZoneDatabase> =
        std::sync::LazyLock::new(jiff::tz::TimeZoneDatabase::bundled);
    ZONES.get(name)
}

pub fn rfc3339_micro(at: Timestamp) -> String {
    jiff::fmt::strtime::format("%Y-%m-%dT%H:%M:%S.%6fZ", at).unwrap_or_default()
}
