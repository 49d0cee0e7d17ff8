//! What a job makes of the end of its pods: policies for failures (KEP-3329) and for success (KEP-3998).

use std::collections::BTreeSet;

use copepod_api::k8s_openapi::api::{
    batch::v1::{JobSpec, PodFailurePolicyRule},
    core::v1::{ContainerStatus, Pod},
};

use super::indexes;
use crate::pods;

/// What the failure of a pod means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// It counts towards the limit.
    Counts,
    Ignored,
    /// The job has failed, for this reason.
    FailsJob(String),
    /// The index has failed and is not tried again.
    FailsIndex,
}

pub fn of_failure(spec: &JobSpec, namespace: &str, name: &str, pod: &Pod) -> Meaning {
    let rules = spec.pod_failure_policy.iter().flat_map(|policy| &policy.rules);
    for (place, rule) in rules.enumerate() {
        let Some(why) = matched(rule, namespace, name, pod) else { continue };
        return match rule.action.as_str() {
            "Ignore" => Meaning::Ignored,
            "FailIndex" => Meaning::FailsIndex,
            "FailJob" => Meaning::FailsJob(format!("{why} matching FailJob rule at index {place}")),
            _ => Meaning::Counts,
        };
    }
    Meaning::Counts
}

fn matched(rule: &PodFailurePolicyRule, namespace: &str, name: &str, pod: &Pod) -> Option<String> {
    if let Some(codes) = &rule.on_exit_codes {
        let found = containers(pod).find_map(|container| {
            let code = container.state.as_ref()?.terminated.as_ref()?.exit_code;
            let is_meant = codes.container_name.as_ref().is_none_or(|wanted| *wanted == container.name);
            let is_listed = codes.values.contains(&code);
            // A container that ended well does not make its pod fail.
            let holds = code != 0 && is_meant && (codes.operator == "In") == is_listed;
            holds.then(|| (container.name.clone(), code))
        });
        return found.map(|(container, code)| {
            format!("Container {container} for pod {namespace}/{name} failed with exit code {code}")
        });
    }
    let wanted = rule.on_pod_conditions.iter().flatten();
    let found = wanted.filter_map(|wanted| {
        let own = pods::condition(pod, &wanted.type_)?;
        (own.status == wanted.status.clone().unwrap_or("True".to_owned())).then(|| wanted.type_.clone())
    });
    found.map(|type_| format!("Pod {namespace}/{name} has condition {type_}")).next()
}

fn containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let lists = [
        status.and_then(|status| status.container_statuses.as_ref()),
        status.and_then(|status| status.init_container_statuses.as_ref()),
    ];
    lists.into_iter().flatten().flatten()
}

/// The rule by which the indexes that succeeded are enough, where there is one.
pub fn of_success(spec: &JobSpec, succeeded: &BTreeSet<u32>) -> Option<String> {
    let below = u32::try_from(spec.completions.unwrap_or(0)).unwrap_or(0);
    let rules = spec.success_policy.iter().flat_map(|policy| &policy.rules);
    rules.enumerate().find_map(|(place, rule)| {
        let named = rule.succeeded_indexes.as_ref().map(|text| indexes::parse(text, below));
        let counted = match &named {
            Some(named) => named.intersection(succeeded).count(),
            None => succeeded.len(),
        };
        let wanted = match (rule.succeeded_count, &named) {
            (Some(count), _) => usize::try_from(count).unwrap_or(usize::MAX),
            (None, Some(named)) => named.len(),
            (None, None) => return None,
        };
        (counted >= wanted).then(|| format!("Matched rules at index {place}"))
    })
}
