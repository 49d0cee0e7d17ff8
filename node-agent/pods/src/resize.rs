//! Other amounts of CPU and memory for containers that run: what was asked for against what they were given.
//!
//! A change is taken when the machine has room for the whole pod as it shall be. Until then the pod runs as it does and
//! says why. What is taken is carried out container by container, in place or by a restart, as each asks for.

use std::collections::BTreeMap;

use copepod_api::{
    quantity::Quantity,
    time::{SignedDuration, Timestamp},
};
use k8s_openapi::{
    api::core::v1::{Container, Pod, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity as Written,
};

use crate::{
    Observed,
    next::seen,
    observed::{Run, Seen},
    qos::amount,
    spec,
};

/// What can change while a container runs.
const RESIZABLE: [&str; 2] = ["cpu", "memory"];

/// How long a change that finds no room waits before it is looked at again. Room comes when another pod leaves, which
/// nobody tells this pod of; sums over the pods of a machine are cheap.
pub const LOOK_AGAIN: SignedDuration = SignedDuration::from_secs(5);

/// What the machine has, and what others were promised of it.
#[derive(Clone, Debug, Default)]
pub struct Room {
    pub allocatable: BTreeMap<String, Quantity>,
    pub taken: BTreeMap<String, Quantity>,
}

/// Why a change is not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// `Infeasible`: never on this machine. `Deferred`: not now.
    pub reason: &'static str,
    pub message: String,
}

/// Some container runs with other amounts than it shall have.
pub fn is_wanted(pod: &Pod, observed: &Observed) -> bool {
    spec::all_containers(pod).any(|container| changed(container, observed))
}

fn changed(container: &Container, observed: &Observed) -> bool {
    let run = seen(observed, container).and_then(Seen::running);
    run.is_some_and(|(run, _)| differs(container, run))
}

pub(crate) fn differs(container: &Container, run: &Run) -> bool {
    RESIZABLE.iter().any(|name| differs_in(container, run, name))
}

fn differs_in(container: &Container, run: &Run, name: &str) -> bool {
    let of = |resources: Option<&ResourceRequirements>| [amount(resources, false, name), amount(resources, true, name)];
    of(container.resources.as_ref()) != of(run.resources.as_ref())
}

/// The container wants to be run anew where such an amount changes.
pub(crate) fn restarts(container: &Container, run: &Run) -> bool {
    let policies = container.resize_policy.iter().flatten();
    policies
        .filter(|policy| policy.restart_policy == "RestartContainer")
        .any(|policy| differs_in(container, run, &policy.resource_name))
}

/// What keeps a change from being carried out, if anything does.
pub fn pending(pod: &Pod, observed: &Observed) -> Option<Pending> {
    let room = observed.room.as_ref().filter(|_| is_wanted(pod, observed))?;
    let wanted = |name: &str| -> Quantity {
        let asked =
            spec::containers(pod).iter().chain(spec::init_containers(pod).iter().filter(|c| spec::is_sidecar(c)));
        asked.filter_map(|container| requested(container, name)).sum()
    };
    // CPU is counted in thousandths and memory in bytes, as in Kubernetes' words for the same.
    let number = |name: &str, amount: Quantity| if name == "cpu" { amount.milli() } else { amount.value() };
    let find = |reason: &'static str, what: &str, judge: &dyn Fn(&str, Quantity) -> Option<String>| {
        RESIZABLE.into_iter().find_map(|name| {
            let wanted = wanted(name);
            let judged = judge(name, wanted)?;
            let asked = number(name, wanted);
            Some(Pending {
                reason,
                message: format!("Node didn't have enough {what}: {name}, requested: {asked}, {judged}"),
            })
        })
    };
    let capacity = |name: &str, wanted: Quantity| {
        let all = *room.allocatable.get(name)?;
        (wanted > all).then(|| format!("capacity: {}", number(name, all)))
    };
    let left = |name: &str, wanted: Quantity| {
        let all = *room.allocatable.get(name)?;
        let used = room.taken.get(name).copied().unwrap_or_default();
        (wanted + used > all).then(|| format!("used: {}, capacity: {}", number(name, used), number(name, all)))
    };
    find("Infeasible", "capacity", &capacity).or_else(|| find("Deferred", "resource", &left))
}

fn requested(container: &Container, name: &str) -> Option<Quantity> {
    let resources = container.resources.as_ref();
    amount(resources, false, name).or_else(|| amount(resources, true, name))
}

/// What the pods of a machine asked for together.
pub fn taken<'a>(pods: impl Iterator<Item = &'a Pod>) -> BTreeMap<String, Quantity> {
    let mut taken = BTreeMap::new();
    for pod in pods.filter(|pod| spec::final_phase(pod).is_none()) {
        for name in RESIZABLE {
            let sum: Quantity = spec::containers(pod).iter().filter_map(|container| requested(container, name)).sum();
            *taken.entry(name.to_owned()).or_default() += sum;
        }
    }
    taken
}

/// What the container was promised: the requests of its spec once they are taken, until then those it runs with.
pub(crate) fn allocated(container: &Container, run: Option<&Run>, pending: bool) -> Option<BTreeMap<String, Written>> {
    let own = run.filter(|run| pending && differs(container, run)).map(|run| run.resources.as_ref());
    own.unwrap_or(container.resources.as_ref())?.requests.clone()
}

/// When a change that found no room is looked at again.
pub(crate) fn again(now: Timestamp) -> Timestamp {
    crate::backoff::later(now, LOOK_AGAIN)
}
