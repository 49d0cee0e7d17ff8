//! Selections of objects by their labels and by a few of their fields.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;

use crate::{names, texts};

type Labels = BTreeMap<String, String>;

/// A condition on labels: all of its requirements must hold. Without any, everything is selected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    In(BTreeSet<String>),
    /// Holds also where the label is missing.
    NotIn(BTreeSet<String>),
    Exists,
    DoesNotExist,
    GreaterThan(i64),
    LessThan(i64),
}

impl LabelSelector {
    /// Reads `app=web,tier!=db,!canary,zone in (a,b)`, the form of URLs and command lines.
    pub fn parse(text: &str) -> Result<Self, String> {
        Parser { tokens: tokens(text), at: 0 }.selector()
    }

    /// The selector of a workload. One that is missing altogether selects nothing: see [`LabelSelector::nothing`].
    pub fn from_typed(selector: &meta::LabelSelector) -> Result<Self, String> {
        let mut requirements = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            requirements.push(Requirement::checked(key, Test::In(BTreeSet::from([value.clone()])))?);
        }
        for expression in selector.match_expressions.iter().flatten() {
            let values: BTreeSet<String> = expression.values.iter().flatten().cloned().collect();
            let test = match expression.operator.as_str() {
                "In" | "NotIn" if values.is_empty() => {
                    return Err("for 'in', 'notin' operators, values set can't be empty".to_owned());
                }
                "In" => Test::In(values),
                "NotIn" => Test::NotIn(values),
                "Exists" | "DoesNotExist" if !values.is_empty() => {
                    return Err("values set must be empty for exists and does not exist".to_owned());
                }
                "Exists" => Test::Exists,
                "DoesNotExist" => Test::DoesNotExist,
                other => return Err(format!("{other:?} is not a valid label selector operator")),
            };
            requirements.push(Requirement::checked(&expression.key, test)?);
        }
        Ok(LabelSelector::of(requirements))
    }

    /// Selects what carries all these labels: the selector of a Service. An empty map selects everything, which callers
    /// for whom it means nothing have to ask about first.
    pub fn from_map(labels: &Labels) -> Self {
        let equal = |(key, value): (&String, &String)| Requirement {
            key: key.clone(),
            test: Test::In(BTreeSet::from([value.clone()])),
        };
        LabelSelector { requirements: labels.iter().map(equal).collect() }
    }

    pub fn everything() -> Self {
        LabelSelector::default()
    }

    /// Selects no object at all.
    pub fn nothing() -> Self {
        LabelSelector { requirements: vec![Requirement { key: String::new(), test: Test::In(BTreeSet::new()) }] }
    }

    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    pub fn matches(&self, labels: &impl texts::Labels) -> bool {
        self.requirements.iter().all(|requirement| requirement.holds(labels))
    }

    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    fn of(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        LabelSelector { requirements }
    }
}

impl Requirement {
    fn checked(key: &str, test: Test) -> Result<Requirement, String> {
        names::label_key(key).map_err(|why| format!("key: Invalid value: {key:?}: {why}"))?;
        if let Test::In(values) | Test::NotIn(values) = &test {
            for (at, value) in values.iter().enumerate() {
                names::label_value(value)
                    .map_err(|why| format!("values[{at}][{key}]: Invalid value: {value:?}: {why}"))?;
            }
        }
        Ok(Requirement { key: key.to_owned(), test })
    }

    fn holds(&self, labels: &impl texts::Labels) -> bool {
        let value = labels.value(&self.key);
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match &self.test {
            Test::In(values) => value.is_some_and(|value| values.contains(value)),
            Test::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Test::Exists => value.is_some(),
            Test::DoesNotExist => value.is_none(),
            Test::GreaterThan(bound) => number().is_some_and(|number| number > *bound),
            Test::LessThan(bound) => number().is_some_and(|number| number < *bound),
        }
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, requirement) in self.requirements.iter().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        let joined = |values: &BTreeSet<String>| values.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        match &self.test {
            Test::In(values) if values.len() == 1 => write!(f, "{key}={}", joined(values)),
            Test::NotIn(values) if values.len() == 1 => write!(f, "{key}!={}", joined(values)),
            Test::In(values) => write!(f, "{key} in ({})", joined(values)),
            Test::NotIn(values) => write!(f, "{key} notin ({})", joined(values)),
            Test::Exists => write!(f, "{key}"),
            Test::DoesNotExist => write!(f, "!{key}"),
            Test::GreaterThan(bound) => write!(f, "{key}>{bound}"),
            Test::LessThan(bound) => write!(f, "{key}<{bound}"),
        }
    }
}

/// A word, or one of `= == != ! ( ) , > <`.
fn tokens(text: &str) -> Vec<&str> {
    let is_special = |c: char| "=!(),<>".contains(c);
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("==") || rest.starts_with("!=") {
            2
        } else if is_special(first) {
            1
        } else {
            rest.find(|c: char| is_special(c) || c.is_whitespace()).unwrap_or(rest.len())
        };
        let (token, after) = rest.split_at(length);
        tokens.push(token);
        rest = after.trim_start();
    }
    tokens
}

