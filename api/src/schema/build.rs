//! Compiles definitions into an arena of nodes.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;

use super::{
    ListType, Merging, Node, NodeId, ObjectNode, PatchRule, Schema, Slot, Text,
    definition::{self, Definitions},
    rules,
};

/// How deep a schema document may nest. Documents come from users, and compiling recurses.
const DOCUMENT_DEPTH_MAX: usize = 64;

pub fn compile(definitions: &Definitions) -> Schema {
    let mut builder = Builder {
        definitions,
        nodes: vec![Node::Any],
        done: BTreeMap::new(),
        leaves: vec![ANY],
        is_typed: definitions.is_typed,
    };
    let node = builder.definition(&definitions.root, 0);
    let own = definitions.all.get(&definitions.root).filter(|_| !definitions.is_typed);
    let root = Slot { node, rules: own.and_then(rules::of), ..Slot::default() };
    Schema { nodes: builder.nodes, root, any: Slot { node: ANY, ..Slot::default() } }
}

const ANY: NodeId = 0;

struct Builder<'a> {
    definitions: &'a Definitions,
    nodes: Vec<Node>,
    done: BTreeMap<&'a str, NodeId>,
    leaves: Vec<NodeId>,
    is_typed: bool,
}

impl<'a> Builder<'a> {
    /// Most fields are texts, numbers and truth values; those share a node.
    fn push(&mut self, node: Node) -> NodeId {
        let is_leaf = !matches!(node, Node::Object(_) | Node::List(_));
        if is_leaf && let Some(known) = self.leaves.iter().find(|known| self.nodes[**known as usize] == node) {
            return *known;
        }
        if is_leaf {
            self.leaves.push(NodeId::try_from(self.nodes.len()).unwrap_or(ANY));
        }
        self.nodes.push(node);
        NodeId::try_from(self.nodes.len() - 1).unwrap_or(ANY)
    }

    fn definition(&mut self, name: &str, depth: usize) -> NodeId {
        if let Some(done) = self.done.get(name) {
            return *done;
        }
        let Some((name, definition)) = self.definitions.all.get_key_value(name) else { return ANY };
        // Definitions refer to themselves, so the place is taken before it is filled.
        let id = NodeId::try_from(self.nodes.len()).unwrap_or(ANY);
        self.nodes.push(Node::Any);
        self.done.insert(name, id);
        let is_custom_root = !self.definitions.is_typed && *name == self.definitions.root;
        let was_typed = std::mem::replace(&mut self.is_typed, !is_custom_root);
        let node = match name.as_str() {
            definition::QUANTITY => Node::Quantity,
            definition::TIME => Node::Text(Text::Time),
            _ => self.node(definition, depth),
        };
        self.is_typed = was_typed;
        self.nodes[id as usize] = node;
        id
    }

    fn slot(&mut self, schema: &'a Value, depth: usize) -> Slot {
        let target = schema["$ref"].as_str().and_then(|target| target.strip_prefix(definition::REF));
        if depth > DOCUMENT_DEPTH_MAX {
            return Slot::default();
        }
        let node = match target {
            Some(target) => self.definition(target, depth + 1),
            None => {
                let node = self.node(schema, depth + 1);
                self.push(node)
            }
        };
        let merging = Merging { list: self.list_type(schema), patch: patch_rule(schema) };
        let referred = target.and_then(|target| self.definitions.all.get(target));
        let extension = |key: &str| schema.get(key).or_else(|| referred.and_then(|referred| referred.get(key)));
        Slot {
            node,
            is_nullable: schema["nullable"] == true,
            is_atomic: extension("x-kubernetes-map-type").is_some_and(|map_type| map_type == "atomic"),
            merging: (merging != Merging::PLAIN).then(|| Box::new(merging)),
            default: schema.get("default").map(|value| Arc::new(value.clone())),
            rules: if self.is_typed { None } else { rules::of(schema) },
        }
    }

    fn node(&mut self, schema: &'a Value, depth: usize) -> Node {
        if schema["x-kubernetes-int-or-string"] == true {
            return Node::IntOrString;
        }
        match schema["type"].as_str() {
            Some("object") => self.object(schema, depth),
            Some("array") => Node::List(Box::new(self.slot(&schema["items"], depth))),
            Some("string") => Node::Text(match schema["format"].as_str() {
                Some("byte") => Text::Bytes,
                Some("date-time") => Text::DateTime,
                _ => Text::Plain,
            }),
            Some("integer") => match schema["format"].as_str() {
                Some("int32") => Node::Integer(i32::MIN.into(), i32::MAX.into()),
                _ => Node::Integer(i64::MIN, i64::MAX),
            },
            Some("number") => Node::Number,
            Some("boolean") => Node::Boolean,
            // A schema without a type that has fields is one of an object, as with x-kubernetes-preserve-unknown-fields.
            _ if schema["properties"].is_object() => self.object(schema, depth),
            _ => Node::Any,
        }
    }

    fn object(&mut self, schema: &'a Value, depth: usize) -> Node {
        let mut object =
            ObjectNode { is_open: schema["x-kubernetes-preserve-unknown-fields"] == true, ..ObjectNode::default() };
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let slot = self.slot(property, depth);
            object.fields.insert(name.as_str().into(), slot);
        }
        match &schema["additionalProperties"] {
            Value::Null => (),
            Value::Bool(is_open) => object.is_open |= is_open,
            values => object.values = Some(self.slot(values, depth)),
        }
        if !self.is_typed {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            object.required = required.map(Box::from).collect();
        }
        if schema["x-kubernetes-embedded-resource"] == true {
            let text = self.push(Node::Text(Text::Plain));
            let metadata = self.definition(definition::OBJECT_META, depth);
            for (name, node) in [("apiVersion", text), ("kind", text), ("metadata", metadata)] {
                object.fields.insert(name.into(), Slot { node, ..Slot::default() });
            }
        }
        // A Rust type without any field is one that holds other people's objects: RawExtension, FieldsV1, JSON.
        if self.is_typed && object.fields.is_empty() && object.values.is_none() {
            return Node::Any;
        }
        Node::Object(Box::new(object))
    }

    fn list_type(&self, schema: &Value) -> ListType {
        match schema["x-kubernetes-list-type"].as_str() {
            Some("set") => ListType::Set,
            Some("map") => {
                let items = &schema["items"];
                let target = items["$ref"].as_str().and_then(|target| target.strip_prefix(definition::REF));
                let entry = target.and_then(|target| self.definitions.all.get(target)).unwrap_or(items);
                let default = |key: &str| {
                    let known = schema[definition::KEY_DEFAULTS].get(key);
                    known.or_else(|| entry["properties"][key].get("default")).cloned()
                };
                let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten();
                ListType::Map(keys.filter_map(Value::as_str).map(|key| (key.into(), default(key))).collect())
            }
            _ => ListType::Atomic,
        }
    }
}

fn patch_rule(schema: &Value) -> PatchRule {
    let strategy = schema["x-kubernetes-patch-strategy"].as_str().unwrap_or_default();
    let has = |word: &str| strategy.split(',').any(|one| one == word);
    PatchRule {
        is_merged: has("merge"),
        is_replaced: has("replace"),
        retains_keys: has("retainKeys"),
        key: schema["x-kubernetes-patch-merge-key"].as_str().map(Box::from),
    }
}
