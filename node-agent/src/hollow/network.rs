//! Addresses that lead nowhere.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use k8s_openapi::api::core::v1::Pod;

use crate::surface::{Cluster, Failure, Network, PodNetwork, PodRef};

/// Hears what the data path is to be made of, when it would be made.
pub type Told = Arc<dyn Fn(&Cluster) + Send + Sync>;

pub struct HollowNetwork {
    told: Option<Told>,
    given: Mutex<Given>,
}

struct Given {
    next: Ipv4Addr,
    addresses: BTreeMap<String, Ipv4Addr>,
}

impl HollowNetwork {
    pub fn new(first: Ipv4Addr, told: Option<Told>) -> HollowNetwork {
        HollowNetwork { told, given: Mutex::new(Given { next: first, addresses: BTreeMap::new() }) }
    }

    fn given(&self) -> MutexGuard<'_, Given> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[tonic::async_trait]
impl Network for HollowNetwork {
    async fn attach(&self, pod: &PodNetwork, _: &Path) -> Result<Vec<IpAddr>, Failure> {
        let mut given = self.given();
        if let Some(address) = given.addresses.get(&pod.pod.uid) {
            return Ok(vec![IpAddr::V4(*address)]);
        }
        let address = given.next;
        given.next = Ipv4Addr::from_bits(address.to_bits().wrapping_add(1));
        given.addresses.insert(pod.pod.uid.clone(), address);
        Ok(vec![IpAddr::V4(address)])
    }

    async fn detach(&self, pod: &PodRef) -> Result<(), Failure> {
        self.given().addresses.remove(&pod.uid);
        Ok(())
    }

    async fn adopt(&self, pod: &PodNetwork, addresses: &[IpAddr]) -> Result<(), Failure> {
        if let Some(IpAddr::V4(address)) = addresses.first() {
            self.given().addresses.insert(pod.pod.uid.clone(), *address);
        }
        Ok(())
    }

    async fn apply(&self, cluster: &Cluster) -> Result<(), Failure> {
        if let Some(told) = &self.told {
            told(cluster);
        }
        Ok(())
    }

    fn resolv_conf(&self, _: &Pod) -> String {
        "nameserver 10.96.0.10\n".into()
    }
}
