//! JSON into a `Value`, with the paths of duplicate fields.

use std::{cell::RefCell, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::{DecodeError, Fault, Limits};
use crate::field::Path;

/// Reads one JSON value and returns it with the paths of fields that were written more than once.
pub fn json(bytes: &[u8], limits: &Limits) -> Result<(Value, Vec<String>), DecodeError> {
    if bytes.len() > limits.bytes {
        return Err(DecodeError::too_large(limits, bytes.len()));
    }
    let found = Found { duplicates: RefCell::default(), is_too_deep: RefCell::new(false), limits };
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let node = Node { found: &found, path: None, depth: 0 };
    let value = node.deserialize(&mut reader).and_then(|value| reader.end().map(|()| value)).map_err(|error| {
        let at = (error.line(), error.column());
        if *found.is_too_deep.borrow() {
            return DecodeError::too_deep(limits, at);
        }
        let text = error.to_string();
        let message = text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message);
        DecodeError { fault: Fault::Syntax, message: message.to_owned(), at: (at.0 > 0).then_some(at) }
    })?;
    Ok((value, found.duplicates.into_inner()))
}

struct Found<'a> {
    duplicates: RefCell<Vec<String>>,
    is_too_deep: RefCell<bool>,
    limits: &'a Limits,
}

#[derive(Clone, Copy)]
struct Node<'a> {
    found: &'a Found<'a>,
    path: Option<&'a Path<'a>>,
    depth: usize,
}

impl Node<'_> {
    fn inner_depth<E: Error>(&self) -> Result<usize, E> {
        if self.depth >= self.found.limits.depth {
            *self.found.is_too_deep.borrow_mut() = true;
            return Err(E::custom("too deep"));
        }
        Ok(self.depth + 1)
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let depth = self.inner_depth()?;
        let mut list = Vec::new();
        loop {
            let path = self.path.map(|path| path.index(list.len()));
            let node = Node { found: self.found, path: path.as_ref(), depth };
            match entries.next_element_seed(node)? {
                Some(value) => list.push(value),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let depth = self.inner_depth()?;
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let path = self.path.map_or(Path::root(&key), |path| path.at(&key));
            if map.contains_key(&key) {
                self.found.duplicates.borrow_mut().push(path.to_string());
            }
            let value = entries.next_value_seed(Node { found: self.found, path: Some(&path), depth })?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(Value, Vec<String>), String> {
        json(text.as_bytes(), &Limits::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn numbers_are_read_to_the_last_digit() {
        let number = "66666667.686666444444";
        let (read, _) = json(number.as_bytes(), &Limits::default()).unwrap();
        assert_eq!(read.as_f64(), number.parse().ok());
        assert_eq!(json(read.to_string().as_bytes(), &Limits::default()).unwrap().0, read);
    }

    #[test]
    fn the_last_of_two_fields_counts_and_both_are_told() {
        let (value, duplicates) = read(r#"{"a":1,"a":2,"spec":{"list":[{"x":1},{"x":1,"x":{"y":1,"y":2}}]}}"#).unwrap();
        assert_eq!(value, serde_json::json!({"a": 2, "spec": {"list": [{"x": 1}, {"x": {"y": 2}}]}}));
        assert_eq!(duplicates, ["a", "spec.list[1].x", "spec.list[1].x.y"]);
    }

    #[test]
    fn mistakes_have_a_place() {
        assert_eq!(read("{\n \"a\": trx\n}").unwrap_err(), "line 2, column 9: expected ident");
        assert_eq!(read("{} x").unwrap_err(), "line 1, column 4: trailing characters");
        assert!(read("").unwrap_err().contains("EOF"));
        assert!(json(b"\xff", &Limits::default()).is_err());
        assert!(read(r#""\ud800""#).is_err());
    }

    #[test]
    fn size_and_depth_are_bounded() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(read(&nested(super::super::DEPTH_MAX)).is_ok());
        let error = json(nested(200_000).as_bytes(), &Limits::default()).unwrap_err();
        assert_eq!(error.fault, Fault::TooDeep);
        let large = format!("\"{}\"", "x".repeat(super::super::BODY_BYTES_MAX));
        assert_eq!(json(large.as_bytes(), &Limits::default()).unwrap_err().fault, Fault::TooLarge);
    }
}
