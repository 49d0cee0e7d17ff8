//! An object as the store keeps it.
//!
//! Decoded once, served as stored: an object is its canonical JSON. Lists, watch events and assignments to nodes are
//! written from these bytes; the typed form is made at most once a revision, when somebody asks, and shared by all. The
//! one thing not known when an object is encoded is its revision, which the state machine assigns; so the encoding
//! leaves a gap for it (`Body`), and storing an object means filling the gap.

use std::{
    any::Any,
    borrow::Cow,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::Value;

use crate::{
    Key, Meta, Revision, Typed,
    facts::{Facts, Head, NodeFacts, NodeHead, PodFacts},
    held::Held,
    resource,
    typed::DecodeError,
};

/// Canonical JSON (sorted keys, no white space) with a gap where `metadata.resourceVersion` will stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Body {
    pub bytes: Bytes,
    /// The offset between the quotes of `"resourceVersion":""`.
    pub gap: u32,
}

impl Body {
    /// Encodes an object. Whatever `metadata.resourceVersion` it carries is left out.
    ///
    /// `object` must be a JSON object; its `metadata`, if missing or of another type, is written as an empty object, so
    /// that a broken caller yields an object without a name (which the store refuses) and not a panic.
    pub fn encode(object: &Value) -> Body {
        let mut out = Vec::with_capacity(1024);
        let mut gap = 0;
        out.push(b'{');
        let mut first = true;
        let empty = serde_json::Map::new();
        let fields = object.as_object().unwrap_or(&empty);
        let mut metadata_written = false;
        for (name, value) in fields {
            if !metadata_written && name.as_str() >= "metadata" {
                separate(&mut out, &mut first);
                gap = write_metadata(&mut out, fields.get("metadata").and_then(Value::as_object).unwrap_or(&empty));
                metadata_written = true;
            }
            if name != "metadata" {
                separate(&mut out, &mut first);
                write_json(&mut out, name);
                out.push(b':');
                write_json(&mut out, value);
            }
        }
        if !metadata_written {
            separate(&mut out, &mut first);
            gap = write_metadata(&mut out, &empty);
        }
        out.push(b'}');
        Body { bytes: out.into(), gap }
    }

    /// The object at `revision`.
    pub fn at(&self, revision: Revision) -> Bytes {
        let gap = self.gap as usize;
        let number = revision.0.to_string();
        let mut out = Vec::with_capacity(self.bytes.len() + number.len());
        out.extend_from_slice(&self.bytes[..gap]);
        out.extend_from_slice(number.as_bytes());
        out.extend_from_slice(&self.bytes[gap..]);
        out.into()
    }
}

fn write_metadata(out: &mut Vec<u8>, metadata: &serde_json::Map<String, Value>) -> u32 {
    out.extend_from_slice(b"\"metadata\":{");
    let mut first = true;
    let mut gap = None;
    for (name, value) in metadata {
        if gap.is_none() && name.as_str() >= "resourceVersion" {
            gap = Some(write_gap(out, &mut first));
        }
        if name != "resourceVersion" {
            separate(out, &mut first);
            write_json(out, name);
            out.push(b':');
            write_json(out, value);
        }
    }
    let gap = gap.unwrap_or_else(|| write_gap(out, &mut first));
    out.push(b'}');
    gap
}

fn write_gap(out: &mut Vec<u8>, first: &mut bool) -> u32 {
    separate(out, first);
    out.extend_from_slice(b"\"resourceVersion\":\"");
    let gap = out.len() as u32;
    out.push(b'"');
    gap
}

fn separate(out: &mut Vec<u8>, first: &mut bool) {
    if !std::mem::replace(first, false) {
        out.push(b',');
    }
}

fn write_json(out: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(out, value).expect("JSON values and strings always encode into memory");
}

/// One object at one revision. Immutable; shared by every view that contains it.
pub struct Object {
    pub key: Key,
    pub revision: Revision,
    pub meta: Meta,
    /// `spec.nodeName` of a pod, for the index of pods by node.
    pub node: Option<Arc<str>>,
    facts: Option<Box<Facts>>,
    held: Held,
    size: u32,
    gap: u32,
    /// Most objects are never looked into, so what was decoded of one takes a word until then.
    made: OnceLock<Box<Made>>,
}

