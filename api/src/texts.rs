//! Names and their values, in one piece of memory.
//!
//! Every object has labels, and a cluster may have a million objects. A map of strings takes half a kilobyte for two of
//! them, more than many an object is long. They are read far more often than made, and there are few in each, so here they
//! stand one after the other in a single allocation, and looking one up is reading them through.

use std::{borrow::Cow, collections::BTreeMap, fmt, ops::Index};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};

/// Labels or annotations, ordered by name.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Texts {
    /// For each: the lengths of name and value (four bytes each), the name, the value.
    packed: Box<[u8]>,
}

impl Texts {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.raw().find(|(held, _)| *held == name.as_bytes()).map(|(_, value)| text(value))
    }

    pub fn contains_key(&self, name: &str) -> bool {
        self.raw().any(|(held, _)| held == name.as_bytes())
    }

    pub fn is_empty(&self) -> bool {
        self.packed.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.raw().map(|(name, value)| (text(name), text(value)))
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.iter().map(|(name, _)| name)
    }

    pub fn to_map(&self) -> BTreeMap<String, String> {
        self.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    fn raw(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut rest = &self.packed[..];
        std::iter::from_fn(move || {
            let (&[a, b, c, d, e, f, g, h], after) = rest.split_first_chunk::<8>()?;
            let (name, after) = after.split_at_checked(u32::from_le_bytes([a, b, c, d]) as usize)?;
            let (value, after) = after.split_at_checked(u32::from_le_bytes([e, f, g, h]) as usize)?;
            rest = after;
            Some((name, value))
        })
    }

    fn pack(mut pairs: Vec<(Cow<'_, str>, Cow<'_, str>)>) -> Texts {
        // Stable, so that of a name given twice the last value is the last in its run.
        pairs.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut packed = Vec::with_capacity(pairs.iter().map(|(name, value)| 8 + name.len() + value.len()).sum());
        for (place, (name, value)) in pairs.iter().enumerate() {
            if pairs.get(place + 1).is_some_and(|(next, _)| next == name) {
                continue;
            }
            packed.extend_from_slice(&(name.len() as u32).to_le_bytes());
            packed.extend_from_slice(&(value.len() as u32).to_le_bytes());
            packed.extend_from_slice(name.as_bytes());
            packed.extend_from_slice(value.as_bytes());
        }
        Texts { packed: packed.into() }
    }
}

/// What was packed was text.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// Whatever has labels to be asked for.
pub trait Labels {
    fn value(&self, name: &str) -> Option<&str>;
}

impl Labels for Texts {
    fn value(&self, name: &str) -> Option<&str> {
        self.get(name)
    }
}

impl Labels for BTreeMap<String, String> {
    fn value(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

impl From<&BTreeMap<String, String>> for Texts {
    fn from(map: &BTreeMap<String, String>) -> Texts {
        Texts::pack(map.iter().map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect())
    }
}

impl Index<&str> for Texts {
    type Output = str;

    fn index(&self, name: &str) -> &str {
        self.get(name).expect("the name is there: who is not sure asks with get")
    }
}

impl fmt::Debug for Texts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_option(Pairs(|_| true))
    }
}

impl Texts {
    /// Reads those whose name is kept; values of others are not even copied.
    pub(crate) fn deserialize_some<'de, D: Deserializer<'de>>(
        deserializer: D,
        is_kept: fn(&str) -> bool,
    ) -> Result<Texts, D::Error> {
        deserializer.deserialize_option(Pairs(is_kept))
    }
}

struct Pairs(fn(&str) -> bool);

impl<'de> Visitor<'de> for Pairs {
    type Value = Texts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Texts, A::Error> {
        let mut pairs = Vec::new();
        while let Some(Borrowed(name)) = map.next_key()? {
            let Borrowed(value) = map.next_value()?;
            if self.0(&name) {
                pairs.push((name, value));
            }
        }
        Ok(Texts::pack(pairs))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Texts, D::Error> {
        deserializer.deserialize_map(self)
    }

    fn visit_unit<E>(self) -> Result<Texts, E> {
        Ok(Texts::default())
    }

    fn visit_none<E>(self) -> Result<Texts, E> {
        Ok(Texts::default())
    }
}

#[derive(Deserialize)]
struct Borrowed<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Texts {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn each_name_has_its_value() {
        let texts = read(r#"{"b":"","a":"x \"y\" \u00e9","":"nameless","c":"z"}"#);
        assert_eq!(texts.iter().collect::<Vec<_>>(), [("", "nameless"), ("a", "x \"y\" é"), ("b", ""), ("c", "z")]);
        assert_eq!((texts.get("a"), texts.get("b"), texts.get("d")), (Some("x \"y\" é"), Some(""), None));
        assert_eq!(Texts::from(&texts.to_map()), texts);
    }

    #[test]
    fn nothing_is_no_memory() {
        assert!(read("{}").is_empty() && read("null").is_empty());
        assert_eq!(read("{}").iter().count(), 0);
    }

    #[test]
    fn of_a_name_given_twice_the_last_value_counts() {
        assert_eq!(read(r#"{"a":"1","b":"2","a":"3"}"#), read(r#"{"a":"3","b":"2"}"#));
    }

    #[test]
    fn what_is_not_text_is_refused() {
        assert!(serde_json::from_str::<Texts>(r#"{"a":null}"#).is_err());
        assert!(serde_json::from_str::<Texts>(r#"["a"]"#).is_err());
    }
}
