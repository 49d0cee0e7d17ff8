//! YAML into `Value`s, read as kubectl reads it.
//!
//! People write manifests for kubectl, whose reader follows YAML 1.1 in the meaning of bare words: `0644` is an octal
//! number and `yes` is true. A reader of YAML 1.2 would quietly give a volume's files other modes. A generic
//! deserializer cannot tell `0644` from `"0644"`, so this module composes values from the parser's events itself, which
//! also gives it the places of mistakes, duplicate keys, and a budget for what aliases expand to.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};
use serde_json::{Map, Number, Value};

use super::{DecodeError, Document, Duplicate, Fault, Limits};
use crate::field::Path;

/// What a stream may grow to, in values plus an allowance for long texts. Without aliases a text of the largest size
/// stays well below; a few lines of aliases to aliases would otherwise fill the memory.
const WEIGHT_MAX: usize = 2_000_000;

/// Bytes of text that weigh as much as one value.
const BYTES_PER_WEIGHT: usize = 32;

/// Reads exactly one document: the body of a request. An empty text is `null`.
pub fn yaml(bytes: &[u8], limits: &Limits) -> Result<(Value, Vec<Duplicate>), DecodeError> {
    let mut documents = yaml_documents(bytes, limits)?;
    if let Some(second) = documents.get(1) {
        return Err(DecodeError::syntax("only one document is expected here", (second.line, 1)));
    }
    Ok(documents.pop().map_or((Value::Null, Vec::new()), |document| (document.value, document.duplicates)))
}

/// Where a field stands in a stream: line and column, from 1. `document` counts as [`yaml_documents`] does. A field that
/// is not there is missing where its parent stands. This reads the stream again, for the one message that needs it.
pub fn yaml_place(bytes: &[u8], limits: &Limits, document: usize, path: &str) -> Option<(usize, usize)> {
    let text = std::str::from_utf8(bytes).ok().filter(|_| bytes.len() <= limits.bytes)?;
    let mut composer = Composer::new(text, limits);
    composer.wanted = Some(path);
    let n_read = composer.documents(Some(document)).ok()?.len();
    composer.found.filter(|_| n_read > document).map(|(_, place)| place)
}

/// Reads a stream of documents. Empty ones, as between two `---`, are left out.
pub fn yaml_documents(bytes: &[u8], limits: &Limits) -> Result<Vec<Document>, DecodeError> {
    if bytes.len() > limits.bytes {
        return Err(DecodeError::too_large(limits, bytes.len()));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
        DecodeError::syntax("this is not UTF-8 text", (line, column))
    })?;
    Composer::new(text, limits).documents(None)
}

struct Composer<'a> {
    parser: Parser<'a, StrInput<'a>>,
    limits: &'a Limits,
    /// What aliases may refer to, and its weight.
    anchors: BTreeMap<usize, (Value, usize)>,
    weight: usize,
    duplicates: Vec<Duplicate>,
    /// The path whose place is looked for, and the length and place of the longest part of it so far.
    wanted: Option<&'a str>,
    found: Option<(usize, (usize, usize))>,
}

fn place(marker: Marker) -> (usize, usize) {
    (marker.line(), marker.col() + 1)
}

fn scan_error(error: &ScanError) -> DecodeError {
    DecodeError::syntax(error.info(), place(*error.marker()))
}

impl<'a> Composer<'a> {
    fn new(text: &'a str, limits: &'a Limits) -> Self {
        Composer {
            parser: Parser::new_from_str(text.strip_prefix('\u{feff}').unwrap_or(text)),
            limits,
            anchors: BTreeMap::new(),
            weight: 0,
            duplicates: Vec::new(),
            wanted: None,
            found: None,
        }
    }