/// What was made of an object when somebody asked.
#[derive(Default)]
struct Made {
    value: OnceLock<Value>,
    typed: OnceLock<Arc<dyn Any + Send + Sync>>,
    derived: OnceLock<Arc<dyn Any + Send + Sync>>,
}

impl Object {
    /// An object as the state machine makes it: `body` with its revision filled in.
    pub fn store(key: Key, body: &Body, revision: Revision) -> Result<Object, DecodeError> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct MetaOnly {
            metadata: Meta,
        }
        fn read<'b, T: Deserialize<'b>>(key: &Key, body: &'b Body) -> Result<T, DecodeError> {
            serde_json::from_slice(&body.bytes).map_err(|error| DecodeError::new(key, error))
        }
        let (meta, node, facts) = if key.resource == resource::PODS {
            let mut head: Head<'_> = read(&key, body)?;
            let (node, facts) = (head.node(), head.facts());
            (head.metadata, node, Some(Facts::Pod(facts)))
        } else if key.resource == resource::NODES {
            let head: NodeHead<'_> = read(&key, body)?;
            let facts = head.facts();
            (head.metadata, None, Some(Facts::Node(facts)))
        } else {
            (read::<MetaOnly>(&key, body)?.metadata, None, None)
        };
        let (bytes, gap, facts) = (body.at(revision), body.gap, facts.map(Box::new));
        let size = bytes.len() as u32;
        Ok(Object { held: Held::new(bytes), size, gap, key, revision, meta, node, facts, made: OnceLock::new() })
    }

    /// The canonical JSON, resourceVersion included. Of an object that is held packed (`Packer`), a copy; whoever needs it
    /// more than once should keep it.
    pub fn bytes(&self) -> Bytes {
        self.held.text(self.size())
    }

    /// How many bytes the canonical JSON has, however it is held.
    pub fn size(&self) -> usize {
        self.size as usize
    }

    /// How many bytes hold the canonical JSON: fewer where it is packed.
    pub fn held_size(&self) -> usize {
        self.held.size()
    }

    pub(crate) fn held(&self) -> &Held {
        &self.held
    }

    /// The object, held as it is: itself, or a copy of one that is held packed.
    pub fn open(self: &Arc<Object>) -> Arc<Object> {
        match self.held.plain() {
            Some(_) => self.clone(),
            None => Arc::new(Object { held: Held::new(self.bytes()), ..self.apart() }),
        }
    }

    /// The encoding without its revision: equal bodies are equal objects.
    pub fn body(&self) -> Body {
        let (gap, before, after) = self.body_parts();
        Body { bytes: [before, after].concat().into(), gap }
    }

    /// The encoding without its revision, for whoever writes it elsewhere: where the gap is, and what stands around it.
    pub fn body_parts(&self) -> (u32, Bytes, Bytes) {
        let mut before = self.bytes();
        let mut after = before.split_off(self.gap as usize);
        let digits = after.iter().take_while(|byte| byte.is_ascii_digit()).count();
        (self.gap, before, after.split_off(digits))
    }

    /// What is known of a pod without decoding it; of any other object, nothing.
    pub fn facts(&self) -> &PodFacts {
        match self.facts.as_deref() {
            Some(Facts::Pod(facts)) => facts,
            _ => PodFacts::NONE,
        }
    }

    /// What is known of a node without decoding it; of any other object, nothing.
    pub fn node_facts(&self) -> &NodeFacts {
        match self.facts.as_deref() {
            Some(Facts::Node(facts)) => facts,
            _ => NodeFacts::NONE,
        }
    }

    /// The object as the Rust type of its kind, for whoever looks at it once: nobody keeps what is decoded. Who set which
    /// field is left out: it is most of what a small object takes in memory, and is read from JSON where it matters.
    pub fn decoded<T: Typed>(&self) -> Result<T, DecodeError> {
        let bytes = self.bytes();
        let text = without_managed_fields(&bytes, self.gap as usize);
        let mut decoded: T = serde_json::from_slice(&text).map_err(|error| DecodeError::new(&self.key, error))?;
        decoded.metadata_mut().managed_fields = None;
        Ok(decoded)
    }

    /// Its JSON without who set which field, for readers who never ask: that is a third of a pod.
    pub fn slim(&self) -> Bytes {
        let bytes = self.bytes();
        match without_managed_fields(&bytes, self.gap as usize) {
            Cow::Owned(text) => text.into(),
            Cow::Borrowed(_) => bytes.clone(),
        }
    }

    /// Whether it carries anything that was made of it.
    pub fn is_decoded(&self) -> bool {
        self.made.get().is_some()
    }

    fn made(&self) -> &Made {
        self.made.get_or_init(Box::default)
    }

    /// The object as JSON. Decoded on the first call.
    pub fn value(&self) -> &Value {
        self.made().value.get_or_init(|| serde_json::from_slice(&self.bytes()).unwrap_or(Value::Null))
    }

    /// The same, kept: decoded on the first call; one type an object.
    pub fn typed<T: Typed>(&self) -> Result<&T, DecodeError> {
        let made = &self.made().typed;
        if made.get().is_none() {
            // Somebody else may have been faster; then both decoded the same bytes.
            let _ = made.set(Arc::new(self.decoded::<T>()?));
        }
        made.get()
            .and_then(|any| any.downcast_ref::<T>())
            .ok_or_else(|| DecodeError::other_type(&self.key, std::any::type_name::<T>()))
    }

    /// What follows from this object alone and is dear to make: the rows of a definition. Made on the first call; one
    /// type an object.
    pub fn derived<T: Send + Sync + 'static>(&self, make: impl FnOnce(&Object) -> T) -> Option<Arc<T>> {
        let derived = self.made().derived.get_or_init(|| Arc::new(make(self)));
        derived.clone().downcast::<T>().ok()
    }

    /// The same object at the same revision, said differently: in another version of its kind.
    pub fn said(&self, value: &Value) -> Result<Object, DecodeError> {
        Object::store(self.key.clone(), &Body::encode(value), self.revision)
    }

    /// The same object with another revision: what a watcher is shown when it is deleted.
    pub fn at(&self, revision: Revision) -> Object {
        let bytes = self.body().at(revision);
        Object { revision, size: bytes.len() as u32, held: Held::new(bytes), ..self.apart() }
    }

    /// A copy that shares its bytes, unless they are packed: what is decoded of it goes with it. Decoded in place, an object carries its decoded
    /// form, ten times its size, as long as a view or the history of events knows it.
    pub fn apart(&self) -> Object {
        Object {
            key: self.key.clone(),
            revision: self.revision,
            meta: self.meta.clone(),
            node: self.node.clone(),
            facts: self.facts.clone(),
            held: self.held.clone(),
            size: self.size,
            gap: self.gap,
            made: OnceLock::new(),
        }
    }
}

