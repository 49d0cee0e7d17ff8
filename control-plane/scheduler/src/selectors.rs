//! Which pods a rule of another pod speaks about, and which nodes a rule about nodes.

use copepod_api::{
    k8s_openapi::{
        api::core::v1::{Namespace, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm},
        apimachinery::pkg::apis::meta::v1::{LabelSelector as Written, LabelSelectorRequirement},
    },
    selector::LabelSelector,
};
use copepod_store::View;

use crate::shape::Labels;

/// "Pods like these, in these namespaces, within one domain of this key."
#[derive(Clone)]
pub struct PodTerm {
    pub key: String,
    selector: LabelSelector,
    namespaces: Vec<String>,
    namespace_selector: Option<LabelSelector>,
}

impl PodTerm {
    pub fn read(term: &PodAffinityTerm, namespace: &str, labels: &Labels) -> PodTerm {
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(namespace.to_owned());
        }
        let selector = match &term.label_selector {
            Some(selector) => with_keys(
                selector.clone(),
                term.match_label_keys.as_deref(),
                term.mismatch_label_keys.as_deref(),
                labels,
            ),
            None => LabelSelector::nothing(),
        };
        PodTerm {
            key: term.topology_key.clone(),
            selector,
            namespaces,
            namespace_selector: term.namespace_selector.as_ref().map(read),
        }
    }

    pub fn matches(&self, view: &View, namespace: &str, labels: &Labels) -> bool {
        if !self.selector.matches(labels) {
            return false;
        }
        self.namespaces.iter().any(|own| own == namespace)
            || self.namespace_selector.as_ref().is_some_and(|selector| {
                selector.is_everything()
                    || view
                        .get::<Namespace>("", namespace)
                        .is_some_and(|namespace| selector.matches(&namespace.meta().labels))
            })
    }
}

/// A selector that cannot be read selects nothing; validation lets none in.
fn read(selector: &Written) -> LabelSelector {
    LabelSelector::from_typed(selector).unwrap_or_else(|_| LabelSelector::nothing())
}

/// A selector that also asks for the pod's own values of some labels, or for others than its own.
pub fn with_keys(
    mut selector: Written,
    same: Option<&[String]>,
    other: Option<&[String]>,
    labels: &Labels,
) -> LabelSelector {
    for (keys, operator) in [(same, "In"), (other, "NotIn")] {
        for (key, value) in keys.into_iter().flatten().filter_map(|key| labels.get_key_value(key)) {
            selector.match_expressions.get_or_insert_default().push(LabelSelectorRequirement {
                key: key.clone(),
                operator: operator.to_owned(),
                values: Some(vec![value.clone()]),
            });
        }
    }
    read(&selector)
}

/// Every requirement of a term holds. A term without any selects nothing.
pub fn node_term_matches(term: &NodeSelectorTerm, name: &str, labels: &Labels) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    expressions.iter().all(|requirement| holds(requirement, labels.get(&requirement.key).map(String::as_str)))
        && fields.iter().all(|requirement| holds(requirement, (requirement.key == "metadata.name").then_some(name)))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let is_among = |value: &str| values.iter().any(|own| own == value);
    let numbers = || Some((value?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match requirement.operator.as_str() {
        "In" => value.is_some_and(is_among),
        "NotIn" => !value.is_some_and(is_among),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(value, bound)| value > bound),
        "Lt" => numbers().is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}
