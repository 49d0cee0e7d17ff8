//! Versions by the rules of semver.org: `semver("1.2.3-rc.1")`.

use std::{cmp::Ordering, fmt};

use super::Called;
use crate::{Budget, Fault, Value};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    numbers: [u64; 3],
    /// What comes before the release; the release itself has none, and is later than all of these.
    before: Vec<String>,
    build: String,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.numbers;
        write!(f, "{major}.{minor}.{patch}")?;
        if !self.before.is_empty() {
            write!(f, "-{}", self.before.join("."))?;
        }
        if self.build.is_empty() { Ok(()) } else { write!(f, "+{}", self.build) }
    }
}

impl Version {
    fn parse(text: &str) -> Option<Version> {
        let (text, build) = text.split_once('+').map_or((text, None), |(text, build)| (text, Some(build)));
        let (text, before) = text.split_once('-').map_or((text, None), |(text, before)| (text, Some(before)));
        let is_word =
            |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let words = |text: Option<&str>| -> Option<Vec<String>> {
            let Some(text) = text else { return Some(Vec::new()) };
            text.split('.').map(|word| is_word(word).then(|| word.to_owned())).collect()
        };
        let numbers: Vec<u64> = text.split('.').map(number).collect::<Option<_>>()?;
        let before = words(before)?;
        let is_plain = |word: &String| !is_number(word) || number(word).is_some();
        let version = Version { numbers: numbers.try_into().ok()?, before, build: words(build)?.join(".") };
        version.before.iter().all(is_plain).then_some(version)
    }

    /// The build says nothing about the order.
    fn order(&self, other: &Version) -> Ordering {
        let before = || match (self.before.is_empty(), other.before.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => {
                let words = self.before.iter().zip(&other.before).map(|(one, other)| word_order(one, other));
                let first = words.into_iter().find(|order| *order != Ordering::Equal);
                first.unwrap_or_else(|| self.before.len().cmp(&other.before.len()))
            }
        };
        self.numbers.cmp(&other.numbers).then_with(before)
    }
}

fn is_number(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_digit())
}

/// Without zeros before it.
fn number(text: &str) -> Option<u64> {
    let is_plain = !text.is_empty() && is_number(text) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_plain)
}

fn word_order(one: &str, other: &str) -> Ordering {
    match (number(one), number(other)) {
        (Some(one), Some(other)) => one.cmp(&other),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => one.cmp(other),
    }
}

/// `v1.2` counts as `1.2.0` where the caller wants that.
fn parsed(args: &[Value]) -> Option<Option<Version>> {
    match args {
        [Value::String(text)] => Some(Version::parse(text)),
        [Value::String(text), Value::Bool(true)] => {
            let text = text.strip_prefix('v').unwrap_or(text);
            let end = text.find(['-', '+']).unwrap_or(text.len());
            let (numbers, rest) = text.split_at(end);
            let bare = |part: &str| match part.trim_start_matches('0') {
                "" if !part.is_empty() => "0".to_owned(),
                part => part.to_owned(),
            };
            let mut numbers: Vec<String> = numbers.split('.').map(bare).collect();
            numbers.resize(numbers.len().max(3), "0".to_owned());
            Some(Version::parse(&format!("{}{rest}", numbers.join("."))))
        }
        [Value::String(text), Value::Bool(false)] => Some(Version::parse(text)),
        _ => None,
    }
}

pub fn call(name: &str, args: &[Value], _: &mut Budget) -> Called {
    let outcome = match (name, args) {
        ("semver", args) => parsed(args)?
            .map(|version| Value::Version(version.into()))
            .ok_or_else(|| Fault::new("semver parse error during conversion from string")),
        ("isSemver", args) => Ok(parsed(args)?.is_some().into()),
        ("major", [Value::Version(own)]) => Ok(Value::Int(own.numbers[0] as i64)),
        ("minor", [Value::Version(own)]) => Ok(Value::Int(own.numbers[1] as i64)),
        ("patch", [Value::Version(own)]) => Ok(Value::Int(own.numbers[2] as i64)),
        ("compareTo", [Value::Version(own), Value::Version(other)]) => Ok(Value::Int(own.order(other) as i64)),
        ("isLessThan", [Value::Version(own), Value::Version(other)]) => Ok((own.order(other) == Ordering::Less).into()),
        ("isGreaterThan", [Value::Version(own), Value::Version(other)]) => {
            Ok((own.order(other) == Ordering::Greater).into())
        }
        _ => return None,
    };
    Some(outcome)
}
