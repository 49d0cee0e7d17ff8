//! Arithmetic with times that cannot overflow.

use copepod_api::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use copepod_api::time::{SignedDuration, Timestamp};

/// The precision in which times are written into objects. A loop that compared finer times with what it wrote a moment
/// ago would never come to rest.
pub fn whole_seconds(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

pub fn after(start: Timestamp, seconds: i64) -> Timestamp {
    start.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}

pub fn of(time: &Option<Time>) -> Option<Timestamp> {
    time.as_ref().map(|time| time.0)
}
