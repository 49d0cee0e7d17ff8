//! The nodes, as columns.
//!
//! Filters and scores run down one or two columns over thousands of nodes; a row of everything would drag all the rest
//! through the cache with it. A node keeps its row for life; rows of nodes that went are used again.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use copepod_api::{
    Health, Name, Object,
    k8s_openapi::api::core::v1::{Node, Taint},
};

use crate::{
    amounts::Amounts,
    candidates::Remembered,
    crowds::Crowds,
    shape::{HostPort, Labels, Shape},
    topology::Topology,
};

#[derive(Default)]
pub struct Table {
    rows: BTreeMap<Arc<str>, usize>,
    free: Vec<usize>,
    pub names: Vec<Option<Arc<str>>>,
    pub labels: Vec<Labels>,
    pub taints: Vec<Vec<Taint>>,
    pub cordoned: Vec<bool>,
    pub capacity: Vec<Amounts>,
    pub used: Vec<Amounts>,
    pub ports: Vec<BTreeMap<HostPort, usize>>,
    pub images: Vec<BTreeSet<String>>,
    pods_on: Vec<BTreeSet<Name>>,
    pods: BTreeMap<Name, Placed>,
    pub crowds: Crowds,
    pub remembered: Remembered,
    topologies: RefCell<BTreeMap<String, Arc<Topology>>>,
}

/// Labels that rules divide nodes by: a handful, as a rule.
const TOPOLOGIES_MAX: usize = 64;

/// What a node's change means here.
#[derive(Clone, Copy)]
pub struct Change {
    pub is_new: bool,
    pub matters: bool,
    /// Its labels: which domains it is in.
    pub domains: bool,
}

/// A pod on a node.
pub struct Placed {
    pub pod: Arc<Object>,
    pub node: Arc<str>,
    pub shape: Shape,
}

impl Table {
    pub fn knows(&self, node: &str) -> bool {
        self.rows.contains_key(node)
    }

