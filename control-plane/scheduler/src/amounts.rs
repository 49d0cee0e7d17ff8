//! How much of each resource a pod asks for, and a node has.

use std::collections::BTreeMap;

use copepod_api::{
    k8s_openapi::{
        api::core::v1::{Container, PodSpec},
        apimachinery::pkg::api::resource::Quantity as Written,
    },
    quantity::Quantity,
};

/// Thousandths of a CPU, bytes, pieces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    pub cpu: i64,
    pub memory: i64,
    pub storage: i64,
    pub pods: i64,
    /// Whatever else there is, by name: `example.com/gpu`, `hugepages-2Mi`.
    pub other: BTreeMap<String, i64>,
}

type List = BTreeMap<String, Written>;

impl Amounts {
    pub fn read(list: &List) -> Amounts {
        let mut amounts = Amounts::default();
        for (name, written) in list {
            // Validation lets no other text in.
            let quantity = Quantity::parse(&written.0).unwrap_or_default();
            match name.as_str() {
                "cpu" => amounts.cpu = quantity.milli(),
                "memory" => amounts.memory = quantity.value(),
                "ephemeral-storage" => amounts.storage = quantity.value(),
                "pods" => amounts.pods = quantity.value(),
                _ => {
                    amounts.other.insert(name.clone(), quantity.value());
                }
            }
        }
        amounts
    }

    /// What a pod asks for. Init containers run one after another before the others, except those that are always
    /// restarted: they stay, and run beside all that comes after them.
    pub fn of_pod(spec: &PodSpec) -> Amounts {
        let mut staying = Amounts::default();
        let mut peak = Amounts::default();
        for container in spec.init_containers.iter().flatten() {
            let own = of_container(container);
            let mut together = staying.clone();
            together.add(&own);
            if container.restart_policy.as_deref() == Some("Always") {
                staying = together.clone();
            }
            peak.raise_to(&together);
        }
        for container in &spec.containers {
            staying.add(&of_container(container));
        }
        peak.raise_to(&staying);
        if let Some(whole) = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()) {
            let whole = Amounts::read(whole);
            let said = |own: i64, sum: i64| if own > 0 { own } else { sum };
            peak.cpu = said(whole.cpu, peak.cpu);
            peak.memory = said(whole.memory, peak.memory);
        }
        if let Some(overhead) = &spec.overhead {
            peak.add(&Amounts::read(overhead));
        }
        peak.pods = 1;
        peak
    }

    /// By the name of the resource.
    pub fn of(&self, name: &str) -> i64 {
        match name {
            "cpu" => self.cpu,
            "memory" => self.memory,
            "ephemeral-storage" => self.storage,
            "pods" => self.pods,
            other => self.other.get(other).copied().unwrap_or(0),
        }
    }

    pub fn add(&mut self, other: &Amounts) {
        self.shift(other, 1);
    }

    pub fn subtract(&mut self, other: &Amounts) {
        self.shift(other, -1);
    }

    fn shift(&mut self, other: &Amounts, sign: i64) {
        self.cpu = self.cpu.saturating_add(sign * other.cpu);
        self.memory = self.memory.saturating_add(sign * other.memory);
        self.storage = self.storage.saturating_add(sign * other.storage);
        self.pods = self.pods.saturating_add(sign * other.pods);
        for (name, amount) in &other.other {
            let own = self.other.entry(name.clone()).or_insert(0);
            *own = own.saturating_add(sign * amount);
        }
    }

    fn raise_to(&mut self, other: &Amounts) {
        self.cpu = self.cpu.max(other.cpu);
        self.memory = self.memory.max(other.memory);
        self.storage = self.storage.max(other.storage);
        for (name, amount) in &other.other {
            let own = self.other.entry(name.clone()).or_insert(0);
            *own = (*own).max(*amount);
        }
    }
}

/// A limit without a request is a request too.
fn of_container(container: &Container) -> Amounts {
    let Some(resources) = &container.resources else { return Amounts::default() };
    let mut asked = resources.requests.clone().unwrap_or_default();
    for (name, limit) in resources.limits.iter().flatten() {
        asked.entry(name.clone()).or_insert_with(|| limit.clone());
    }
    Amounts::read(&asked)
}
