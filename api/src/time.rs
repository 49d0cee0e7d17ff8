//! Time is an argument: nothing in the pure rooms reads a clock.

pub use jiff::{SignedDuration, Timestamp, tz::TimeZone};

/// Where nobody names a zone.
pub const UTC: TimeZone = TimeZone::UTC;

/// `2026-11-23T10:53:17Z`, the precision of every `metav1.Time`.
pub fn rfc3339(at: Timestamp) -> String {
    jiff::fmt::strtime::format("%Y-%m-%dT%H:%M:%SZ", at).unwrap_or_default()
}

/// `2026-11-23T11:53:17+01:00`: the same on the clocks of a zone.
pub fn rfc3339_at(at: Timestamp, zone: &TimeZone) -> String {
    let told = jiff::fmt::strtime::format("%Y-%m-%dT%H:%M:%S%:z", &at.to_zoned(zone.clone())).unwrap_or_default();
    told.strip_suffix("+00:00").map(|told| format!("{told}Z")).unwrap_or(told)
}

/// A time zone by its name, from the tables that are compiled in: every server knows the same.
pub fn zone(name: &str) -> Result<jiff::tz::TimeZone, jiff::Error> {
    static ZONES: std::sync::LazyLock<jiff::tz::TimeZoneDatabase> =
        std::sync::LazyLock::new(jiff::tz::TimeZoneDatabase::bundled);
    ZONES.get(name)
}

/// `2026-11-23T10:53:17.000123Z`, the precision of every `metav1.MicroTime`.
pub fn rfc3339_micro(at: Timestamp) -> String {
    jiff::fmt::strtime::format("%Y-%m-%dT%H:%M:%S.%6fZ", at).unwrap_or_default()
}
