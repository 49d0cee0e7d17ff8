//! Texts. Places in them are counted in letters, not bytes.

use std::{cell::RefCell, collections::BTreeMap};

use regex::{Regex, RegexBuilder};

use super::{Called, convert};
use crate::{Budget, Fault, Value};

/// How large a compiled pattern may be, in bytes.
const PATTERN_BYTES_MAX: usize = 1024 * 1024;

/// How many compiled patterns each thread remembers. Policies have few, and use them with every write.
const PATTERNS_MAX: usize = 128;

pub fn call(name: &str, args: &[Value], budget: &mut Budget) -> Called {
    let (Value::String(text), rest) = args.split_first()? else {
        return joined(name, args, budget);
    };
    if let Err(fault) = budget.walk(text.len()) {
        return Some(Err(fault));
    }
    let outcome = match (name, rest) {
        ("size", []) => Ok(Value::Int(text.chars().count() as i64)),
        ("contains", [Value::String(part)]) => {
            budget.spend((text.len() / 10 * (part.len() / 10)) as u64).map(|()| text.contains(&**part).into())
        }
        ("startsWith", [Value::String(part)]) => Ok(text.starts_with(&**part).into()),
        ("endsWith", [Value::String(part)]) => Ok(text.ends_with(&**part).into()),
        ("matches", [Value::String(pattern)]) => {
            with_pattern(text, pattern, budget, |found| found.is_match(text).into())
        }
        ("find", [Value::String(pattern)]) => {
            with_pattern(text, pattern, budget, |found| found.find(text).map_or("", |found| found.as_str()).into())
        }
        ("findAll", [Value::String(pattern), limit @ ..]) => {
            let limit = match limit {
                [Value::Int(limit)] => usize::try_from(*limit).unwrap_or(usize::MAX),
                _ => usize::MAX,
            };
            with_pattern(text, pattern, budget, |found| {
                let all = found.find_iter(text).take(limit).map(|found| Value::from(found.as_str()));
                all.collect::<Vec<_>>().into()
            })
        }
        ("charAt", [Value::Int(at)]) => {
            let letters = text.chars().count() as i64;
            match usize::try_from(*at).ok().filter(|_| *at <= letters) {
                Some(at) => Ok(text.chars().nth(at).map(String::from).unwrap_or_default().into()),
                None => Err(Fault::new(format!("index out of range: {at}"))),
            }
        }
        ("indexOf", [Value::String(part), from @ ..]) => place(text, part, from, false),
        ("lastIndexOf", [Value::String(part), from @ ..]) => place(text, part, from, true),
        ("lowerAscii", []) => Ok(text.to_ascii_lowercase().into()),
        ("upperAscii", []) => Ok(text.to_ascii_uppercase().into()),
        ("replace", [Value::String(old), Value::String(new), limit @ ..]) => {
            let size = text.len() + (text.len() / old.len().max(1) + 1) * new.len();
            budget.walk(size).map(|()| match limit {
                [Value::Int(limit)] if *limit >= 0 => text.replacen(&**old, new, *limit as usize).into(),
                _ => text.replace(&**old, new).into(),
            })
        }
        ("split", [Value::String(by), limit @ ..]) => {
            let parts = if by.is_empty() { text.len() } else { text.matches(&**by).count() };
            budget.spend(parts as u64).map(|()| split(text, by, limit))
        }
        ("substring", [Value::Int(start), end @ ..]) => substring(text, *start, end),
        ("strings.quote", []) => Ok(quoted(text).into()),
        ("trim", []) => Ok(text.trim().into()),
        ("reverse", []) => Ok(text.chars().rev().collect::<String>().into()),
        ("format", [Value::List(args)]) => format(text, args, budget),
        ("jsonpatch.escapeKey", []) => Ok(text.replace('~', "~0").replace('/', "~1").into()),
        _ => return None,
    };
    Some(outcome)
}

