//! What all workers of one agent share.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use copepod_api::quantity::Quantity;
use copepod_pods::{
    downward::Facts,
    env,
    resize::{self, Room},
};
use k8s_openapi::api::core::v1::{ConfigMap, ObjectFieldSelector, Pod, ResourceFieldSelector, Secret, Service};

use crate::{
    assignments::{Assignments, Place},
    events::Events,
    reports::Reports,
    surface::{Cluster, PodRef, Rooms},
    tokens::Tokens,
};

pub struct Machine {
    pub name: String,
    pub cgroup: String,
    pub data_dir: PathBuf,
    pub rooms: Rooms,
    pub host_ips: Vec<String>,
    pub allocatable: BTreeMap<String, Quantity>,
    /// The cluster's certificate authority; empty until known.
    pub authority: String,
    pub assignments: Mutex<Assignments>,
    pub cluster: Mutex<Cluster>,
    pub reports: Reports,
    pub events: Events,
    pub tokens: Tokens,
}

impl Machine {
    pub fn assignments(&self) -> MutexGuard<'_, Assignments> {
        // A panic while the lock was held has changed nothing half: every change is one insert or remove.
        self.assignments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn cluster(&self) -> MutexGuard<'_, Cluster> {
        self.cluster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        crate::config::pod_dir(&self.data_dir, uid)
    }

    /// The layout of `/var/log/pods`.
    pub fn log_dir(&self, pod: &PodRef) -> PathBuf {
        self.data_dir.join("logs").join(format!("{}_{}_{}", pod.namespace, pod.name, pod.uid))
    }

    pub fn log_path(&self, pod: &PodRef, container: &str, attempt: u32) -> PathBuf {
        self.log_dir(pod).join(container).join(format!("{attempt}.log"))
    }

    pub fn facts(&self, pod_ips: &[String]) -> Facts {
        Facts { host_ips: self.host_ips.clone(), pod_ips: pod_ips.to_vec(), allocatable: self.allocatable.clone() }
    }

    /// The services a pod of this namespace is told of in its environment.
    pub fn services_for(&self, namespace: &str) -> Vec<Service> {
        let cluster = self.cluster();
        let services = cluster.services.values().filter(|service| {
            let from = service.metadata.namespace.as_deref();
            from == Some(namespace)
                || (from == Some("default") && service.metadata.name.as_deref() == Some("kubernetes"))
        });
        services.map(|service| Service::clone(service)).collect()
    }

    /// What this machine has for a pod beside the others that it was given.
    pub fn room_beside(&self, uid: &str) -> Room {
        let assignments = self.assignments();
        let pods = assignments.of("pods").filter_map(|(_, bytes)| serde_json::from_slice::<Pod>(bytes).ok());
        let others: Vec<Pod> = pods.filter(|pod| pod.metadata.uid.as_deref() != Some(uid)).collect();
        Room { allocatable: self.allocatable.clone(), taken: resize::taken(others.iter()) }
    }

    fn object<T: serde::de::DeserializeOwned>(&self, plural: &str, namespace: &str, name: &str) -> Option<T> {
        let bytes: Bytes = self.assignments().get(&Place::new(plural, namespace, name))?.clone();
        serde_json::from_slice(&bytes)
            .map_err(|error| tracing::warn!(plural, namespace, name, %error, "an object cannot be decoded"))
            .ok()
    }

    pub fn secret(&self, namespace: &str, name: &str) -> Option<Secret> {
        self.object("secrets", namespace, name)
    }
}

/// Configuration as one pod may see it.
pub struct PodSources<'a> {
    pub machine: &'a Machine,
    pub pod: &'a Pod,
    pub pod_ips: &'a [String],
}

impl PodSources<'_> {
    fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }
}

impl env::Sources for PodSources<'_> {
    fn config_map(&self, name: &str) -> Option<ConfigMap> {
        self.machine.object("configmaps", self.namespace(), name)
    }

    fn secret(&self, name: &str) -> Option<Secret> {
        self.machine.secret(self.namespace(), name)
    }
}

impl copepod_volumes::Sources for PodSources<'_> {
    fn config_map(&self, name: &str) -> Option<ConfigMap> {
        env::Sources::config_map(self, name)
    }

    fn secret(&self, name: &str) -> Option<Secret> {
        env::Sources::secret(self, name)
    }

    fn field(&self, selector: &ObjectFieldSelector) -> Result<String, String> {
        copepod_pods::downward::field(self.pod, &selector.field_path, &self.machine.facts(self.pod_ips))
    }

    fn resource(&self, selector: &ResourceFieldSelector) -> Result<String, String> {
        copepod_pods::downward::resource(self.pod, "", selector, &self.machine.facts(self.pod_ips))
    }

    fn service_account_token(&self, audience: &str, expiration_seconds: i64) -> Option<String> {
        let uid = self.pod.metadata.uid.as_deref().unwrap_or_default();
        self.machine.tokens.get(uid, audience, expiration_seconds)
    }

    fn authority(&self) -> Option<String> {
        (!self.machine.authority.is_empty()).then(|| self.machine.authority.clone())
    }
}
