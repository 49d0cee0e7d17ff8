//! When a pod has to leave a tainted node.

use std::{ops::Deref, sync::Arc};

use copepod_api::{
    Of, Plan, Timestamp,
    k8s_openapi::api::core::v1::{Node, Pod, Taint},
};

use super::{Outage, taints};
use crate::{time, tolerations};

/// How long a pod that says nothing about it stays on a node that is there but not ready. Its containers still run, and
/// most such states (an agent that restarts, a full disk being cleaned) pass; moving everything would be worse.
const NOT_READY_SECONDS: i64 = 60;

/// How long a pod that says nothing about it stays on a silent node. The silence has lasted for a while already before
/// it was called so; nothing is gained by waiting on.
const UNREACHABLE_SECONDS: i64 = 0;

/// The taint for which a pod has to leave now. When it will have to, or why not, is said in the plan.
pub fn due<'n>(
    plan: &mut Plan,
    node: &'n Of<Node>,
    pod: &Pod,
    outage: &dyn Deref<Target = Arc<Outage>>,
    now: Timestamp,
) -> Option<&'n Taint> {
    let ends = taints::evicting(node).filter_map(|taint| end_of_stay(pod, taint, now).map(|end| (end, taint)));
    let (end, taint) = ends.min_by_key(|(end, _)| *end)?;
    let is_ours = [taints::NOT_READY, taints::UNREACHABLE].contains(&taint.key.as_str());
    if is_ours && outage.is_doubtful() {
        plan.because(format!(
            "{} of {} nodes are silent, so pods of {} are left alone",
            outage.silent,
            outage.nodes,
            node.key().name()
        ));
        return None;
    }
    if end > now {
        plan.look_again_at(end);
        return None;
    }
    Some(taint)
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
