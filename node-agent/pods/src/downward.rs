//! What a pod may know about itself: `fieldRef` and `resourceFieldRef`.

use std::collections::BTreeMap;

use copepod_api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Pod, ResourceFieldSelector};

use crate::spec;

/// What is known about the pod that its object may not say yet.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub host_ips: Vec<String>,
    pub pod_ips: Vec<String>,
    /// What the node can give: a container without a limit is told this.
    pub allocatable: BTreeMap<String, Quantity>,
}

/// The text at a field path.
pub fn field(pod: &Pod, path: &str, facts: &Facts) -> Result<String, String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    if let Some((map, key)) = subscript(path) {
        let from = match map {
            "metadata.labels" => &meta.labels,
            "metadata.annotations" => &meta.annotations,
            _ => {
                return Err(format!(
                    "field path {path:?} is not supported: only labels and annotations have subscripts"
                ));
            }
        };
        return Ok(from.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    let text = match path {
        "metadata.name" => meta.name.clone(),
        "metadata.namespace" => meta.namespace.clone(),
        "metadata.uid" => meta.uid.clone(),
        "metadata.labels" => Some(lines(meta.labels.as_ref())),
        "metadata.annotations" => Some(lines(meta.annotations.as_ref())),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()),
        "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()),
        "spec.restartPolicy" => spec.and_then(|spec| spec.restart_policy.clone()),
        "spec.schedulerName" => spec.and_then(|spec| spec.scheduler_name.clone()),
        "status.hostIP" => facts.host_ips.first().cloned(),
        "status.hostIPs" => Some(facts.host_ips.join(",")),
        "status.podIP" => facts.pod_ips.first().cloned(),
        "status.podIPs" => Some(facts.pod_ips.join(",")),
        "status.phase" => pod.status.as_ref().and_then(|status| status.phase.clone()),
        _ => return Err(format!("field path {path:?} is not supported")),
    };
    Ok(text.unwrap_or_default())
}

/// The amount of a container's resource, in units of the divisor, rounded up.
pub fn resource(pod: &Pod, own: &str, selector: &ResourceFieldSelector, facts: &Facts) -> Result<String, String> {
    let name = selector.container_name.as_deref().filter(|name| !name.is_empty()).unwrap_or(own);
    let container = spec::container(pod, name).ok_or_else(|| format!("container {name:?} is not in the pod"))?;
    let (kind, resource) = selector
        .resource
        .split_once('.')
        .filter(|(kind, _)| matches!(*kind, "limits" | "requests"))
        .ok_or_else(|| format!("resource {:?} must begin with `limits.` or `requests.`", selector.resource))?;
    let resources = container.resources.as_ref();
    let listed = |limit: bool| {
        let map = resources.and_then(|r| if limit { r.limits.as_ref() } else { r.requests.as_ref() });
        map.and_then(|map| map.get(resource)).and_then(|quantity| Quantity::parse(&quantity.0).ok())
    };
    let amount = if kind == "limits" {
        listed(true).filter(|q| !q.is_zero()).or_else(|| facts.allocatable.get(resource).copied()).unwrap_or_default()
    } else {
        listed(false).unwrap_or_default()
    };
    let divisor = match &selector.divisor {
        Some(divisor) => Quantity::parse(&divisor.0)?,
        None => Quantity::from_value(1),
    };
    let divisor = if divisor.is_zero() { Quantity::from_value(1) } else { divisor };
    let count = if resource == "cpu" {
        div_up(amount.milli(), divisor.milli())
    } else {
        div_up(amount.value(), divisor.value())
    };
    Ok(count.to_string())
}

fn div_up(amount: i64, divisor: i64) -> i64 {
    let divisor = divisor.max(1);
    amount.max(0).checked_add(divisor - 1).unwrap_or(i64::MAX) / divisor
}

/// `metadata.labels['app']` as its map and key.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once('[')?;
    let key = rest.strip_suffix(']')?;
    let quote = |q: char| key.strip_prefix(q).and_then(|key| key.strip_suffix(q));
    Some((map, quote('\'').or_else(|| quote('"')).unwrap_or(key)))
}

/// One `key="value"` a line, the value quoted as Go quotes.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let Some(map) = map else { return String::new() };
    map.iter().map(|(key, value)| format!("{key}={value:?}")).collect::<Vec<_>>().join("\n")
}
