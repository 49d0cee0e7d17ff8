//! When a schedule is due: five fields of minutes, hours, days, months and weekdays, or a word for a common one.

use jiff::{Span, civil::Date, tz::TimeZone};

use crate::Timestamp;

/// How far ahead a time is looked for. What is not due in so many years (the 30th of February) never is.
const YEARS_MAX: i32 = 8;

/// Words for common schedules.
const WORDS: &[(&str, &str)] = &[
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

type Range = (u32, u32, &'static [&'static str]);

/// The lowest and highest number of each field, and its words.
const RANGES: [Range; 5] = [
    (0, 59, &[]),
    (0, 23, &[]),
    (1, 31, &[]),
    (1, 12, &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]),
    (0, 6, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
];

/// A schedule that makes sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// Seconds from one time to the next.
    Every(i64),
    Fields(Fields),
}

/// A bit for each number of a field that is meant, and whether it says no more than "any".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields {
    numbers: [u64; 5],
    is_any: [bool; 5],
}

impl Schedule {
    pub fn parse(text: &str) -> Result<Schedule, String> {
        if let Some(every) = text.strip_prefix("@every ") {
            let span: jiff::SignedDuration =
                every.parse().map_err(|_| format!("failed to parse duration {text}: invalid duration {every:?}"))?;
            // Rounded down to seconds, and never less than one.
            return Ok(Schedule::Every(span.as_secs().max(1)));
        }
        let word = WORDS.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning);
        if word.is_none() && text.starts_with('@') {
            return Err(format!("unrecognized descriptor: {text}"));
        }
        let parts: Vec<&str> = word.unwrap_or(text).split_whitespace().collect();
        let parts: [&str; 5] = parts.try_into().map_err(|parts: Vec<&str>| {
            format!("expected exactly 5 fields, found {}: [{}]", parts.len(), parts.join(" "))
        })?;
        let mut fields = Fields { numbers: [0; 5], is_any: [false; 5] };
        for (place, (part, range)) in parts.iter().zip(&RANGES).enumerate() {
            for piece in part.split(',') {
                let (numbers, is_any) = piece_of(piece, range)?;
                fields.numbers[place] |= numbers;
                fields.is_any[place] |= is_any;
            }
        }
        Ok(Schedule::Fields(fields))
    }

    /// The first time after `after`, on the clocks of a zone.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Schedule::Every(seconds) => Timestamp::from_second(after.as_second().checked_add(*seconds)?).ok(),
            Schedule::Fields(fields) => fields.next(after, zone),
        }
    }

    /// The last time after `since` and not after `now`.
    pub fn last(&self, since: Timestamp, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        const HOUR: i64 = 3600;
        // Times are dense or rare; looked for in windows that grow, there are few of them in the first that has any.
        for window in [HOUR, 24 * HOUR, 32 * 24 * HOUR, i64::from(YEARS_MAX) * 366 * 24 * HOUR] {
            let from = Timestamp::from_second(now.as_second().saturating_sub(window)).unwrap_or(since).max(since);
            let mut last = None;
            let mut at = self.next(from, zone);
            while let Some(due) = at.filter(|due| *due <= now) {
                last = Some(due);
                at = self.next(due, zone);
            }
            if last.is_some() || from == since {
                return last;
            }
        }
        None
    }
}

fn piece_of(piece: &str, (low, high, words): &Range) -> Result<(u64, bool), String> {
    let number = |text: &str| -> Result<u32, String> {
        let word = words.iter().position(|word| text.eq_ignore_ascii_case(word));
        let number = match word {
            Some(at) => u32::try_from(at).unwrap_or(0) + low,
            None => text.parse().map_err(|_| format!("failed to parse int from {text}: invalid syntax"))?,
        };
        match number {
            number if number < *low => Err(format!("beginning of range ({number}) below minimum ({low}): {piece}")),
            number if number > *high => Err(format!("end of range ({number}) above maximum ({high}): {piece}")),
            number => Ok(number),
        }
    };
    let (range, step) = piece.split_once('/').map_or((piece, None), |(range, step)| (range, Some(step)));
    let step_of = |text: &str| {
        let step = text.parse::<u32>().ok().filter(|step| *step > 0);
        step.ok_or_else(|| format!("step of range should be a positive number: {piece}"))
    };
    let is_stepped = step.is_some();
    let step = step.map_or(Ok(1), step_of)?;
    let is_star = range == "*" || range == "?";
    let (first, last) = match range.split_once('-') {
        _ if is_star => (*low, *high),
        // `5/15` is from 5 on.
        None => (number(range)?, if is_stepped { *high } else { number(range)? }),
        Some((first, last)) => match (number(first)?, number(last)?) {
            (first, last) if first > last => {
                return Err(format!("beginning of range ({first}) beyond end of range ({last}): {piece}"));
            }
            both => both,
        },
    };
    let numbers = (first..=last).step_by(step as usize).fold(0, |bits, number| bits | 1_u64 << number);
    Ok((numbers, is_star && step == 1))
}