/// In quotes, with what cannot be seen spelled out.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for letter in text.chars() {
        match letter {
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{b}' => quoted.push_str("\\v"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\\' => quoted.push_str("\\\\"),
            '"' => quoted.push_str("\\\""),
            letter => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}

fn joined(name: &str, args: &[Value], budget: &mut Budget) -> Called {
    let (items, by) = match (name, args) {
        ("join", [Value::List(items)]) => (items, ""),
        ("join", [Value::List(items), Value::String(by)]) => (items, &**by),
        _ => return None,
    };
    let mut texts = Vec::with_capacity(items.len());
    for item in items.iter() {
        let Value::String(text) = item else { return None };
        if let Err(fault) = budget.walk(text.len() + by.len() + 10) {
            return Some(Err(fault));
        }
        texts.push(&**text);
    }
    Some(Ok(texts.join(by).into()))
}

fn with_pattern(
    text: &str,
    pattern: &str,
    budget: &mut Budget,
    then: impl FnOnce(&Regex) -> Value,
) -> Result<Value, Fault> {
    thread_local! {
        static KNOWN: RefCell<BTreeMap<String, Regex>> = const { RefCell::new(BTreeMap::new()) };
    }
    budget.spend(((text.len() + 10) / 10 * (pattern.len() + 4) / 4) as u64)?;
    let known = KNOWN.with_borrow(|known| known.get(pattern).cloned());
    let compiled = match known {
        Some(compiled) => compiled,
        None => {
            let compiled = RegexBuilder::new(pattern).size_limit(PATTERN_BYTES_MAX).build();
            let compiled = compiled.map_err(|error| Fault::new(format!("error parsing regexp: {error}")))?;
            KNOWN.with_borrow_mut(|known| {
                if known.len() >= PATTERNS_MAX {
                    known.clear();
                }
                known.insert(pattern.to_owned(), compiled.clone());
            });
            compiled
        }
    };
    Ok(then(&compiled))
}

fn place(text: &str, part: &str, from: &[Value], is_last: bool) -> Result<Value, Fault> {
    let letters: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let limit = match from {
        [Value::Int(from)] => match usize::try_from(*from).ok().filter(|from| *from < letters.len()) {
            Some(from) => Some(from),
            None => return Err(Fault::new(format!("index out of range: {from}"))),
        },
        _ => None,
    };
    let found = if is_last {
        let mut places = letters.iter().enumerate().take(limit.map_or(letters.len(), |limit| limit + 1)).rev();
        places.find(|(_, at)| text[**at..].starts_with(part)).map(|(letter, _)| letter)
    } else {
        let start = letters[limit.unwrap_or(0)];
        text[start..].find(part).and_then(|at| letters.binary_search(&(start + at)).ok())
    };
    Ok(Value::Int(found.map_or(-1, |at| at as i64)))
}

fn split(text: &str, by: &str, limit: &[Value]) -> Value {
    let limit = match limit {
        [Value::Int(limit)] if *limit >= 0 => *limit as usize,
        _ => usize::MAX,
    };
    let parts: Vec<Value> = match (by, limit) {
        (_, 0) => Vec::new(),
        ("", limit) => {
            let mut letters = text.chars();
            let mut parts: Vec<Value> =
                letters.by_ref().take(limit.saturating_sub(1)).map(|letter| String::from(letter).into()).collect();
            if !letters.as_str().is_empty() {
                parts.push(letters.as_str().into());
            }
            parts
        }
        (by, limit) => text.splitn(limit, by).map(Value::from).collect(),
    };
    parts.into()
}

fn substring(text: &str, start: i64, end: &[Value]) -> Result<Value, Fault> {
    let letters: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let end = match end {
        [Value::Int(end)] => *end,
        _ => letters.len() as i64 - 1,
    };
    let at = |letter: i64| usize::try_from(letter).ok().and_then(|letter| letters.get(letter).copied());
    match (at(start), at(end)) {
        (Some(from), Some(to)) if from <= to => Ok(text[from..to].into()),
        _ => Err(Fault::new(format!("invalid substring range. start: {start}, end: {end}"))),
    }
}

