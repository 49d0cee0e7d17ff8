//! Restricted: what is held good practice for hardening pods, at some cost of compatibility.

use serde_json::Value;

use super::{Check, Fault, Pod, baseline::added, named};

pub const CHECKS: &[Check] = &[
    volumes,
    |pod| {
        let rule = "must set securityContext.allowPrivilegeEscalation=false";
        let applies = !pod.is_of_windows();
        pod.fault("allowPrivilegeEscalation != false", rule, |container| {
            applies && container["securityContext"]["allowPrivilegeEscalation"] != false
        })
    },
    capabilities,
    non_root,
    |pod| {
        let of_pod = is_root(pod.spec)
            .then(|| Fault { what: "runAsUser=0", details: vec!["pod must not set runAsUser=0".to_owned()] });
        of_pod.or_else(|| pod.fault("runAsUser=0", "must not set runAsUser=0", is_root))
    },
    seccomp,
];

/// Sources that show nothing of the node.
const VOLUMES: &[&str] = &[
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

fn is_root(own: &Value) -> bool {
    own["securityContext"]["runAsUser"] == 0
}

fn volumes(pod: &Pod<'_>) -> Option<Fault> {
    let all = pod.spec["volumes"].as_array().into_iter().flatten();
    let kind = |volume: &Value| volume.as_object()?.keys().find(|field| *field != "name").cloned();
    let bad: Vec<(&str, String)> = all
        .filter_map(|volume| Some((volume["name"].as_str()?, kind(volume)?)))
        .filter(|(_, kind)| !VOLUMES.contains(&&**kind))
        .collect();
    let names: Vec<&str> = bad.iter().map(|(name, _)| *name).collect();
    let mut kinds: Vec<String> = bad.iter().map(|(_, kind)| format!("{kind:?}")).collect();
    kinds.sort();
    kinds.dedup();
    let verb = if names.len() == 1 { "uses" } else { "use" };
    let plural = if kinds.len() == 1 { "" } else { "s" };
    let detail = format!("{} {verb} restricted volume type{plural} {}", named("volume", &names), kinds.join(", "));
    (!bad.is_empty()).then(|| Fault { what: "restricted volume types", details: vec![detail] })
}

fn capabilities(pod: &Pod<'_>) -> Option<Fault> {
    const WHAT: &str = "unrestricted capabilities";
    if pod.is_of_windows() {
        return None;
    }
    let keeps = |container: &Value| {
        let dropped = container["securityContext"]["capabilities"]["drop"].as_array();
        !dropped.into_iter().flatten().any(|name| name == "ALL")
    };
    let adds = |container: &Value| added(container).any(|name| name != "NET_BIND_SERVICE");
    let mut names: Vec<&str> = pod.containers().flat_map(added).filter(|name| *name != "NET_BIND_SERVICE").collect();
    names.sort_unstable();
    names.dedup();
    let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    let rule = format!("must not include {} in securityContext.capabilities.add", quoted.join(", "));
    let kept = pod.fault(WHAT, "must set securityContext.capabilities.drop=[\"ALL\"]", keeps);
    let more = pod.fault(WHAT, &rule, adds);
    let details: Vec<String> = [kept, more].into_iter().flatten().flat_map(|fault| fault.details).collect();
    (!details.is_empty()).then_some(Fault { what: WHAT, details })
}

/// Said by the pod, a container may leave it open; it may not take it back.
fn non_root(pod: &Pod<'_>) -> Option<Fault> {
    const WHAT: &str = "runAsNonRoot != true";
    let said = |own: &Value| own["securityContext"]["runAsNonRoot"].as_bool();
    let of_pod = said(pod.spec);
    let taken_back =
        pod.fault(WHAT, "must not set securityContext.runAsNonRoot=false", |container| said(container) == Some(false));
    taken_back.or_else(|| match of_pod {
        Some(true) => None,
        Some(false) => {
            let details = vec!["pod must not set securityContext.runAsNonRoot=false".to_owned()];
            pod.containers().any(|container| said(container) != Some(true)).then_some(Fault { what: WHAT, details })
        }
        None => {
            let rule = "must set securityContext.runAsNonRoot=true";
            let fault = pod.fault(WHAT, rule, |container| said(container) != Some(true))?;
            Some(Fault {
                details: fault.details.into_iter().map(|detail| format!("pod or {detail}")).collect(),
                ..fault
            })
        }
    })
}

fn seccomp(pod: &Pod<'_>) -> Option<Fault> {
    const WHAT: &str = "seccompProfile";
    if pod.is_of_windows() {
        return None;
    }
    let allows = |own: &Value| {
        let kind = own["securityContext"]["seccompProfile"]["type"].as_str();
        kind.map(|kind| ["RuntimeDefault", "Localhost"].contains(&kind))
    };
    let rule = "must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"";
    let of_pod = allows(pod.spec) == Some(true);
    let fault = pod.fault(WHAT, rule, |container| !allows(container).unwrap_or(of_pod))?;
    Some(Fault { details: fault.details.into_iter().map(|detail| format!("pod or {detail}")).collect(), ..fault })
}