impl Fields {
    fn has(&self, field: usize, number: i8) -> bool {
        u32::try_from(number).is_ok_and(|number| self.numbers[field] & (1 << number) != 0)
    }

    /// A day of the month and a weekday, where both are said, are alternatives.
    fn is_day(&self, date: Date) -> bool {
        let day = self.has(2, date.day());
        let weekday = self.has(4, date.weekday().to_sunday_zero_offset());
        let fits = if self.is_any[2] || self.is_any[4] { day && weekday } else { day || weekday };
        self.has(3, date.month()) && fits
    }

    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let start = after.to_zoned(zone.clone()).datetime();
        let end = start.date().checked_add(Span::new().years(YEARS_MAX)).ok()?;
        let mut date = start.date();
        while date <= end {
            if self.is_day(date) {
                let hours = (0..24).filter(|hour| self.has(1, *hour));
                let times = hours.flat_map(|hour| (0..60).map(move |minute| (hour, minute)));
                let mut times = times.filter(|(_, minute)| self.has(0, *minute));
                // A time that a clock skips is due when the clock goes on.
                let due = times.find_map(|(hour, minute)| {
                    let at = date.at(hour, minute, 0, 0).to_zoned(zone.clone()).ok()?.timestamp();
                    (at > after).then_some(at)
                });
                if due.is_some() {
                    return due;
                }
            }
            date = date.tomorrow().ok()?;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &str, after: &str) -> String {
        let schedule = Schedule::parse(schedule).unwrap();
        let next = schedule.next(after.parse().unwrap(), &TimeZone::UTC);
        next.map_or_else(|| "never".to_owned(), |at| at.to_string())
    }

    #[test]
    fn the_next_time_is_found() {
        for (schedule, after, due) in [
            ("*/15 * * * *", "2026-11-23T10:07:30Z", "2026-11-23T10:15:00Z"),
            ("0 3 * * *", "2026-11-23T03:00:00Z", "2026-11-24T03:00:00Z"),
            ("5/20 1-2 * * *", "2026-11-23T01:45:00Z", "2026-11-23T02:05:00Z"),
            ("0 0 29 feb *", "2026-11-23T00:00:00Z", "2028-02-29T00:00:00Z"),
            // The first of a month, or a Friday.
            ("0 0 1 * fri", "2026-11-23T00:00:00Z", "2026-11-27T00:00:00Z"),
            ("0 0 30 2 *", "2026-11-23T00:00:00Z", "never"),
            ("@weekly", "2026-11-23T00:00:00Z", "2026-11-29T00:00:00Z"),
            ("@every 90s", "2026-11-23T00:00:00Z", "2026-11-23T00:01:30Z"),
        ] {
            assert_eq!(next(schedule, after), due, "{schedule}");
        }
    }

    #[test]
    fn the_last_time_is_found_however_many_were_missed() {
        let last = |schedule: &str, since: &str| {
            let (since, now) = (since.parse().unwrap(), "2026-11-23T10:00:30Z".parse().unwrap());
            let last = Schedule::parse(schedule).unwrap().last(since, now, &TimeZone::UTC);
            last.map_or_else(|| "none".to_owned(), |at| at.to_string())
        };
        assert_eq!(last("* * * * *", "2020-01-01T00:00:00Z"), "2026-11-23T10:00:00Z");
        assert_eq!(last("0 0 1 1 *", "2020-01-01T00:00:00Z"), "2026-01-01T00:00:00Z");
        assert_eq!(last("0 11 * * *", "2026-11-23T00:00:00Z"), "none");
    }

    #[test]
    fn clocks_of_a_zone_count() {
        let zone = crate::time::zone("Europe/Berlin").unwrap();
        let next = |after: &str| Schedule::parse("30 2 * * *").unwrap().next(after.parse().unwrap(), &zone).unwrap();
        assert_eq!(next("2026-11-23T12:00:00Z").to_string(), "2026-11-24T01:30:00Z");
        // That night the clocks go from two to three.
        assert_eq!(next("2026-03-28T12:00:00Z").to_string(), "2026-03-29T01:30:00Z");
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        for (schedule, why) in [
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 5-1 * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("x * * * *", "failed to parse int from x: invalid syntax"),
            ("@never", "unrecognized descriptor: @never"),
        ] {
            assert_eq!(Schedule::parse(schedule).unwrap_err(), why);
        }
    }
}
