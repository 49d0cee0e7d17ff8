//! Whether a pod puts up with a taint of its node.

use copepod_api::k8s_openapi::api::core::v1::{Pod, Taint, Toleration};

pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
        return false;
    }
    let value = toleration.value.as_deref().unwrap_or_default();
    let taint_value = taint.value.as_deref().unwrap_or_default();
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "Exists" => true,
        "" | "Equal" => !key.is_empty() && value == taint_value,
        "Lt" => compare(taint_value, value).is_some_and(|(taint, own)| taint < own),
        "Gt" => compare(taint_value, value).is_some_and(|(taint, own)| taint > own),
        _ => false,
    }
}

fn compare(left: &str, right: &str) -> Option<(i64, i64)> {
    Some((left.parse().ok()?, right.parse().ok()?))
}

/// The tolerations of a pod that match a taint.
pub fn matching<'a>(pod: &'a Pod, taint: &'a Taint) -> impl Iterator<Item = &'a Toleration> {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_ref());
    tolerations.into_iter().flatten().filter(|toleration| tolerates(toleration, taint))
}
