//! From words to paths: `deploy/web` is `/apis/apps/v1/namespaces/default/deployments/web`.

use copepod_api::Kind;
use serde_json::Value;

use crate::{
    client::Client,
    failure::{Failure, Outcome},
};

/// A kind by any of its names: plural, singular, short name or kind, with or without `.group`.
pub fn kind(word: &str) -> Outcome<&'static Kind> {
    let lower = word.to_lowercase();
    let (name, group) = lower.split_once('.').map_or((lower.as_str(), None), |(name, group)| (name, Some(group)));
    let named = |kind: &Kind| {
        kind.plural == name
            || kind.singular == name
            || kind.short.iter().any(|short| short == name)
            || kind.name.to_lowercase() == name
    };
    let in_group = |kind: &Kind| group.is_none_or(|group| kind.group == group);
    let kinds = || copepod_registry::rows().iter().map(|row| &row.kind);
    kinds().find(|kind| named(kind) && in_group(kind)).ok_or_else(|| {
        let near = kinds().map(|kind| kind.plural.as_ref()).min_by_key(|plural| distance(plural, name));
        let failure = Failure::new(format!("there is no kind of object called {word:?}"));
        match near.filter(|plural| distance(plural, name) <= 3) {
            Some(near) => failure.hint(format!("did you mean {near}?")),
            None => failure
                .hint(format!("there are {}", kinds().map(|kind| kind.plural.as_ref()).collect::<Vec<_>>().join(", "))),
        }
    })
}

/// The kind that a manifest's apiVersion and kind name.
pub fn kind_of(object: &Value) -> Outcome<&'static Kind> {
    let version = object["apiVersion"].as_str().unwrap_or_default();
    let name = object["kind"].as_str().unwrap_or_default();
    if version.is_empty() || name.is_empty() {
        return Err(Failure::new("apiVersion and kind are both needed"));
    }
    let kinds = || copepod_registry::rows().iter().map(|row| &row.kind);
    kinds().find(|kind| kind.name == name && kind.api_version() == version).ok_or_else(|| {
        let failure = Failure::new(format!("no kind {name} in {version}"));
        match kinds().find(|kind| kind.name.eq_ignore_ascii_case(name)) {
            Some(kind) => {
                failure.hint(format!("did you mean apiVersion: {}, kind: {}?", kind.api_version(), kind.name))
            }
            None => failure,
        }
    })
}

/// The path of all objects of a kind; in all namespaces when none is named.
pub fn collection(kind: &Kind, namespace: Option<&str>) -> String {
    let root = if kind.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", kind.group) };
    let version = &kind.version;
    match namespace.filter(|_| kind.is_namespaced()) {
        Some(namespace) => format!("{root}/{version}/namespaces/{namespace}/{}", kind.plural),
        None => format!("{root}/{version}/{}", kind.plural),
    }
}

pub fn path(kind: &Kind, namespace: &str, name: &str) -> String {
    format!("{}/{name}", collection(kind, Some(namespace)))
}

/// `TYPE/NAME` words, or a type followed by names.
pub fn parse(words: &[String]) -> Outcome<Vec<(&'static Kind, Option<String>)>> {
    let mut targets = Vec::new();
    if words.iter().any(|word| word.contains('/')) {
        for word in words {
            let (of, name) = word
                .split_once('/')
                .ok_or_else(|| Failure::new(format!("{word:?} is not TYPE/NAME, as the other words are")))?;
            targets.push((kind(of)?, Some(name.to_owned())));
        }
        return Ok(targets);
    }
    let [kinds, names @ ..] = words else {
        return Err(Failure::new("say what: a type, TYPE/NAME, or a type and names"));
    };
    for of in kinds.split(',') {
        let of = kind(of)?;
        match names {
            [] => targets.push((of, None)),
            names => targets.extend(names.iter().map(|name| (of, Some(name.clone())))),
        }
    }
    Ok(targets)
}

/// One target with a name.
pub fn one(words: &[String]) -> Outcome<(&'static Kind, String)> {
    match parse(words)?.as_slice() {
        [(kind, Some(name))] => Ok((kind, name.clone())),
        _ => Err(Failure::new("exactly one TYPE/NAME is needed")),
    }
}

/// `-n` with a kind that has no namespaces is a mistake that has cost people everything.
pub fn check_scope(kind: &Kind, namespace: Option<&str>) -> Outcome {
    match namespace {
        Some(namespace) if !kind.is_namespaced() => Err(Failure::new(format!(
            "{} are not in namespaces, so -n {namespace} says nothing about them",
            kind.plural
        ))
        .hint("leave -n out if you mean it")),
        _ => Ok(()),
    }
}

/// `deployment.apps/web`: how objects are named in what is printed.
pub fn label(kind: &Kind, name: &str) -> String {
    let dot = if kind.group.is_empty() { "" } else { "." };
    format!("{}{dot}{}/{name}", kind.singular, kind.group)
}

/// Every item of a list, page by page.
pub async fn items(client: &Client, path: &str) -> Outcome<Vec<Value>> {
    let separator = if path.contains('?') { '&' } else { '?' };
    let mut items = Vec::new();
    let mut token = String::new();
    loop {
        let page = client.get(&format!("{path}{separator}limit=500{token}")).await?;
        let mut list = page.map_err(|status| crate::client::refused(&status))?;
        if let Value::Array(page) = list["items"].take() {
            items.extend(page);
        }
        match list["metadata"]["continue"].as_str().filter(|text| !text.is_empty()) {
            Some(next) => token = format!("&continue={}", encode(next)),
            None => return Ok(items),
        }
    }
}

/// Percent-encoding for a query value.
pub fn encode(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte.into()),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
        out
    })
}

/// How many letters must change (Levenshtein); words of this kind are short.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let cost = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_changed_letters() {
        assert_eq!(distance("deployments", "deploymnets"), 2);
        assert_eq!(distance("pods", "pods"), 0);
        assert_eq!(distance("", "abc"), 3);
    }

    #[test]
    fn query_values_are_encoded() {
        assert_eq!(encode("a=b,c in (d)"), "a%3Db%2Cc%20in%20%28d%29");
    }
}
