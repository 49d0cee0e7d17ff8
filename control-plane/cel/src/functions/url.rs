//! URLs and their parts (RFC 3986).

use std::{collections::BTreeMap, fmt, sync::Arc};

use super::Called;
use crate::{Budget, Fault, Value, value::Key};

/// An absolute URL, or an absolute path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    text: String,
    scheme: String,
    host: String,
    path: String,
    query: String,
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Url {
    fn parse(text: &str) -> Option<Url> {
        if text.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
            return None;
        }
        let (rest, _) = text.split_once('#').unwrap_or((text, ""));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (scheme, rest) = match rest.split_once(':') {
            Some((scheme, rest)) if is_scheme(scheme) => (scheme.to_ascii_lowercase(), rest),
            _ if rest.starts_with('/') => (String::new(), rest),
            _ => return None,
        };
        let (host, path) = match rest.strip_prefix("//") {
            Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
            None => ("", rest),
        };
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        let url = Url { text: text.into(), scheme, host: host.into(), path: path.into(), query: query.into() };
        let port = url.port();
        if url.host.contains(' ') || (url.host.is_empty() && url.path.contains(' ')) {
            return None;
        }
        port.bytes().all(|byte| byte.is_ascii_digit()).then_some(url)
    }

    fn split(&self) -> (&str, &str) {
        match self.host.rfind(':') {
            Some(at) if !self.host[at..].contains(']') => (&self.host[..at], &self.host[at + 1..]),
            _ => (&self.host, ""),
        }
    }

    fn port(&self) -> &str {
        self.split().1
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|letter: char| letter.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

pub fn call(name: &str, args: &[Value], _: &mut Budget) -> Called {
    let outcome = match (name, args) {
        ("url", [Value::String(text)]) => Url::parse(text)
            .map(|url| Value::Url(Arc::new(url)))
            .ok_or_else(|| Fault::new(format!("URL parse error during conversion from string: {text:?}"))),
        ("isURL", [Value::String(text)]) => Ok(Url::parse(text).is_some().into()),
        (name, [Value::Url(url)]) => Ok(match name {
            "getScheme" => url.scheme.as_str().into(),
            "getHost" => url.host.as_str().into(),
            "getHostname" => url.split().0.trim_matches(['[', ']']).into(),
            "getPort" => url.port().into(),
            "getEscapedPath" => url.path.replace(' ', "%20").into(),
            "getQuery" => query(&url.query),
            _ => return None,
        }),
        _ => return None,
    };
    Some(outcome)
}

fn query(text: &str) -> Value {
    let mut found: BTreeMap<Key, Vec<Value>> = BTreeMap::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        found.entry(Key::text(&unescaped(name))).or_default().push(unescaped(value).into());
    }
    Value::Map(Arc::new(found.into_iter().map(|(name, values)| (name, values.into())).collect()))
}

fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let ahead = rest.clone();
        let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => match digit().zip(digit()) {
                Some((high, low)) => bytes.push((high * 16 + low) as u8),
                None => {
                    bytes.push(b'%');
                    rest = ahead;
                }
            },
            byte => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
