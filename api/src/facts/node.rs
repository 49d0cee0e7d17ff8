//! What many ask about a node, read when the object is stored.
//!
//! All nodes are looked at when one joins, falls silent or asks for a range of addresses, and a cluster may have ten
//! thousand; a typed node is ten kilobytes.

use std::borrow::Cow;

use serde::Deserialize;

use super::Text;
use crate::Meta;

/// What a node's condition `Ready` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    Ready,
    /// It says itself that it cannot run pods, or has not said anything yet.
    #[default]
    NotReady,
    /// It says nothing any more.
    Silent,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    pub health: Health,
    /// The addresses of its pods, `spec.podCIDR`.
    pub range: Option<Box<str>>,
    /// It has a taint that pods are evicted for.
    pub evicts: bool,
}

impl NodeFacts {
    pub(crate) const NONE: &'static NodeFacts = &NodeFacts { health: Health::NotReady, range: None, evicts: false };
}

/// A node as far as its facts go.
#[derive(Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
pub(crate) struct Head<'a> {
    pub metadata: Meta,
    spec: Spec<'a>,
    status: Status<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Spec<'a> {
    #[serde(borrow, rename = "podCIDR")]
    range: Text<'a>,
    #[serde(borrow)]
    taints: Option<Vec<Taint<'a>>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Taint<'a> {
    #[serde(borrow)]
    effect: Text<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status<'a> {
    #[serde(borrow)]
    conditions: Option<Vec<super::Condition<'a>>>,
}

impl Head<'_> {
    pub fn facts(&self) -> NodeFacts {
        let mut taints = self.spec.taints.iter().flatten();
        NodeFacts {
            health: match super::ready(&self.status.conditions).and_then(|ready| ready.status.as_deref()) {
                Some("True") => Health::Ready,
                Some("Unknown") => Health::Silent,
                Some(_) | None => Health::NotReady,
            },
            range: self.spec.range.as_deref().filter(|range| !range.is_empty()).map(Box::from),
            evicts: taints.any(|taint| taint.effect == Some(Cow::Borrowed("NoExecute"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn facts(node: Value) -> NodeFacts {
        let text = node.to_string();
        serde_json::from_str::<Head<'_>>(&text).unwrap().facts()
    }

    #[test]
    fn a_node_is_as_its_condition_and_taints_say() {
        let node = |status: &str, effect: &str| {
            facts(json!({
                "spec": {"podCIDR": "10.244.1.0/24", "taints": [{"key": "a", "effect": effect}]},
                "status": {"conditions": [{"type": "DiskPressure", "status": "True"}, {"type": "Ready", "status": status}]},
            }))
        };
        assert_eq!(
            node("True", "NoSchedule"),
            NodeFacts { health: Health::Ready, range: Some("10.244.1.0/24".into()), evicts: false }
        );
        assert_eq!((node("Unknown", "NoExecute").health, node("Unknown", "NoExecute").evicts), (Health::Silent, true));
        assert_eq!(node("False", "").health, Health::NotReady);
    }

    #[test]
    fn what_is_missing_or_null_says_nothing() {
        assert_eq!(facts(json!({})), *NodeFacts::NONE);
        let nothing = json!({"spec": {"podCIDR": "", "taints": null}, "status": {"conditions": null}});
        assert_eq!(facts(nothing), *NodeFacts::NONE);
    }
}