/// Canonical JSON without `metadata.managedFields`: to decode them takes as long as all the rest of many an object. `gap` lies
/// behind them in the same metadata, as the names of fields are sorted.
fn without_managed_fields(text: &[u8], gap: usize) -> Cow<'_, [u8]> {
    const NAME: &[u8] = b"\"managedFields\":";
    let before = &text[..gap.min(text.len())];
    let Some(from) = memchr::memmem::rfind(before, NAME) else { return Cow::Borrowed(text) };
    let mut fields = serde_json::Deserializer::from_slice(&before[from + NAME.len()..]).into_iter::<IgnoredAny>();
    let is_read = fields.next().is_some_and(|read| read.is_ok());
    let to = from + NAME.len() + fields.byte_offset();
    // Others of that name, as in a template, are followed by the end of what they stand in.
    let is_own = is_read && before.get(to) == Some(&b',') && !leaves(&before[to..]);
    if is_own { Cow::Owned([&text[..from], &text[to + 1..]].concat()) } else { Cow::Borrowed(text) }
}

/// Whether a text within an object leads out of it.
fn leaves(text: &[u8]) -> bool {
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_text,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => depth += 1,
            b'}' | b']' if !in_text => match depth.checked_sub(1) {
                Some(outer) => depth = outer,
                None => return true,
            },
            _ => {}
        }
    }
    false
}