    /// All documents, or those up to the one that something is looked for in.
    fn documents(&mut self, searched: Option<usize>) -> Result<Vec<Document>, DecodeError> {
        let mut documents = Vec::new();
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(documents),
                Event::DocumentStart(_) => {
                    let (event, span) = self.next()?;
                    self.found = None;
                    let value = self.value(event, span, None, 0)?;
                    let duplicates = std::mem::take(&mut self.duplicates);
                    self.anchors.clear();
                    if !value.is_null() {
                        documents.push(Document { value, duplicates, line: span.start.line() });
                        if searched.is_some_and(|searched| documents.len() > searched) {
                            return Ok(documents);
                        }
                    }
                }
                Event::StreamStart | Event::DocumentEnd | Event::Nothing => (),
                _ => return Err(DecodeError::syntax("this stands outside of a document", place(span.start))),
            }
        }
    }

    /// Notes down a place if it is on the way to the one that is looked for.
    fn pass(&mut self, path: Option<&Path<'_>>, span: Span) {
        let (Some(wanted), Some(path)) = (self.wanted, path) else { return };
        let path = path.to_string();
        let is_on_the_way =
            wanted.strip_prefix(path.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
        if is_on_the_way && self.found.is_none_or(|(length, _)| length < path.len()) {
            self.found = Some((path.len(), place(span.start)));
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), DecodeError> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(scan_error(&error)),
            None => Ok((Event::StreamEnd, Span::empty(Marker::new(0, 1, 0)))),
        }
    }

    fn weigh(&mut self, weight: usize, span: Span) -> Result<(), DecodeError> {
        self.weight += weight;
        if self.weight <= WEIGHT_MAX {
            return Ok(());
        }
        let message = "aliases expand to more than is accepted: write the values out, or use fewer of them".to_owned();
        Err(DecodeError { fault: Fault::TooLarge, message, at: Some(place(span.start)) })
    }

    fn value(
        &mut self,
        event: Event<'a>,
        span: Span,
        path: Option<&Path<'_>>,
        depth: usize,
    ) -> Result<Value, DecodeError> {
        if depth > self.limits.depth {
            return Err(DecodeError::too_deep(self.limits, place(span.start)));
        }
        let before = self.weight;
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.weigh(1 + text.len() / BYTES_PER_WEIGHT, span)?;
                (scalar(&text, style, tag.as_deref(), span)?, anchor)
            }
            Event::SequenceStart(anchor, _) => {
                self.weigh(1, span)?;
                (self.sequence(path, depth)?, anchor)
            }
            Event::MappingStart(anchor, _) => {
                self.weigh(1, span)?;
                (self.mapping(path, depth)?, anchor)
            }
            Event::Alias(id) => {
                let Some((value, weight)) = self.anchors.get(&id).cloned() else {
                    return Err(DecodeError::syntax(
                        "this alias refers to a value that contains it",
                        place(span.start),
                    ));
                };
                self.weigh(weight, span)?;
                (value, 0)
            }
            _ => return Err(DecodeError::syntax("a value is missing here", place(span.start))),
        };
        if anchor != 0 {
            let weight = self.weight - before;
            self.weigh(weight, span)?;
            self.anchors.insert(anchor, (value.clone(), weight));
        }
        Ok(value)
    }

    fn sequence(&mut self, path: Option<&Path<'_>>, depth: usize) -> Result<Value, DecodeError> {
        let mut list = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::Array(list)),
                (event, span) => {
                    let path = path.map(|path| path.index(list.len()));
                    self.pass(path.as_ref(), span);
                    let value = self.value(event, span, path.as_ref(), depth + 1)?;
                    list.push(value);
                }
            }
        }
    }

    fn mapping(&mut self, path: Option<&Path<'_>>, depth: usize) -> Result<Value, DecodeError> {
        let mut map = Map::new();
        let mut merged: Vec<Value> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            let is_merge = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, ..) if text == "<<");
            let key = match event {
                Event::MappingEnd => break,
                Event::Scalar(text, ..) => text.into_owned(),
                Event::Alias(id) => match self.anchors.get(&id) {
                    Some((Value::String(text), _)) => text.clone(),
                    _ => return Err(DecodeError::syntax("a key must be a text", place(span.start))),
                },
                _ => return Err(DecodeError::syntax("a key must be a text", place(span.start))),
            };
            let (event, value_span) = self.next()?;
            let inner = path.map_or(Path::root(&key), |path| path.at(&key));
            self.pass(Some(&inner), span);
            let value = self.value(event, value_span, Some(&inner), depth + 1)?;
            if is_merge {
                match value {
                    Value::Array(list) if list.iter().all(Value::is_object) => merged.extend(list),
                    value @ Value::Object(_) => merged.push(value),
                    _ => return Err(DecodeError::syntax("<< takes a mapping, or a list of them", place(span.start))),
                }
                continue;
            }
            if map.contains_key(&key) {
                let (path, line) = (inner.to_string(), span.start.line());
                self.duplicates.push(Duplicate { path, key: key.clone(), line });
            }
            map.insert(key, value);
        }
        for fields in
            merged.into_iter().filter_map(|value| if let Value::Object(map) = value { Some(map) } else { None })
        {
            for (key, value) in fields {
                map.entry(key).or_insert(value);
            }
        }
        Ok(Value::Object(map))
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>, span: Span) -> Result<Value, DecodeError> {
    let is_text = tag.is_some_and(|tag| tag.suffix == "str" || tag.suffix == "binary" || tag.handle == "!");
    if style != ScalarStyle::Plain || is_text {
        return Ok(text.into());
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "y" | "Y" => return Ok(true.into()),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "n" | "N" => {
            return Ok(false.into());
        }
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" | "-.inf" | "-.Inf" | "-.INF" | ".nan" | ".NaN"
        | ".NAN" => {
            let message = format!("{text} has no meaning in JSON: put it in quotes if a text is meant");
            return Err(DecodeError::syntax(message, place(span.start)));
        }
        _ => (),
    }
    Ok(number(text).map_or_else(|| text.into(), Value::Number))
}