struct Parser<'a> {
    tokens: Vec<&'a str>,
    at: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> &'a str {
        self.tokens.get(self.at).copied().unwrap_or_default()
    }

    fn next(&mut self) -> &'a str {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn is_word(token: &str) -> bool {
        !token.is_empty() && !token.starts_with(['=', '!', '(', ')', ',', '<', '>'])
    }

    fn selector(mut self) -> Result<LabelSelector, String> {
        let mut requirements = Vec::new();
        if self.tokens.is_empty() {
            return Ok(LabelSelector::everything());
        }
        loop {
            requirements.push(self.requirement().map_err(|why| format!("unable to parse requirement: {why}"))?);
            match self.next() {
                "" => return Ok(LabelSelector::of(requirements)),
                "," if Self::is_word(self.peek()) || self.peek() == "!" => (),
                "," => return Err(format!("found '{}', expected: identifier after ','", self.peek())),
                other => return Err(format!("found '{other}', expected: ',' or 'end of string'")),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        if self.peek() == "!" {
            self.next();
            let key = self.word()?;
            return Requirement::checked(key, Test::DoesNotExist);
        }
        let key = self.word()?;
        let test = match self.peek() {
            "" | "," => Test::Exists,
            operator => {
                self.next();
                match operator {
                    "=" | "==" => Test::In(BTreeSet::from([self.value()])),
                    "!=" => Test::NotIn(BTreeSet::from([self.value()])),
                    "in" => Test::In(self.values()?),
                    "notin" => Test::NotIn(self.values()?),
                    ">" => Test::GreaterThan(self.number()?),
                    "<" => Test::LessThan(self.number()?),
                    other => {
                        return Err(format!("found '{other}', expected: in, notin, =, ==, !=, >, <, ',' or the end"));
                    }
                }
            }
        };
        Requirement::checked(key, test)
    }

    fn word(&mut self) -> Result<&'a str, String> {
        match self.next() {
            token if Self::is_word(token) => Ok(token),
            token => Err(format!("found '{token}', expected: identifier")),
        }
    }

    /// A value may be empty: `a=,b`.
    fn value(&mut self) -> String {
        if Self::is_word(self.peek()) { self.next().to_owned() } else { String::new() }
    }

    fn number(&mut self) -> Result<i64, String> {
        let word = self.word()?;
        word.parse().map_err(|_| format!("found '{word}', for 'Gt', 'Lt' operators, the value must be an integer"))
    }

    fn values(&mut self) -> Result<BTreeSet<String>, String> {
        if self.next() != "(" {
            return Err("expected: '(' after in or notin".to_owned());
        }
        let mut values = BTreeSet::new();
        loop {
            values.insert(self.value());
            match self.next() {
                "," => (),
                ")" => return Ok(values),
                other => return Err(format!("found '{other}', expected: ',' or ')'")),
            }
        }
    }
}

/// A condition on fields: `status.phase!=Succeeded,spec.nodeName=n1`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    requirements: Vec<FieldRequirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct FieldRequirement {
    field: String,
    is_equal: bool,
    value: String,
}

impl FieldSelector {
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut requirements = Vec::new();
        for term in split_unescaped(text) {
            if term.trim().is_empty() {
                continue;
            }
            let refused = || format!("invalid selector: '{text}'; can't understand '{term}'");
            let at = operator_at(term).ok_or_else(refused)?;
            let (is_equal, length) = match &term[at..] {
                rest if rest.starts_with("!=") => (false, 2),
                rest if rest.starts_with("==") => (true, 2),
                _ => (true, 1),
            };
            let value = unescape(&term[at + length..])
                .ok_or_else(|| format!("invalid selector: '{text}'; escape ',', '=' and '\\' in values with '\\'"))?;
            requirements.push(FieldRequirement { field: term[..at].trim().to_owned(), is_equal, value });
        }
        Ok(FieldSelector { requirements })
    }

    pub fn everything() -> Self {
        FieldSelector::default()
    }

    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Field, whether it must be equal, value.
    pub fn requirements(&self) -> impl Iterator<Item = (&str, bool, &str)> {
        self.requirements.iter().map(|it| (it.field.as_str(), it.is_equal, it.value.as_str()))
    }

    /// Whether an object matches whose fields `field` tells; one that is missing counts as empty.
    pub fn matches(&self, field: impl Fn(&str) -> Option<String>) -> bool {
        self.requirements.iter().all(|it| (field(&it.field).unwrap_or_default() == it.value) == it.is_equal)
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, it) in self.requirements.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            let value = it.value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            write!(f, "{comma}{}{}{value}", it.field, if it.is_equal { "=" } else { "!=" })?;
        }
        Ok(())
    }
}

