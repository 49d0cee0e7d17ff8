//! The name of a collection of objects.

use std::{borrow::Cow, cmp::Ordering, fmt};

use serde::{Deserialize, Serialize};

/// Names a collection, `pods` or `deployments.apps`. It has no version: an object is one object, whatever version a
/// client addresses it by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Resource {
    pub group: Cow<'static, str>,
    pub plural: Cow<'static, str>,
}

impl Resource {
    pub const fn known(group: &'static str, plural: &'static str) -> Self {
        Resource { group: Cow::Borrowed(group), plural: Cow::Borrowed(plural) }
    }

    pub fn new(group: impl Into<String>, plural: impl Into<String>) -> Self {
        Resource { group: Cow::Owned(group.into()), plural: Cow::Owned(plural.into()) }
    }
}

impl Resource {
    /// The collection of this name; of those that most objects are in, without taking memory for it.
    pub fn named(group: &str, plural: &str) -> Self {
        let usual = USUAL.iter().find(|usual| usual.plural == plural && usual.group == group);
        usual.cloned().unwrap_or_else(|| Resource::new(group, plural))
    }
}

impl Ord for Resource {
    fn cmp(&self, other: &Resource) -> Ordering {
        order(&self.group, &other.group).then_with(|| order(&self.plural, &other.plural))
    }
}

impl PartialOrd for Resource {
    fn partial_cmp(&self, other: &Resource) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The order of the texts. Every look into a view compares a handful of resources, and most of them differ in their first
/// letter or are the very same text.
fn order(one: &str, other: &str) -> Ordering {
    if std::ptr::eq(one, other) {
        return Ordering::Equal;
    }
    let first = |text: &str| text.as_bytes().first().copied();
    first(one).cmp(&first(other)).then_with(|| one.cmp(other))
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() { f.write_str(&self.plural) } else { write!(f, "{}.{}", self.plural, self.group) }
    }
}

/// Where objects are many.
const USUAL: &[Resource] = &[
    PODS,
    EVENTS,
    CONFIG_MAPS,
    SECRETS,
    NODES,
    LEASES,
    SERVICES,
    ENDPOINT_SLICES,
    REPLICA_SETS,
    DEPLOYMENTS,
    NAMESPACES,
    SERVICE_ACCOUNTS,
];

pub const NAMESPACES: Resource = Resource::known("", "namespaces");
pub const NODES: Resource = Resource::known("", "nodes");
pub const PODS: Resource = Resource::known("", "pods");
pub const SERVICES: Resource = Resource::known("", "services");
pub const CONFIG_MAPS: Resource = Resource::known("", "configmaps");
pub const SECRETS: Resource = Resource::known("", "secrets");
pub const SERVICE_ACCOUNTS: Resource = Resource::known("", "serviceaccounts");
pub const EVENTS: Resource = Resource::known("", "events");
pub const DEPLOYMENTS: Resource = Resource::known("apps", "deployments");
pub const REPLICA_SETS: Resource = Resource::known("apps", "replicasets");
pub const ENDPOINT_SLICES: Resource = Resource::known("discovery.k8s.io", "endpointslices");
pub const NETWORK_POLICIES: Resource = Resource::known("networking.k8s.io", "networkpolicies");
pub const LEASES: Resource = Resource::known("coordination.k8s.io", "leases");
pub const POD_DISRUPTION_BUDGETS: Resource = Resource::known("policy", "poddisruptionbudgets");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_stand_in_the_order_of_their_texts() {
        let mut sorted =
            [PODS, DEPLOYMENTS, NODES, Resource::new("apps", "daemonsets"), Resource::new("", "pods"), LEASES];
        sorted.sort();
        let texts: Vec<String> =
            sorted.iter().map(|resource| format!("{}/{}", resource.group, resource.plural)).collect();
        assert!(texts.is_sorted_by_key(|text| text.split_once('/')), "{texts:?}");
        assert_eq!(PODS.cmp(&Resource::new("", "pods")), Ordering::Equal);
    }
}
