//! Points in time and how much lies between them.

use jiff::{SignedDuration, Timestamp, Zoned, tz::TimeZone};

use super::Called;
use crate::{Budget, Fault, Value};

pub fn call(name: &str, args: &[Value], _: &mut Budget) -> Called {
    match args {
        [Value::Duration(duration)] => {
            let nanos = duration.as_nanos();
            let unit = match name {
                "getHours" => 3_600_000_000_000,
                "getMinutes" => 60_000_000_000,
                "getSeconds" => 1_000_000_000,
                "getMilliseconds" => 1_000_000,
                _ => return None,
            };
            Some(i64::try_from(nanos / unit).map(Value::Int).map_err(|_| Fault::new("range error")))
        }
        [Value::Timestamp(at)] => part(name, at.to_zoned(TimeZone::UTC)).map(Ok),
        [Value::Timestamp(at), Value::String(zone)] => match self::zone(zone) {
            Ok(zone) => part(name, at.to_zoned(zone)).map(Ok),
            Err(fault) => Some(Err(fault)),
        },
        _ => None,
    }
}

fn part(name: &str, at: Zoned) -> Option<Value> {
    let number: i64 = match name {
        "getFullYear" => at.year().into(),
        "getMonth" => i64::from(at.month()) - 1,
        "getDate" => at.day().into(),
        "getDayOfMonth" => i64::from(at.day()) - 1,
        "getDayOfYear" => i64::from(at.day_of_year()) - 1,
        "getDayOfWeek" => at.weekday().to_sunday_zero_offset().into(),
        "getHours" => at.hour().into(),
        "getMinutes" => at.minute().into(),
        "getSeconds" => at.second().into(),
        "getMilliseconds" => at.millisecond().into(),
        _ => return None,
    };
    Some(Value::Int(number))
}

/// A name of the time zone database, or `+01:00`.
fn zone(text: &str) -> Result<TimeZone, Fault> {
    let unknown = || Fault::new(format!("unknown time zone {text}"));
    if let Some((hours, minutes)) = text.split_once(':') {
        let (hours, minutes): (i8, u8) = hours.parse().ok().zip(minutes.parse().ok()).ok_or_else(unknown)?;
        let minutes = if text.starts_with('-') { -i32::from(minutes) } else { i32::from(minutes) };
        let offset = jiff::tz::Offset::from_seconds(i32::from(hours) * 3600 + minutes * 60);
        return offset.map(TimeZone::fixed).map_err(|_| unknown());
    }
    TimeZone::get(text).map_err(|_| unknown())
}

pub fn timestamp(text: &str) -> Result<Timestamp, Fault> {
    text.parse().map_err(|_| Fault::new(format!("invalid timestamp: {text:?}")))
}

/// `1h30m`, `-1.5s`, `10ms`.
pub fn duration(text: &str) -> Result<SignedDuration, Fault> {
    let wrong = || Fault::new(format!("invalid duration: {text:?}"));
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(SignedDuration::ZERO);
    }
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut nanos: f64 = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..end].parse().map_err(|_| wrong())?;
        rest = &rest[end..];
        let end = rest.find(|letter: char| letter.is_ascii_digit() || letter == '.').unwrap_or(rest.len());
        nanos += number
            * match &rest[..end] {
                "h" => 3.6e12,
                "m" => 6e10,
                "s" => 1e9,
                "ms" => 1e6,
                "us" | "µs" => 1e3,
                "ns" => 1.0,
                _ => return Err(wrong()),
            };
        rest = &rest[end..];
    }
    if nanos > i64::MAX as f64 {
        return Err(wrong());
    }
    Ok(SignedDuration::from_nanos(sign * nanos.round() as i64))
}

/// Seconds, as in protobuf's JSON: `90s`, `1.5s`.
pub fn shown(duration: SignedDuration) -> String {
    let (sign, nanos) = (if duration.is_negative() { "-" } else { "" }, duration.as_nanos().unsigned_abs());
    let (seconds, rest) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    match rest {
        0 => format!("{sign}{seconds}s"),
        rest => format!("{sign}{seconds}.{}s", format!("{rest:09}").trim_end_matches('0')),
    }
}
