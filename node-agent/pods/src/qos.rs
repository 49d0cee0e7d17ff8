//! The quality of service class of a pod: which pods suffer first when a node runs out of something.

use copepod_api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};

use crate::spec;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QosClass {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl QosClass {
    pub fn name(self) -> &'static str {
        match self {
            QosClass::Guaranteed => "Guaranteed",
            QosClass::Burstable => "Burstable",
            QosClass::BestEffort => "BestEffort",
        }
    }

    /// Guaranteed if every container's requests equal its limits for CPU and memory; best effort if there are none.
    pub fn of(pod: &Pod) -> QosClass {
        let whole = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref());
        let all: Vec<Option<&ResourceRequirements>> = match whole {
            Some(resources)
                if amount(Some(resources), false, "cpu").is_some()
                    || amount(Some(resources), false, "memory").is_some()
                    || amount(Some(resources), true, "cpu").is_some()
                    || amount(Some(resources), true, "memory").is_some() =>
            {
                vec![Some(resources)]
            }
            _ => spec::all_containers(pod).map(|container| container.resources.as_ref()).collect(),
        };
        let mut any = false;
        let mut guaranteed = true;
        for resources in all {
            for name in ["cpu", "memory"] {
                let limit = amount(resources, true, name);
                let request = amount(resources, false, name).or(limit);
                any |= request.is_some() || limit.is_some();
                guaranteed &= limit.is_some() && request == limit;
            }
        }
        match (any, guaranteed) {
            (false, _) => QosClass::BestEffort,
            (true, true) => QosClass::Guaranteed,
            (true, false) => QosClass::Burstable,
        }
    }
}

/// A request or limit that is there and not zero.
pub fn amount(resources: Option<&ResourceRequirements>, limit: bool, name: &str) -> Option<Quantity> {
    let resources = resources?;
    let map = if limit { &resources.limits } else { &resources.requests };
    let quantity = Quantity::parse(&map.as_ref()?.get(name)?.0).ok()?;
    (!quantity.is_zero()).then_some(quantity)
}