/// Whether a reader takes this bare word for a text.
pub(super) fn is_plain_text(text: &str) -> bool {
    matches!(scalar(text, ScalarStyle::Plain, None, Span::empty(Marker::new(0, 1, 0))), Ok(Value::String(_)))
}

fn number(text: &str) -> Option<Number> {
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return None;
    }
    let plain = text.replace('_', "");
    let (sign, digits) = match plain.as_bytes().first()? {
        b'-' => (-1, &plain[1..]),
        b'+' => (1, &plain[1..]),
        _ => (1, plain.as_str()),
    };
    let (radix, rest) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    if !rest.starts_with(['+', '-'])
        && let Ok(number) = i128::from_str_radix(rest, radix)
    {
        let number = sign * number;
        if let Ok(number) = i64::try_from(number) {
            return Some(number.into());
        }
        if let Ok(number) = u64::try_from(number) {
            return Some(number.into());
        }
    }
    let is_float = !digits.starts_with(['+', '-'])
        && digits.bytes().any(|byte| byte.is_ascii_digit())
        && digits.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-'));
    if !is_float {
        return None;
    }
    let float: f64 = plain.parse().ok()?;
    // Go prints 1.0 as 1, so `replicas: 1.0` is a number of replicas there.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    if float.fract() == 0.0 && float.abs() <= EXACT_MAX { Some((float as i64).into()) } else { Number::from_f64(float) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Result<Value, String> {
        yaml(text.as_bytes(), &Limits::default()).map(|(value, _)| value).map_err(|error| error.to_string())
    }

    #[test]
    fn bare_words_mean_what_they_mean_to_kubectl() {
        let table = [
            ("0644", json!(420)),
            ("\"0644\"", json!("0644")),
            ("0x1F", json!(31)),
            ("0o17", json!(15)),
            ("0b11", json!(3)),
            ("089", json!(89)),
            ("1_000", json!(1000)),
            ("-5", json!(-5)),
            ("1.0", json!(1)),
            ("1.5", json!(1.5)),
            ("1e3", json!(1000)),
            ("18446744073709551615", json!(18446744073709551615u64)),
            ("yes", json!(true)),
            ("off", json!(false)),
            ("'no'", json!("no")),
            ("~", json!(null)),
            ("!!str 12", json!("12")),
            ("1.2.3.4", json!("1.2.3.4")),
            ("100m", json!("100m")),
            ("2026-11-23", json!("2026-11-23")),
            ("10:30", json!("10:30")),
            ("-", json!([null])),
            ("1-2", json!("1-2")),
            ("e5", json!("e5")),
            ("|\n  a\n  b\n", json!("a\nb\n")),
        ];
        for (text, value) in table {
            assert_eq!(
                read(&format!("a: {text}")).or_else(|_| read(&format!("a:\n  {text}"))).unwrap()["a"],
                value,
                "{text}"
            );
        }
        assert!(read("a: .inf").unwrap_err().starts_with("line 1, column 4:"));
    }

    #[test]
    fn documents_duplicates_and_merges() {
        let text =
            "# head\n---\n---\na: 1\na: 2\nb:\n- c: 1\n  c: 2\n---\nbase: &b {x: 1, y: 2}\nz: {<<: *b, y: 3}\n...\n";
        let documents = yaml_documents(text.as_bytes(), &Limits::default()).unwrap();
        let told = |duplicates: &[Duplicate]| -> String {
            duplicates.iter().map(|it| format!("{}@{} ", it.path, it.line)).collect()
        };
        let seen: Vec<_> = documents.iter().map(|it| (it.line, it.value.clone(), told(&it.duplicates))).collect();
        assert_eq!(
            seen,
            [
                (4, json!({"a": 2, "b": [{"c": 2}]}), "a@5 b[0].c@8 ".to_owned()),
                (10, json!({"base": {"x": 1, "y": 2}, "z": {"x": 1, "y": 3}}), String::new()),
            ]
        );
        assert!(read(text).unwrap_err().contains("only one document"));
        assert_eq!(read("").unwrap(), Value::Null);
    }

    #[test]
    fn mistakes_have_a_place() {
        assert!(read("a: 1\nb: [1, 2\nc: 3\n").unwrap_err().starts_with("line "));
        assert!(read("a: 1\n b: 2\n").unwrap_err().starts_with("line 2, column"));
        assert!(read("a: *nothing").unwrap_err().starts_with("line 1"));
        assert!(read("a: &a [*a]").is_err());
        assert!(read("? [a]\n: b").unwrap_err().contains("key must be a text"));
        let error = yaml(b"a: 1\nb: \xff", &Limits::default()).unwrap_err();
        assert_eq!(error.at, Some((2, 4)));
    }

    #[test]
    fn fields_are_found_in_the_text() {
        let text = b"a: 1\n---\nspec:\n  containers:\n  - name: a\n  - name: b\n    image: x\n";
        let place = |document, path| yaml_place(text, &Limits::default(), document, path);
        assert_eq!(place(1, "spec.containers[1].image"), Some((7, 5)));
        assert_eq!(place(1, "spec.containers[0].image"), Some((5, 5)));
        assert_eq!(place(1, "spec.cont"), Some((3, 1)));
        assert_eq!(place(0, "a"), Some((1, 1)));
        assert_eq!(place(0, "spec"), None);
        assert_eq!(place(7, "spec"), None);
    }

    #[test]
    fn bombs_do_not_explode() {
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
        for level in 1..12 {
            let aliases = vec![format!("*a{}", level - 1); 9].join(",");
            bomb += &format!("a{level}: &a{level} [{aliases}]\n");
        }
        assert_eq!(yaml(bomb.as_bytes(), &Limits::default()).unwrap_err().fault, Fault::TooLarge);
        assert!(read(&"[".repeat(200_000)).is_err());
        let deep: String = (0..300).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
        assert_eq!(yaml(deep.as_bytes(), &Limits::default()).unwrap_err().fault, Fault::TooDeep);
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[-a:0 \\n\\[\\]{}&*#|>\"',?!~.]{0,40}") {
            let _ = read(&text);
        }
    }
}
