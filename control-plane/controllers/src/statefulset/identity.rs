//! Who the pods of a set are: `web-0`, `web-1`, and what makes each of them that one.

use copepod_api::{Object, Of, k8s_openapi::api::apps::v1::StatefulSet};
use serde_json::{Value, json};

use super::claims;
use crate::made;

/// The labels by which a pod tells who it is, and of which revision. Services select by the first.
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";
pub const REVISION: &str = "controller-revision-hash";

pub fn name(set: &str, ordinal: i64) -> String {
    format!("{set}-{ordinal}")
}

/// Which one of a set a pod of this name is. `web-01` is none: the set would never call one so.
pub fn ordinal(set: &str, pod: &str) -> Option<i64> {
    let digits = pod.strip_prefix(set)?.strip_prefix('-')?;
    let ordinal = digits.parse::<u32>().ok()?;
    (ordinal.to_string() == digits).then(|| ordinal.into())
}

/// The set that a pod of this name would be of.
pub fn set_of(pod: &str) -> Option<&str> {
    let (set, _) = pod.rsplit_once('-')?;
    ordinal(set, pod).map(|_| set)
}

pub fn revision(pod: &Object) -> Option<&str> {
    pod.meta.labels.get(REVISION)
}

/// A pod with this ordinal, of a template and the revision that the template is.
pub fn pod(set: &Of<StatefulSet>, ordinal: i64, template: &Value, revision: &str) -> Value {
    let name = name(set.key().name(), ordinal);
    let mut pod = made::pod(set, template);
    for (label, value) in labels(&name, ordinal) {
        pod["metadata"]["labels"][label] = json!(value);
    }
    pod["metadata"]["labels"][REVISION] = json!(revision);
    pod["metadata"]["name"] = json!(name);
    pod["spec"]["hostname"] = json!(name);
    if let Some(service) = set.spec.as_ref().and_then(|spec| spec.service_name.as_deref()) {
        pod["spec"]["subdomain"] = json!(service);
    }
    let volumes = pod["spec"]["volumes"].take();
    let volumes = claims::volumes(set, ordinal, volumes.as_array().map_or(&[], Vec::as_slice));
    if !volumes.is_empty() {
        pod["spec"]["volumes"] = json!(volumes);
    } else if let Some(spec) = pod["spec"].as_object_mut() {
        spec.remove("volumes");
    }
    pod
}

/// What an adopted pod lacks to be who it is, as a merge patch. The rest of a pod cannot be changed any more.
pub fn repaired(pod: &Object, ordinal: i64) -> Option<Value> {
    let mut patch = json!({});
    for (label, value) in labels(pod.key.name(), ordinal) {
        if pod.meta.labels.get(label) != Some(value.as_str()) {
            patch["metadata"]["labels"][label] = json!(value);
        }
    }
    (patch != json!({})).then_some(patch)
}

fn labels(name: &str, ordinal: i64) -> [(&'static str, String); 2] {
    [(POD_NAME, name.to_owned()), (POD_INDEX, ordinal.to_string())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_number_makes_a_member() {
        assert_eq!(ordinal("web", "web-0"), Some(0));
        assert_eq!(ordinal("web", "web-17"), Some(17));
        for stranger in ["web", "web-", "web-01", "web-x", "web-+1", "web--1", "web-db-0", "web-99999999999", "other-0"]
        {
            assert_eq!(ordinal("web", stranger), None, "{stranger}");
        }
        assert_eq!(set_of("web-db-3"), Some("web-db"));
        assert_eq!(set_of("web-3f"), None);
    }
}
