//! How many pods a deployment may have and must have while it rolls.

use copepod_api::k8s_openapi::{api::apps::v1::DeploymentSpec, apimachinery::pkg::util::intstr::IntOrString};

use crate::percent;

/// `maxSurge` and `maxUnavailable` where nothing is said.
const DEFAULT_SHARE: &str = "25%";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    pub replicas: i32,
    pub max_surge: i32,
    pub max_unavailable: i32,
}

impl Sizes {
    pub fn of(spec: &DeploymentSpec) -> Sizes {
        let replicas = spec.replicas.unwrap_or(1).max(0);
        if is_recreate(spec) {
            return Sizes { replicas, max_surge: 0, max_unavailable: 0 };
        }
        let rolling = spec.strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
        let default = IntOrString::String(DEFAULT_SHARE.to_owned());
        let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref()).unwrap_or(&default);
        let unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref()).unwrap_or(&default);
        let max_surge = percent::of(surge, replicas, percent::Round::Up);
        let mut max_unavailable = percent::of(unavailable, replicas, percent::Round::Down);
        if max_surge == 0 && max_unavailable == 0 {
            // Percents of a small number may both be nothing, and then nothing could ever move.
            max_unavailable = 1;
        }
        Sizes { replicas, max_surge, max_unavailable: max_unavailable.min(replicas) }
    }

    /// Never more pods in all.
    pub fn ceiling(&self) -> i32 {
        self.replicas.saturating_add(self.max_surge)
    }

    /// Never fewer available.
    pub fn floor(&self) -> i32 {
        self.replicas - self.max_unavailable
    }
}

pub fn is_recreate(spec: &DeploymentSpec) -> bool {
    spec.strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
}