    pub fn rows(&self) -> impl Iterator<Item = usize> + '_ {
        self.rows.values().copied()
    }

    pub fn count(&self) -> usize {
        self.rows.len()
    }

    pub fn row(&self, node: &str) -> Option<usize> {
        self.rows.get(node).copied()
    }

    pub fn name(&self, row: usize) -> Arc<str> {
        self.names[row].clone().unwrap_or_else(|| "".into())
    }

    /// Notes what a node is; `None` if it is no node that can be read.
    pub fn put_node(&mut self, object: &Object) -> Option<Change> {
        // Read and dropped: what matters of it is in the columns.
        let node: Node = object.decoded().ok()?;
        let name: Arc<str> = object.key.name.name.clone();
        let is_new = !self.knows(&name);
        let spec = node.spec.clone().unwrap_or_default();
        let status = node.status.as_ref();
        let taints = taints(object.node_facts().health, spec.taints.unwrap_or_default());
        let cordoned = spec.unschedulable == Some(true) || object.meta.is_leaving();
        let capacity = status
            .and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()))
            .map(Amounts::read)
            .unwrap_or_default();
        let images: BTreeSet<String> = status
            .and_then(|status| status.images.as_ref())
            .into_iter()
            .flatten()
            .flat_map(|image| image.names.clone().unwrap_or_default())
            .collect();
        let row = match self.rows.get(&name) {
            Some(row) => *row,
            None => self.new_row(name),
        };
        let labels = object.meta.labels.to_map();
        let domains = self.labels[row] != labels;
        let matters =
            self.taints[row] != taints || self.cordoned[row] != cordoned || self.capacity[row] != capacity || domains;
        if matters {
            self.remembered.clear();
        } else if self.images[row] != images {
            // Pods like it more or less for that, and may run there as before.
            self.remembered.touch(row);
        }
        if domains {
            self.topologies.get_mut().clear();
        }
        self.taints[row] = taints;
        self.cordoned[row] = cordoned;
        self.capacity[row] = capacity;
        self.images[row] = images;
        self.labels[row] = labels;
        Some(Change { is_new, matters, domains })
    }

    fn new_row(&mut self, name: Arc<str>) -> usize {
        let row = self.free.pop().unwrap_or_else(|| {
            self.names.push(None);
            self.labels.push(Labels::new());
            self.taints.push(Vec::new());
            self.cordoned.push(false);
            self.capacity.push(Amounts::default());
            self.used.push(Amounts::default());
            self.ports.push(BTreeMap::new());
            self.images.push(BTreeSet::new());
            self.pods_on.push(BTreeSet::new());
            self.names.len() - 1
        });
        self.names[row] = Some(name.clone());
        self.used[row] = Amounts::default();
        self.ports[row].clear();
        self.pods_on[row].clear();
        self.rows.insert(name, row);
        self.nodes_changed();
        row
    }

    fn nodes_changed(&mut self) {
        self.remembered.clear();
        self.topologies.get_mut().clear();
    }

    /// The domains of a label.
    pub fn topology(&self, key: &str) -> Arc<Topology> {
        if let Some(known) = self.topologies.borrow().get(key) {
            return known.clone();
        }
        let topology = Arc::new(Topology::of(self, key));
        let mut topologies = self.topologies.borrow_mut();
        if topologies.len() >= TOPOLOGIES_MAX {
            topologies.clear();
        }
        topologies.insert(key.to_owned(), topology.clone());
        topology
    }

    pub fn remove_node(&mut self, name: &str) -> bool {
        let Some(row) = self.rows.remove(name) else { return false };
        self.nodes_changed();
        self.names[row] = None;
        for pod in std::mem::take(&mut self.pods_on[row]) {
            if let Some(placed) = self.pods.get(&pod) {
                self.crowds.remove(&placed.shape, placed.pod.meta.is_leaving(), row);
            }
        }
        self.free.push(row);
        true
    }

    /// Notes that a pod takes room on a node.
    pub fn add(&mut self, pod: &Arc<Object>, node: &str, shape: &Shape) {
        let name = &pod.key.name;
        self.remove(name);
        if let Some(row) = self.row(node) {
            self.take(row, shape);
            self.pods_on[row].insert(name.clone());
            self.crowds.add(shape, pod.meta.is_leaving(), row);
        }
        self.pods.insert(name.clone(), Placed { pod: pod.clone(), node: node.into(), shape: shape.clone() });
    }

    /// The same pod at the same place, at a later revision; false where it is not known there.
    pub fn renew(&mut self, pod: &Arc<Object>) -> bool {
        match self.pods.get_mut(&pod.key.name) {
            Some(placed) if pod.node.as_deref() == Some(&*placed.node) => {
                placed.pod = pod.clone();
                true
            }
            _ => false,
        }
    }

    /// The number of the shape that a pod is placed as.
    pub fn shape_of(&self, name: &Name) -> Option<usize> {
        self.pods.get(name).map(|placed| placed.shape.id())
    }

    /// A pod takes no room any more; gives what it was.
    pub fn remove(&mut self, name: &Name) -> Option<Placed> {
        let placed = self.pods.remove(name)?;
        if let Some(row) = self.row(&placed.node)
            && self.pods_on[row].remove(name)
        {
            self.give_back(row, &placed.shape);
            self.crowds.remove(&placed.shape, placed.pod.meta.is_leaving(), row);
        }
        Some(placed)
    }

    /// Takes the room of one pod, without saying which: for trying.
    pub fn take(&mut self, row: usize, shape: &Shape) {
        self.used[row].add(&shape.asks);
        for port in &shape.ports {
            *self.ports[row].entry(port.clone()).or_insert(0) += 1;
        }
    }

    pub fn give_back(&mut self, row: usize, shape: &Shape) {
        self.used[row].subtract(&shape.asks);
        for port in &shape.ports {
            if let Some(users) = self.ports[row].get_mut(port) {
                *users -= 1;
                if *users == 0 {
                    self.ports[row].remove(port);
                }
            }
        }
    }
}

/// A node's taints, and those that follow from its state but may not have been written yet.
fn taints(health: Health, mut taints: Vec<Taint>) -> Vec<Taint> {
    let implied = match health {
        Health::Ready => None,
        Health::Silent => Some("node.kubernetes.io/unreachable"),
        Health::NotReady => Some("node.kubernetes.io/not-ready"),
    };
    if let Some(key) = implied.filter(|key| !taints.iter().any(|taint| taint.key == *key)) {
        taints.push(Taint { key: key.to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() });
    }
    taints
}