impl std::fmt::Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.key, self.revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_revision_is_filled_into_its_sorted_place() {
        let body = Body::encode(&json!({
            "kind": "Pod", "apiVersion": "v1", "spec": {"nodeName": "n1"},
            "metadata": {"name": "a", "uid": "u", "resourceVersion": "99"},
        }));
        let object = Object::store(Key::new(resource::PODS, "", "a"), &body, Revision(7)).unwrap();
        let stored = object.bytes();
        let text = std::str::from_utf8(&stored).unwrap();
        assert_eq!(
            text,
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","resourceVersion":"7","uid":"u"},"spec":{"nodeName":"n1"}}"#
        );
        assert_eq!(object.node.as_deref(), Some("n1"));
        assert_eq!(object.body(), body);
        assert_eq!(object.at(Revision(1234)).value()["metadata"]["resourceVersion"], "1234");
    }

    #[test]
    fn a_typed_form_leaves_out_who_set_what() {
        let body = Body::encode(&json!({"kind": "Node", "apiVersion": "v1", "metadata": {
            "name": "n1", "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {"f:taints": {}}}}],
        }}));
        let object = Object::store(Key::new(resource::NODES, "", "n1"), &body, Revision(7)).unwrap();
        let node = object.typed::<k8s_openapi::api::core::v1::Node>().unwrap();
        assert_eq!((node.metadata.name.as_deref(), &node.metadata.managed_fields), (Some("n1"), &None));
        assert_eq!(object.value()["metadata"]["managedFields"][0]["manager"], "kubectl");
    }

    #[test]
    fn nothing_else_is_left_out() {
        use k8s_openapi::api::apps::v1::ReplicaSet;
        let who =
            json!([{"manager": "a \\ \"managedFields\":[],{ b", "fieldsV1": {"f:metadata": {"f:managedFields": {}}}}]);
        let owners = json!([{"apiVersion": "v1", "kind": "[", "name": "}", "uid": "\\\"}"}]);
        let text = who.to_string();
        for own in [None, Some(&who), Some(&json!([]))] {
            for template in
                [json!({}), json!({"managedFields": who, "name": "x"}), json!({"labels": {"managedFields": "y"}})]
            {
                let mut value = json!({
                    "apiVersion": "apps/v1", "kind": "ReplicaSet",
                    "metadata": {"annotations": {"managedFields": text}, "name": "a", "ownerReferences": owners},
                    "spec": {"selector": {}, "template": {"metadata": template}},
                });
                if let Some(own) = own {
                    value["metadata"]["managedFields"] = own.clone();
                }
                let key = Key::new(resource::REPLICA_SETS, "", "a");
                let object = Object::store(key, &Body::encode(&value), Revision(7)).unwrap();
                let mut whole: ReplicaSet = serde_json::from_slice(&object.bytes()).unwrap();
                whole.metadata.managed_fields = None;
                assert_eq!(object.decoded::<ReplicaSet>().unwrap(), whole, "{value}");
                let left: Value = serde_json::from_slice(&object.slim()).unwrap();
                value["metadata"].as_object_mut().unwrap().remove("managedFields");
                value["metadata"]["resourceVersion"] = json!("7");
                assert_eq!(left, value);
            }
        }
        // Of another object that stands before the metadata.
        let value = json!({"data": {"metadata": {"managedFields": who, "name": "x"}}, "metadata": {"name": "a"}});
        let body = Body::encode(&value);
        assert_eq!(*without_managed_fields(&body.bytes, body.gap as usize), *body.bytes);
    }

    #[test]
    fn an_object_without_metadata_still_gets_a_revision() {
        for value in [json!({}), json!({"kind": "A"}), json!({"spec": 1}), json!({"metadata": 3, "z": 1})] {
            let text: Value = serde_json::from_slice(&Body::encode(&value).at(Revision(5))).unwrap();
            assert_eq!(text["metadata"]["resourceVersion"], "5", "{value}");
        }
    }
}
