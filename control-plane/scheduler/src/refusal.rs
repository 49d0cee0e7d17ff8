//! Why a node does not take a pod, and how that is told for many nodes at once.
//!
//! A reason is a value that borrows what it is about. Nodes by the thousand refuse a pod for the same few reasons: these are
//! counted as values, and put into words where they are shown.

use std::collections::BTreeMap;

use copepod_api::quantity::Quantity;

use crate::{place::Scene, shape::HostPort};

/// One reason of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason<'a> {
    Cordoned,
    Affinity,
    Taint {
        key: &'a str,
        value: &'a str,
        effect: &'a str,
    },
    TooManyPods,
    Insufficient(&'a str),
    Port(&'a HostPort),
    /// Pods there keep such as this away.
    Kept,
    Apart,
    Near,
    NoLabel(&'a str),
    Uneven,
}

#[cfg(test)]
thread_local! {
    static WORDS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// How often this thread has put a reason into words.
#[cfg(test)]
pub fn n_worded() -> usize {
    WORDS.get()
}

impl Reason<'_> {
    /// Equal texts are counted together.
    fn text(&self) -> String {
        #[cfg(test)]
        WORDS.set(WORDS.get() + 1);
        let plain = match self {
            Reason::Taint { key, value, .. } => return format!("node(s) had untolerated taint {{{key}: {value}}}"),
            Reason::Insufficient(name) => return format!("Insufficient {name}"),
            Reason::Cordoned => "node(s) were unschedulable",
            Reason::Affinity => "node(s) didn't match Pod's node affinity/selector",
            Reason::TooManyPods => "Too many pods",
            Reason::Port(_) => "node(s) didn't have free ports for the requested pod ports",
            Reason::Kept => "node(s) didn't satisfy existing pods anti-affinity rules",
            Reason::Apart => "node(s) didn't match pod anti-affinity rules",
            Reason::Near => "node(s) didn't match pod affinity rules",
            Reason::NoLabel(_) => "node(s) didn't match pod topology spread constraints (missing required label)",
            Reason::Uneven => "node(s) didn't match pod topology spread constraints",
        };
        plain.to_owned()
    }

    /// What is missing on this very node can be said of some reasons.
    fn has_detail(&self) -> bool {
        !matches!(self, Reason::Affinity | Reason::Kept | Reason::Apart | Reason::Near | Reason::Uneven)
    }

    /// What is missing on this very node.
    fn detail(&self, scene: &Scene<'_>, row: usize) -> Option<String> {
        #[cfg(test)]
        WORDS.set(WORDS.get() + 1);
        let (asks, used, capacity) = (&scene.shape.asks, &scene.table.used[row], &scene.table.capacity[row]);
        Some(match self {
            Reason::Cordoned => "it is cordoned".to_owned(),
            Reason::Taint { key, effect, .. } => format!("it has the taint {key}:{effect}"),
            Reason::TooManyPods => format!("it has {} of {} pods", used.pods, capacity.pods),
            Reason::Insufficient(name) => {
                let write: fn(i64) -> Quantity = match *name {
                    "cpu" => Quantity::from_milli,
                    "memory" | "ephemeral-storage" => Quantity::from_bytes,
                    _ => Quantity::from_value,
                };
                let (ask, used, capacity) = (asks.of(name), used.of(name), capacity.of(name));
                let free = write((capacity - used).max(0));
                format!("needs {} {name}, {free} free of {}", write(ask), write(capacity))
            }
            Reason::Port(port) => format!("its port {}/{} is in use", port.port, port.protocol),
            Reason::NoLabel(key) => format!("it has no label {key}"),
            Reason::Affinity | Reason::Kept | Reason::Apart | Reason::Near | Reason::Uneven => return None,
        })
    }

    /// As much as can be said.
    pub fn told(&self, scene: &Scene<'_>, row: usize) -> String {
        self.detail(scene, row).unwrap_or_else(|| self.text())
    }
}

/// Where the advice begins.
const NEAREST: &str = " Nearest is ";

/// A sentence without its advice. The free room of the nearest node changes with every pod that comes or goes anywhere,
/// and that alone is not worth a write to every pod that waits.
pub fn gist(sentence: &str) -> &str {
    sentence.split(NEAREST).next().unwrap_or_default()
}

/// `0/3 nodes are available: 1 node(s) had untolerated taint {a: b}, 2 Insufficient cpu.`, and which node is nearest.
/// `why` gives the reasons of a node.
pub fn sentence<'a>(scene: &Scene<'a>, why: impl Fn(usize, &mut Vec<Reason<'a>>)) -> String {
    if scene.table.count() == 0 {
        return "no nodes available to schedule pods".to_owned();
    }
    let mut counts: BTreeMap<Reason<'a>, usize> = BTreeMap::new();
    // The smallest change that would help: the node that lacks the fewest things, where it can say what.
    let mut nearest: Option<(usize, usize)> = None;
    let mut reasons = Vec::new();
    for row in scene.table.rows() {
        reasons.clear();
        why(row, &mut reasons);
        reasons.iter().for_each(|reason| *counts.entry(*reason).or_insert(0) += 1);
        if nearest.is_none_or(|(fewest, _)| reasons.len() < fewest) && reasons.iter().all(Reason::has_detail) {
            nearest = Some((reasons.len(), row));
        }
    }
    let mut texts: BTreeMap<String, usize> = BTreeMap::new();
    for (reason, count) in counts {
        *texts.entry(reason.text()).or_insert(0) += count;
    }
    let mut groups: Vec<String> = texts.iter().map(|(text, count)| format!("{count} {text}")).collect();
    groups.sort();
    let mut sentence = format!("0/{} nodes are available: {}.", scene.table.count(), groups.join(", "));
    if let Some((_, row)) = nearest {
        reasons.clear();
        why(row, &mut reasons);
        let details: Vec<String> = reasons.iter().filter_map(|reason| reason.detail(scene, row)).collect();
        sentence.push_str(&format!("{NEAREST}{}: {}.", scene.table.name(row), details.join(" and ")));
    }
    sentence
}
