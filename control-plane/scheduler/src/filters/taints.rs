//! A tainted node takes only pods that tolerate its taints.

use copepod_api::k8s_openapi::api::core::v1::{Taint, Toleration};

use super::Filter;
use crate::{place::Scene, refusal::Reason};

/// The taint of a cordon, which has a filter and a message of its own.
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

pub const FILTER: Filter = Filter { fits, why };

pub fn fits(scene: &Scene<'_>, row: usize) -> bool {
    repelling(scene, row).is_none()
}

fn why<'a>(scene: &Scene<'a>, row: usize, reasons: &mut Vec<Reason<'a>>) {
    reasons.extend(repelling(scene, row).map(|taint| Reason::Taint {
        key: &taint.key,
        value: taint.value.as_deref().unwrap_or_default(),
        effect: &taint.effect,
    }));
}

fn repelling<'a>(scene: &Scene<'a>, row: usize) -> Option<&'a Taint> {
    let repels = |taint: &&Taint| {
        matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
            && !(taint.key == UNSCHEDULABLE && scene.table.cordoned[row])
            && !scene.shape.tolerations.iter().any(|toleration| tolerates(toleration, taint))
    };
    scene.table.taints[row].iter().find(repels)
}

pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
        return false;
    }
    let value = toleration.value.as_deref().unwrap_or_default();
    let taint_value = taint.value.as_deref().unwrap_or_default();
    let numbers = || Some((taint_value.parse::<i64>().ok()?, value.parse::<i64>().ok()?));
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "Exists" => true,
        "" | "Equal" => !key.is_empty() && value == taint_value,
        "Lt" => numbers().is_some_and(|(taint, own)| taint < own),
        "Gt" => numbers().is_some_and(|(taint, own)| taint > own),
        _ => false,
    }
}
