//! Simple JSON paths, as definitions of kinds use them: `.spec.size`, `.status.conditions[?(@.type=="Ready")].status`,
//! `.metadata.labels['example.com/colour']`, `.items[0]`.

use serde_json::Value;

/// Longer paths than this say nothing that a column or a replica count needs.
const BYTES_MAX: usize = 1024;

#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    /// All entries of a list or map.
    All,
    /// Entries whose field has this value.
    Where(Vec<String>, String),
}

impl JsonPath {
    pub fn parse(text: &str) -> Result<JsonPath, String> {
        if text.len() > BYTES_MAX {
            return Err(format!("may not be longer than {BYTES_MAX} bytes"));
        }
        let text = text.strip_prefix('$').unwrap_or(text);
        if !text.starts_with(['.', '[']) {
            return Err("must begin with `.`".to_owned());
        }
        let mut steps = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('[') {
                let end = closing(after).ok_or("a bracket is not closed")?;
                steps.push(bracket(&after[..end])?);
                rest = &after[end + 1..];
                continue;
            }
            let after = rest.strip_prefix('.').ok_or_else(|| format!("`.` or `[` is expected at {rest:?}"))?;
            let end = after.find(['.', '[']).unwrap_or(after.len());
            let name = &after[..end];
            match name {
                "" if steps.is_empty() && after.is_empty() => {}
                "" => return Err("a name is missing after `.`".to_owned()),
                "*" => steps.push(Step::All),
                name => steps.push(Step::Field(name.replace("\\", ""))),
            }
            rest = &after[end..];
        }
        Ok(JsonPath(steps))
    }

    /// The first value at the path.
    pub fn find<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        self.all(value).into_iter().next()
    }

    pub fn all<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        self.0.iter().fold(vec![value], |found, step| found.into_iter().flat_map(|value| step.below(value)).collect())
    }

    /// The names of the way, where it is a way of names alone: only such a value can be set.
    pub fn names(&self) -> Option<Vec<&str>> {
        let name = |step: &'_ Step| matches!(step, Step::Field(_));
        if !self.0.iter().all(name) {
            return None;
        }
        Some(
            self.0
                .iter()
                .filter_map(|step| if let Step::Field(name) = step { Some(name.as_str()) } else { None })
                .collect(),
        )
    }
}

impl Step {
    fn below<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match self {
            Step::Field(name) => value.get(name).into_iter().collect(),
            Step::Index(index) => {
                let items = value.as_array().map_or(&[][..], Vec::as_slice);
                let at = if *index < 0 { index + items.len() as i64 } else { *index };
                usize::try_from(at).ok().and_then(|at| items.get(at)).into_iter().collect()
            }
            Step::All => match value {
                Value::Array(items) => items.iter().collect(),
                Value::Object(fields) => fields.values().collect(),
                _ => Vec::new(),
            },
            Step::Where(names, wanted) => {
                let holds = |item: &&Value| {
                    let found = names.iter().try_fold(*item, |value, name| value.get(name));
                    found.is_some_and(|found| match found {
                        Value::String(text) => text == wanted,
                        other => serde_json::from_str::<Value>(wanted).is_ok_and(|wanted| *other == wanted),
                    })
                };
                value.as_array().into_iter().flatten().filter(holds).collect()
            }
        }
    }
}

/// Where the bracket ends, past brackets and quotes inside.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut depth = 0;
    for (at, letter) in text.char_indices() {
        match (quote, letter) {
            (Some(open), letter) if open == letter => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(letter),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(at),
            (None, ']') => depth -= 1,
            (None, _) => {}
        }
    }
    None
}

fn bracket(inside: &str) -> Result<Step, String> {
    let inside = inside.trim();
    if inside == "*" {
        return Ok(Step::All);
    }
    if let Some(name) = unquoted(inside) {
        return Ok(Step::Field(name.to_owned()));
    }
    if let Some(condition) = inside.strip_prefix("?(").and_then(|rest| rest.strip_suffix(')')) {
        let (left, right) = condition.split_once("==").ok_or("only `==` is understood in a condition")?;
        let left = left.trim().strip_prefix("@.").ok_or("a condition must begin with `@.`")?;
        let right = right.trim();
        let wanted = unquoted(right).unwrap_or(right);
        return Ok(Step::Where(left.split('.').map(str::to_owned).collect(), wanted.to_owned()));
    }
    inside.parse().map(Step::Index).map_err(|_| format!("{inside:?} is no index, name or condition"))
}

fn unquoted(text: &str) -> Option<&str> {
    ['\'', '"'].into_iter().find_map(|quote| text.strip_prefix(quote)?.strip_suffix(quote))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_path_finds() {
        let object = json!({
            "spec": {"size": 3, "a.b": "dotted"},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Old", "status": "False"}]},
        });
        let cases = [
            (".spec.size", json!(3)),
            ("$.spec['a.b']", json!("dotted")),
            (".status.conditions[?(@.type==\"Old\")].status", json!("False")),
            (".status.conditions[0].type", json!("Ready")),
            (".status.conditions[-1].type", json!("Old")),
            (".status.conditions[*].type", json!("Ready")),
            (".spec.absent", Value::Null),
            (".status.conditions[7]", Value::Null),
        ];
        for (path, expected) in cases {
            let found = JsonPath::parse(path).unwrap().find(&object).cloned().unwrap_or_default();
            assert_eq!(found, expected, "{path}");
        }
    }

    #[test]
    fn what_is_no_path_is_told() {
        for (path, why) in [("spec", "begin with"), (".a[", "not closed"), (".a..b", "missing"), (".a[b]", "no index")]
        {
            let said = JsonPath::parse(path).unwrap_err();
            assert!(said.contains(why), "{path}: {said}");
        }
    }
}
