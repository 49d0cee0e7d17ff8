//! When a pod has to leave a tainted node.

use std::{ops::Deref, sync::Arc};

use copepod_api::{
    DeleteOptions, Of, Plan, Timestamp, User,
    k8s_openapi::api::core::v1::{Node, Pod, Taint},
};
use copepod_store::View;

use super::{Outage, taints};
use crate::{time, tolerations, write};

/// How long a pod that says nothing about it stays on a node that is there but not ready. Its containers still run, and
/// most such states (an agent that restarts, a full disk being cleaned) pass; moving everything would be worse.
const NOT_READY_SECONDS: i64 = 60;

/// How long a pod that says nothing about it stays on a silent node. The silence has lasted for a while already before
/// it was called so; nothing is gained by waiting on.
const UNREACHABLE_SECONDS: i64 = 0;

pub fn consider(
    plan: &mut Plan,
    view: &View,
    user: &User,
    node: &Of<Node>,
    pod: &Of<Pod>,
    outage: &dyn Deref<Target = Arc<Outage>>,
    now: Timestamp,
) {
    let ends = taints::evicting(node).filter_map(|taint| end_of_stay(pod, taint, now).map(|end| (end, taint)));
    let Some((end, taint)) = ends.min_by_key(|(end, _)| *end) else {
        return;
    };
    let is_ours = [taints::NOT_READY, taints::UNREACHABLE].contains(&taint.key.as_str());
    if is_ours && outage.is_doubtful() {
        plan.because(format!(
            "{} of {} nodes are silent, so pods of {} are left alone",
            outage.silent,
            outage.nodes,
            node.key().name()
        ));
    } else if end <= now {
        plan.push(write::delete(user, pod.object(), DeleteOptions::default()));
        let message = format!("Taint {} of node {} evicts pod {}", taint.key, node.key().name(), pod.key().name);
        plan.because(message.clone());
        let news = write::News { kind: "Normal", reason: "TaintManagerEviction", message };
        write::announce(plan, view, user, pod.object(), news, now);
    } else {
        plan.look_again_at(end);
    }
}

/// Until when a pod puts up with a taint; `None` for ever.
fn end_of_stay(pod: &Pod, taint: &Taint, now: Timestamp) -> Option<Timestamp> {
    let mut tolerated = false;
    let mut shortest: Option<i64> = None;
    for toleration in tolerations::matching(pod, taint) {
        tolerated = true;
        let seconds = toleration.toleration_seconds.map(|seconds| seconds.max(0));
        shortest = [shortest, seconds].into_iter().flatten().min();
    }
    let seconds = match (tolerated, shortest) {
        (true, None) => return None,
        (true, Some(seconds)) => seconds,
        (false, _) if taint.key == taints::NOT_READY => NOT_READY_SECONDS,
        (false, _) if taint.key == taints::UNREACHABLE => UNREACHABLE_SECONDS,
        (false, _) => 0,
    };
    Some(time::after(time::of(&taint.time_added).unwrap_or(now), seconds))
}
