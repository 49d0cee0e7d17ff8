//! What the scheduler has to know about a pod, and nothing more.

use std::{collections::BTreeMap, sync::Arc};

use copepod_api::{
    k8s_openapi::api::core::v1::{
        NodeAffinity, Pod, PodAffinityTerm, Toleration, TopologySpreadConstraint, WeightedPodAffinityTerm,
    },
    selector::LabelSelector,
};

use crate::{amounts::Amounts, selectors::PodTerm};

pub type Labels = BTreeMap<String, String>;

#[derive(Clone)]
pub struct Shape(Arc<Parts>);

pub struct Parts {
    pub namespace: String,
    pub labels: Labels,
    /// The uid of the controller, whose pods are spread.
    pub owner: Option<String>,
    pub asks: Amounts,
    pub ports: Vec<HostPort>,
    pub node_selector: Labels,
    pub node_affinity: Option<NodeAffinity>,
    pub tolerations: Vec<Toleration>,
    pub near: Vec<PodTerm>,
    pub apart: Vec<PodTerm>,
    pub rather_near: Vec<(i64, PodTerm)>,
    pub rather_apart: Vec<(i64, PodTerm)>,
    pub spread: Vec<Spread>,
    pub images: Vec<String>,
}

/// A port of the node itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    pub protocol: String,
    pub port: i32,
    /// Empty for all addresses.
    pub ip: String,
}

/// A constraint on how pods lie over domains.
#[derive(Clone)]
pub struct Spread {
    pub key: String,
    pub max_skew: i64,
    pub min_domains: i64,
    pub required: bool,
    pub selector: LabelSelector,
    pub honors_affinity: bool,
    pub honors_taints: bool,
}

impl std::ops::Deref for Shape {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl Shape {
    pub fn of(pod: &Pod) -> Shape {
        let spec = pod.spec.clone().unwrap_or_default();
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let owners = pod.metadata.owner_references.iter().flatten();
        let affinity = spec.affinity.clone().unwrap_or_default();
        let required = |terms: Option<Vec<PodAffinityTerm>>| -> Vec<PodTerm> {
            terms.into_iter().flatten().map(|term| PodTerm::read(&term, &namespace, &labels)).collect()
        };
        let preferred = |terms: Option<Vec<WeightedPodAffinityTerm>>| -> Vec<(i64, PodTerm)> {
            let read = |term: WeightedPodAffinityTerm| {
                (i64::from(term.weight), PodTerm::read(&term.pod_affinity_term, &namespace, &labels))
            };
            terms.into_iter().flatten().map(read).collect()
        };
        let near = affinity.pod_affinity.unwrap_or_default();
        let apart = affinity.pod_anti_affinity.unwrap_or_default();
        Shape(Arc::new(Parts {
            owner: owners.filter(|owner| owner.controller == Some(true)).map(|owner| owner.uid.clone()).next(),
            asks: Amounts::of_pod(&spec),
            ports: host_ports(&spec),
            node_selector: spec.node_selector.unwrap_or_default(),
            node_affinity: affinity.node_affinity,
            tolerations: spec.tolerations.unwrap_or_default(),
            near: required(near.required_during_scheduling_ignored_during_execution),
            apart: required(apart.required_during_scheduling_ignored_during_execution),
            rather_near: preferred(near.preferred_during_scheduling_ignored_during_execution),
            rather_apart: preferred(apart.preferred_during_scheduling_ignored_during_execution),
            spread: spec
                .topology_spread_constraints
                .into_iter()
                .flatten()
                .map(|constraint| Spread::read(constraint, &labels))
                .collect(),
            images: spec.containers.into_iter().filter_map(|container| container.image).collect(),
            namespace,
            labels,
        }))
    }

    /// Stands for this shape while it is held somewhere.
    pub fn id(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    /// May run on the same nodes, and likes them as much, whatever else runs there.
    pub fn runs_where(&self, other: &Shape) -> bool {
        self.node_selector == other.node_selector
            && self.node_affinity == other.node_affinity
            && self.tolerations == other.tolerations
            && self.images == other.images
    }

    /// Where one pod goes depends on where the others of its class went, beyond what a heap can follow.
    pub fn minds_others(&self) -> bool {
        !(self.near.is_empty()
            && self.apart.is_empty()
            && self.rather_near.is_empty()
            && self.rather_apart.is_empty()
            && self.spread.is_empty())
    }
}

impl Spread {
    fn read(constraint: TopologySpreadConstraint, labels: &Labels) -> Spread {
        let selector = constraint.label_selector.unwrap_or_default();
        let selector = crate::selectors::with_keys(selector, constraint.match_label_keys.as_deref(), None, labels);
        Spread {
            key: constraint.topology_key,
            max_skew: constraint.max_skew.into(),
            min_domains: constraint.min_domains.unwrap_or(1).into(),
            required: constraint.when_unsatisfiable == "DoNotSchedule",
            selector,
            honors_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
            honors_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
        }
    }
}

fn host_ports(spec: &copepod_api::k8s_openapi::api::core::v1::PodSpec) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = port.host_port.or((spec.host_network == Some(true)).then_some(port.container_port))?;
            let ip = port.host_ip.clone().unwrap_or_default();
            (number > 0).then(|| HostPort {
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                port: number,
                ip: if matches!(ip.as_str(), "0.0.0.0" | "::") { String::new() } else { ip },
            })
        })
        .collect()
}
