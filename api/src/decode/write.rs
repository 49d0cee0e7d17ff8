//! A `Value` as YAML, in the shape kubectl prints.
//!
//! Own code, because what is printed here is read by YAML 1.1 readers too (kubectl, Helm), to whom a bare `yes` or
//! `0644` is no text, while the emitter at hand quotes for YAML 1.2 only.

use std::fmt::Write;

use serde_json::Value;

use super::yaml::is_plain_text;

/// A key that stands before its colon on one line may have 1024 characters, and an escape takes up to six for one byte.
/// Kubernetes' own writer says `?` before keys as long as this.
const KEY_BYTES_MAX: usize = 128;

/// YAML that every reader takes for the same value.
pub fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => mapping(&mut out, map, 0, false),
        Value::Array(list) if !list.is_empty() => sequence(&mut out, list, 0, false),
        // At the margin a line of a block could end the document.
        Value::String(value) => {
            text(&mut out, value, None);
            out.push('\n');
        }
        value => {
            scalar(&mut out, value, 0);
            out.push('\n');
        }
    }
    out
}

/// `is_inline`: the cursor already stands where the first key belongs, behind a `- `.
fn mapping(out: &mut String, map: &serde_json::Map<String, Value>, indent: usize, mut is_inline: bool) {
    for (key, value) in map {
        if !std::mem::take(&mut is_inline) {
            spaces(out, indent);
        }
        let is_long = key.len() > KEY_BYTES_MAX;
        if is_long {
            out.push_str("? ");
        }
        text(out, key, None);
        if is_long {
            out.push('\n');
            spaces(out, indent);
        }
        out.push(':');
        match value {
            Value::Object(map) if !map.is_empty() => {
                out.push('\n');
                mapping(out, map, indent + 2, false);
            }
            Value::Array(list) if !list.is_empty() => {
                out.push('\n');
                sequence(out, list, indent, false);
            }
            value => {
                out.push(' ');
                scalar(out, value, indent + 2);
                out.push('\n');
            }
        }
    }
}

fn sequence(out: &mut String, list: &[Value], indent: usize, mut is_inline: bool) {
    for value in list {
        if !std::mem::take(&mut is_inline) {
            spaces(out, indent);
        }
        out.push_str("- ");
        match value {
            Value::Object(map) if !map.is_empty() => mapping(out, map, indent + 2, true),
            Value::Array(list) if !list.is_empty() => sequence(out, list, indent + 2, true),
            value => {
                scalar(out, value, indent + 2);
                out.push('\n');
            }
        }
    }
}

fn scalar(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::String(value) => text(out, value, Some(indent)),
        // Numbers, booleans, null, and the empty list and map are written as in JSON.
        value => write!(out, "{value}").expect("writing to a String cannot fail"),
    }
}

/// `block_indent`: where a text of several lines may stand as a block.
fn text(out: &mut String, text: &str, block_indent: Option<usize>) {
    if is_plain(text) {
        out.push_str(text);
        return;
    }
    match block_indent {
        Some(indent) if is_block(text) => {
            let body = text.strip_suffix('\n').unwrap_or(text);
            out.push_str(if body.len() == text.len() { "|-" } else { "|" });
            for line in body.split('\n') {
                out.push('\n');
                if !line.is_empty() {
                    spaces(out, indent);
                    out.push_str(line);
                }
            }
        }
        _ => quoted(out, text),
    }
}

fn is_plain(text: &str) -> bool {
    let mut chars = text.chars();
    let Some(first) = chars.next() else { return false };
    let starts_well = match first {
        '-' | '?' | ':' => chars.next().is_some_and(|second| !second.is_whitespace()) && !text.starts_with("---"),
        '.' => !text.starts_with("..."),
        first => !"[]{},#&*!|>'\"%@`<=".contains(first),
    };
    // Times and dates have types of their own in YAML 1.1, and 10:30 is a number in base 60.
    let looks_like_time = first.is_ascii_digit() && text.bytes().any(|byte| byte == b'-' || byte == b':');
    starts_well
        && !looks_like_time
        && text.trim() == text
        && !text.contains(": ")
        && !text.contains(" #")
        && !text.ends_with(':')
        && text.chars().all(is_printable)
        && is_plain_text(text)
}

