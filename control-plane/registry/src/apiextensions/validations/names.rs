//! Names of fields as expressions write them: what is no identifier there is spelled out.

const RESERVED: &[&str] = &[
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "namespace",
    "null",
    "package",
    "return",
    "true",
    "var",
    "void",
    "while",
];

/// `foo-bar` is `foo__dash__bar`. `None`: expressions cannot name it.
pub fn escaped(name: &str) -> Option<String> {
    if RESERVED.contains(&name) {
        return Some(format!("__{name}__"));
    }
    let mut text = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(letter) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("__") {
            text.push_str("__underscores__");
            rest = after;
            continue;
        }
        match letter {
            '.' => text.push_str("__dot__"),
            '-' => text.push_str("__dash__"),
            '/' => text.push_str("__slash__"),
            letter if letter.is_ascii_alphanumeric() || letter == '_' => text.push(letter),
            _ => return None,
        }
        rest = &rest[letter.len_utf8()..];
    }
    let starts = text.starts_with(|letter: char| letter.is_ascii_alphabetic() || letter == '_');
    starts.then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_spelled_out() {
        for (name, text) in [
            ("plain", Some("plain")),
            ("namespace", Some("__namespace__")),
            ("foo-bar.x/y", Some("foo__dash__bar__dot__x__slash__y")),
            ("a__b", Some("a__underscores__b")),
            ("1st", None),
            ("a$", None),
        ] {
            assert_eq!(escaped(name).as_deref(), text, "{name}");
        }
    }
}