/// `%s %d %f %e %x %X %o %b %%`, with `.N` for the digits behind the point.
fn format(text: &str, args: &[Value], budget: &mut Budget) -> Result<Value, Fault> {
    const DIGITS_MAX: usize = 1000;
    let (mut out, mut args, mut letters) = (String::new(), args.iter(), text.chars().peekable());
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        let mut digits = None;
        if letters.next_if_eq(&'.').is_some() {
            let mut number = String::new();
            while let Some(digit) = letters.next_if(char::is_ascii_digit) {
                number.push(digit);
            }
            digits = number.parse::<usize>().ok().filter(|digits| *digits <= DIGITS_MAX);
        }
        let verb = letters.next().ok_or_else(|| Fault::new("unexpected end of format string"))?;
        if verb == '%' {
            out.push('%');
            continue;
        }
        let arg = args.next().ok_or_else(|| Fault::new("index out of range: too few arguments"))?;
        budget.weigh(arg, 1)?;
        budget.walk(digits.unwrap_or(0))?;
        out.push_str(&formatted(verb, digits, arg)?);
    }
    Ok(out.into())
}

fn formatted(verb: char, digits: Option<usize>, value: &Value) -> Result<String, Fault> {
    let wrong = || Fault::new(format!("could not convert argument of type {} for %{verb}", value.type_name()));
    let number = || match value {
        Value::Double(number) => Some(*number),
        Value::Int(number) => Some(*number as f64),
        Value::Uint(number) => Some(*number as f64),
        _ => None,
    };
    match (verb, value) {
        ('s', value) => Ok(convert::shown(value)),
        ('d', Value::Int(_) | Value::Uint(_)) => Ok(convert::shown(value)),
        ('f', _) => number().map(|number| format!("{number:.*}", digits.unwrap_or(6))).ok_or_else(wrong),
        ('e', _) => {
            let shown = number().map(|number| format!("{number:.*e}", digits.unwrap_or(6))).ok_or_else(wrong)?;
            let (base, power) = shown.split_once('e').unwrap_or((&shown, "0"));
            let (sign, power) = power.strip_prefix('-').map_or(("", power), |power| ("⁻", power));
            let power = format!("{power:0>2}");
            let raised = power.bytes().map(|digit| POWERS[usize::from(digit.wrapping_sub(b'0')) % POWERS.len()]);
            Ok(format!("{base}×10{sign}{}", raised.collect::<String>()))
        }
        ('b', Value::Bool(value)) => Ok(u8::from(*value).to_string()),
        ('b', Value::Int(number)) => Ok(format!("{number:b}")),
        ('b', Value::Uint(number)) => Ok(format!("{number:b}")),
        ('o', Value::Int(number)) => Ok(format!("{number:o}")),
        ('o', Value::Uint(number)) => Ok(format!("{number:o}")),
        ('x', Value::Int(number)) => Ok(format!("{number:x}")),
        ('x', Value::Uint(number)) => Ok(format!("{number:x}")),
        ('X', Value::Int(number)) => Ok(format!("{number:X}")),
        ('X', Value::Uint(number)) => Ok(format!("{number:X}")),
        ('x' | 'X', Value::String(text)) => Ok(hex(text.as_bytes(), verb)),
        ('x' | 'X', Value::Bytes(bytes)) => Ok(hex(bytes, verb)),
        _ => Err(wrong()),
    }
}

/// The digits of a power of ten, as people write it.
const POWERS: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];

fn hex(bytes: &[u8], verb: char) -> String {
    bytes.iter().map(|byte| if verb == 'x' { format!("{byte:02x}") } else { format!("{byte:02X}") }).collect()
}
