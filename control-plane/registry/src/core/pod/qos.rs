//! The quality of service of a pod, from what its containers ask for.

use std::collections::BTreeMap;

use copepod_api::quantity::Quantity;
use serde_json::Value;

use crate::json::items;

const COMPUTE: &[&str] = &["cpu", "memory"];

/// `Guaranteed`: every container has limits for cpu and memory, and asks for just that. `BestEffort`: none asks for or
/// is limited in anything. `Burstable`: all else.
pub fn class(pod: &Value) -> &'static str {
    let containers = || items(pod, "/spec/containers").iter().chain(items(pod, "/spec/initContainers"));
    let mut guaranteed = true;
    let mut any = false;
    for container in containers() {
        let (requests, limits) = (amounts(container, "requests"), amounts(container, "limits"));
        any |= !requests.is_empty() || !limits.is_empty();
        guaranteed &= limits.len() == COMPUTE.len()
            && COMPUTE.iter().all(|name| requests.get(name).is_none_or(|wanted| limits.get(name) == Some(wanted)));
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

fn amounts(container: &Value, which: &str) -> BTreeMap<&'static str, i64> {
    COMPUTE
        .iter()
        .filter_map(|name| {
            let text = container.get("resources")?.get(which)?.get(name)?.as_str()?;
            let milli = Quantity::parse(text).ok()?.milli();
            (milli > 0).then_some((*name, milli))
        })
        .collect()
}