fn split_unescaped(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut is_escaped) = (0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            ',' => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => (),
        }
    }
    terms.push(&text[start..]);
    terms
}

fn operator_at(term: &str) -> Option<usize> {
    let mut is_escaped = false;
    for (at, c) in term.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '=' => return Some(at),
            '!' if term[at..].starts_with("!=") => return Some(at),
            _ => (),
        }
    }
    None
}

fn unescape(value: &str) -> Option<String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next()? {
                c @ ('\\' | ',' | '=') => out.push(c),
                _ => return None,
            },
            ',' | '=' => return None,
            c => out.push(c),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> Labels {
        text.split_whitespace()
            .map(|pair| pair.split_once('=').unwrap())
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    #[test]
    fn labels_are_selected() {
        // Selector | labels that match | labels that do not; ';' between worlds.
        let table = [
            ("", "; a=b", "-"),
            ("a=b", "a=b; a=b c=d", "; a=c; b=b"),
            ("a==b", "a=b", "a=c"),
            ("a!=b", "; a=c", "a=b"),
            ("a", "a=; a=x", "; b=x"),
            ("!a", "; b=x", "a="),
            ("! a , b", "b=1", "a=1 b=1"),
            ("a in (x,y)", "a=x; a=y", "; a=z"),
            ("a notin (x, y),b", "b=1; a=z b=1", "a=x b=1; a=z"),
            ("a in ()", "a=", "a=x"),
            ("a=,b", "a= b=1", "a=x b=1"),
            ("n>5,n<10", "n=7", "n=5; n=10; n=x; m=1"),
            ("example.com/tier=web", "example.com/tier=web", "tier=web"),
            ("in in (in)", "in=in", "in=x"),
        ];
        for (selector, yes, no) in table {
            let parsed = LabelSelector::parse(selector).unwrap();
            assert_eq!(LabelSelector::parse(&parsed.to_string()).unwrap(), parsed, "{selector}");
            for world in yes.split(';') {
                assert!(parsed.matches(&labels(world)), "{selector} should match {world}");
            }
            for world in no.split(';').filter(|world| *world != "-") {
                assert!(!parsed.matches(&labels(world)), "{selector} should not match {world}");
            }
        }
    }

    #[test]
    fn broken_selectors_are_refused() {
        for text in [
            "a=b,",
            ",a",
            "a in x",
            "a in (x",
            "a b",
            "!",
            "a=b=c",
            "a=b c",
            "x y z",
            "a in (x)y",
            "n>x",
            "ä=b",
            "a=-",
            "=a",
            "a,,b",
            "!a=b",
        ] {
            assert!(LabelSelector::parse(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn typed_selectors() {
        let typed = |value: serde_json::Value| LabelSelector::from_typed(&serde_json::from_value(value).unwrap());
        let selector = typed(serde_json::json!({"matchLabels": {"a": "b"}, "matchExpressions": [
            {"key": "c", "operator": "NotIn", "values": ["x", "y"]}, {"key": "d", "operator": "Exists"}]}));
        assert_eq!(selector.unwrap().to_string(), "a=b,c notin (x,y),d");
        assert!(typed(serde_json::json!({})).unwrap().is_everything());
        assert!(!LabelSelector::nothing().matches(&labels("a=b")));
        let broken = |expression| typed(serde_json::json!({"matchExpressions": [expression]})).unwrap_err();
        assert_eq!(
            broken(serde_json::json!({"key": "c", "operator": "in"})),
            "\"in\" is not a valid label selector operator"
        );
        assert!(broken(serde_json::json!({"key": "c", "operator": "In"})).contains("can't be empty"));
        assert!(
            broken(serde_json::json!({"key": "c", "operator": "Exists", "values": ["x"]})).contains("must be empty")
        );
        assert!(broken(serde_json::json!({"key": "c d", "operator": "Exists"})).contains("name part"));
    }

    #[test]
    fn fields_are_selected() {
        let fields = |name: &str| match name {
            "metadata.name" => Some("web".to_owned()),
            "x" => Some("a,b=c\\".to_owned()),
            _ => None,
        };
        for text in
            ["", "metadata.name=web", "metadata.name==web,spec.nodeName=", "metadata.name!=db", ",", r"x=a\,b\=c\\"]
        {
            let selector = FieldSelector::parse(text).unwrap();
            assert!(selector.matches(fields), "{text}");
            assert_eq!(FieldSelector::parse(&selector.to_string()).unwrap(), selector);
        }
        for text in ["metadata.name=db", "metadata.name!=web", "spec.nodeName!="] {
            assert!(!FieldSelector::parse(text).unwrap().matches(fields), "{text}");
        }
        for text in ["metadata.name", r"a=\x", "a=b=c"] {
            assert!(FieldSelector::parse(text).is_err(), "{text}");
        }
        let selector = FieldSelector::parse("a=1,b!=2").unwrap();
        assert_eq!(selector.requirements().collect::<Vec<_>>(), [("a", true, "1"), ("b", false, "2")]);
    }
}
