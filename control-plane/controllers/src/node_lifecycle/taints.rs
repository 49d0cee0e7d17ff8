//! The taints that a node's conditions call for.

use copepod_api::{
    Health, Timestamp,
    k8s_openapi::{
        api::core::v1::{Node, Taint},
        apimachinery::pkg::apis::meta::v1::Time,
    },
};

pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Conditions that keep new pods away while they hold.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

/// The taints that evict.
pub fn evicting(node: &Node) -> impl Iterator<Item = &Taint> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    taints.into_iter().flatten().filter(|taint| taint.effect == "NoExecute")
}

/// The node's taints as they should be, where they are not so.
pub fn change(node: &Node, health: Health, now: Timestamp) -> Option<Vec<Taint>> {
    let present = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let called_for = called_for(node, health);
    let mut taints: Vec<Taint> = present
        .iter()
        .filter(|taint| {
            let own = is_own(taint);
            !own || called_for.contains(&(taint.key.as_str(), taint.effect.as_str()))
        })
        .cloned()
        .collect();
    for (key, effect) in called_for {
        if !taints.iter().any(|taint| taint.key == key && taint.effect == effect) {
            taints.push(Taint { key: key.to_owned(), effect: effect.to_owned(), value: None, time_added: None });
        }
    }
    // Tolerations with an end count from here, for everybody's taints.
    for taint in taints.iter_mut().filter(|taint| taint.effect == "NoExecute") {
        taint.time_added.get_or_insert(Time(now));
    }
    (taints != present).then_some(taints)
}

fn is_own(taint: &Taint) -> bool {
    let key = taint.key.as_str();
    [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&key) || PRESSURES.iter().any(|(_, own)| *own == key)
}

fn called_for(node: &Node, health: Health) -> Vec<(&'static str, &'static str)> {
    let mut taints = Vec::new();
    match health {
        Health::Ready => {}
        Health::NotReady => taints.extend([(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
        Health::Silent => taints.extend([(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]),
    }
    if node.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true)) {
        taints.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    for condition in conditions.into_iter().flatten().filter(|condition| condition.status == "True") {
        taints.extend(
            PRESSURES.iter().filter(|(type_, _)| *type_ == condition.type_).map(|(_, key)| (*key, "NoSchedule")),
        );
    }
    taints
}
