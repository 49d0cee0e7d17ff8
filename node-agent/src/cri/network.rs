//! The pod network where the runtime attaches pods. Services and names are the agent's all the same.

use std::{net::IpAddr, path::Path};

use k8s_openapi::api::core::v1::Pod;

use crate::{
    embedded::network::PodsNetwork,
    surface::{Cluster, Failure, Network, PodNetwork, PodRef},
};

pub struct GivenNetwork(pub PodsNetwork);

#[tonic::async_trait]
impl Network for GivenNetwork {
    async fn attach(&self, pod: &PodNetwork, _: &Path) -> Result<Vec<IpAddr>, Failure> {
        Err(Failure(format!("pod {} is attached by the runtime's network, not by the agent's", pod.pod.name)))
    }

    async fn detach(&self, _: &PodRef) -> Result<(), Failure> {
        Ok(())
    }

    async fn adopt(&self, _: &PodNetwork, _: &[IpAddr]) -> Result<(), Failure> {
        Ok(())
    }

    async fn apply(&self, cluster: &Cluster) -> Result<(), Failure> {
        self.0.apply(cluster).await
    }

    fn resolv_conf(&self, pod: &Pod) -> String {
        self.0.resolv_conf(pod)
    }
}