/// A block keeps its lines as they are, if the first has no indent of its own and at most one line break ends it.
fn is_block(text: &str) -> bool {
    text.contains('\n')
        && !text.starts_with([' ', '\n', '\t'])
        && !text.ends_with("\n\n")
        && text.lines().all(|line| line.trim_end() == line)
        && text.chars().all(|c| c == '\n' || c == '\t' || is_printable(c))
}

fn is_printable(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{feff}' | '\u{2028}' | '\u{2029}' | '\u{fffe}' | '\u{ffff}')
}

/// As in JSON, which YAML contains, with the characters that YAML does not print escaped.
fn quoted(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if is_printable(c) => out.push(c),
            c => write!(out, "\\u{:04x}", u32::from(c)).expect("writing to a String cannot fail"),
        }
    }
    out.push('"');
}

fn spaces(out: &mut String, n: usize) {
    out.extend(std::iter::repeat_n(' ', n));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::decode::{Limits, yaml};

    fn read(text: &str) -> Value {
        yaml(text.as_bytes(), &Limits::default()).unwrap_or_else(|error| panic!("{error}\n{text}")).0
    }

    #[test]
    fn keys_may_be_long() {
        let key = "\u{16}é ".repeat(700);
        let value = serde_json::json!({"a": [{key.as_str(): [1, {"b": 2}], "c": {key.as_str(): {"d": "e"}}}]});
        let written = to_yaml(&value);
        assert_eq!(super::super::yaml(written.as_bytes(), &Limits::default()).unwrap().0, value);
    }

    #[test]
    fn a_text_alone_cannot_end_its_document() {
        let value = Value::from("...\n--- a");
        let written = to_yaml(&value);
        assert_eq!(super::super::yaml(written.as_bytes(), &Limits::default()).unwrap().0, value, "{written}");
    }

    #[test]
    fn looks_like_kubectl() {
        let value = json!({"apiVersion": "v1", "data": {"mode": "0644", "sure": "yes", "script": "#!/bin/sh\n\nexit 0\n"},
            "spec": {"containers": [{"name": "web", "args": ["-v", "--to=a:b", "", "*"], "ports": [{"containerPort": 80}]}],
            "empty": {}, "none": [], "nested": [[1, 2], [null]], "at": "2026-11-23T10:00:00Z", "tail": "a\nb"}});
        let text = to_yaml(&value);
        insta::assert_snapshot!(text, @r#"
        apiVersion: v1
        data:
          mode: "0644"
          script: |
            #!/bin/sh

            exit 0
          sure: "yes"
        spec:
          at: "2026-11-23T10:00:00Z"
          containers:
          - args:
            - -v
            - --to=a:b
            - ""
            - "*"
            name: web
            ports:
            - containerPort: 80
          empty: {}
          nested:
          - - 1
            - 2
          - - null
          none: []
          tail: |-
            a
            b
        "#);
        assert_eq!(read(&text), value);
    }

    #[test]
    fn what_is_written_is_read_back() {
        for text in [
            "0644",
            "yes",
            "n",
            "1e3",
            "~",
            "",
            " x",
            "a: b",
            "#",
            "a #b",
            "x:",
            "- a",
            "-",
            "--- a",
            "<<",
            "ü\u{1f980}\t",
            "0x1f",
            "1_000",
            "10:30",
            "a\n\nb\n\n",
            "\n",
            " a\nb",
            "a \nb",
            "\u{0}\u{7f}\u{85}",
            "'",
            "\"",
            "\\",
            "%",
            "@",
            "`",
            "...",
            "=",
        ] {
            let value = json!({"a": text, text: [text, {"b": text}]});
            assert_eq!(read(&to_yaml(&value)), value, "{text:?}");
            assert_eq!(read(&to_yaml(&json!(text))), json!(text));
        }
    }

    proptest::proptest! {
        #[test]
        fn every_text_is_read_back(text in "(\\PC|[-:#\\n \t'\"]){0,12}") {
            let value = json!({"a": [text.clone()], "b": text});
            proptest::prop_assert_eq!(read(&to_yaml(&value)), value);
        }
    }
}
