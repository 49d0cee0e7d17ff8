//! What a pod says of where it wants to be, read from its bytes without decoding them.
//!
//! Objects are canonical JSON: equal content is equal text. So the parts that make up a shape can be compared as they
//! stand, and of thousands of equal pods one is decoded.

use std::borrow::Cow;

use copepod_api::Object;
use serde::Deserialize;
use serde_json::value::RawValue;

type Raw<'a> = Option<&'a RawValue>;

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Wish<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
    #[serde(borrow)]
    pub spec: Spec<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata<'a> {
    #[serde(borrow)]
    labels: Raw<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Spec<'a> {
    pub priority: Option<i32>,
    #[serde(borrow)]
    pub scheduler_name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    scheduling_gates: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    node_selector: Raw<'a>,
    #[serde(borrow)]
    affinity: Raw<'a>,
    #[serde(borrow)]
    tolerations: Raw<'a>,
    #[serde(borrow)]
    topology_spread_constraints: Raw<'a>,
    #[serde(borrow)]
    overhead: Raw<'a>,
    #[serde(borrow)]
    resources: Raw<'a>,
    #[serde(borrow)]
    host_network: Raw<'a>,
    #[serde(borrow)]
    containers: Option<Vec<Container<'a>>>,
    #[serde(borrow)]
    init_containers: Option<Vec<Container<'a>>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Container<'a> {
    #[serde(borrow)]
    resources: Raw<'a>,
    #[serde(borrow)]
    ports: Raw<'a>,
    #[serde(borrow)]
    restart_policy: Raw<'a>,
    #[serde(borrow)]
    image: Raw<'a>,
}

#[cfg(test)]
thread_local! {
    static READ: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// How often this thread has read a pod.
#[cfg(test)]
pub fn n_read() -> usize {
    READ.get()
}

impl<'a> Wish<'a> {
    /// Of a pod that says this; `None` if it is no pod.
    pub fn of(text: &'a [u8]) -> Option<Wish<'a>> {
        #[cfg(test)]
        READ.set(READ.get() + 1);
        serde_json::from_slice(text).ok()
    }

    /// Nobody may place it yet.
    pub fn is_gated(&self) -> bool {
        self.spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty())
    }

    /// Pods with equal keys have equal shapes.
    pub fn key(&self, pod: &Object) -> String {
        let owner = pod.meta.controller().map_or("", |owner| owner.uid.as_str());
        let mut key = String::with_capacity(512);
        let mut add = |part: &str| {
            key.push_str(part);
            key.push('\n');
        };
        let text = |raw: Raw<'a>| raw.map_or("", RawValue::get);
        let spec = &self.spec;
        add(pod.key.namespace());
        add(owner);
        for raw in [
            self.metadata.labels,
            spec.node_selector,
            spec.affinity,
            spec.tolerations,
            spec.topology_spread_constraints,
            spec.overhead,
            spec.resources,
            spec.host_network,
        ] {
            add(text(raw));
        }
        for containers in [&spec.containers, &spec.init_containers] {
            for container in containers.iter().flatten() {
                for raw in [container.resources, container.ports, container.restart_policy, container.image] {
                    add(text(raw));
                }
            }
            add("");
        }
        key
    }
}

/// The pod asks for the same as before and is where it was, as far as can be said without reading it. That is most
/// changes of most pods: a status.
pub fn is_unchanged(previous: &Object, object: &Object) -> bool {
    let (before, now) = (&previous.meta, &object.meta);
    let owner = |object: &Object| object.meta.controller().map(|owner| owner.uid.clone());
    now.generation > 0
        && before.generation == now.generation
        && before.uid == now.uid
        && before.labels == now.labels
        && before.is_leaving() == now.is_leaving()
        && previous.node == object.node
        && !object.facts().has_ended()
        && owner(previous) == owner(object)
}
