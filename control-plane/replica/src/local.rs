//! Replicas of one process, with no network between them: what tests and benchmarks of them, and of what stands on them,
//! run on.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

use crate::{Member, Replica, Sent, Transport};

/// The replicas, by id, and which of them are cut off.
#[derive(Default)]
pub struct Local(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    replicas: BTreeMap<u64, Replica>,
    cut: BTreeSet<u64>,
}

impl Local {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The transport of one of them.
    pub fn wire(self: &Arc<Local>, from: u64) -> Arc<dyn Transport> {
        Arc::new(Wire { from, local: self.clone() })
    }

    /// From here on it is reached, by the id that it was opened with.
    pub fn add(&self, id: u64, replica: Replica) {
        self.lock().replicas.insert(id, replica);
    }

    pub fn remove(&self, id: u64) -> Option<Replica> {
        self.lock().replicas.remove(&id)
    }

    pub fn get(&self, id: u64) -> Option<Replica> {
        self.lock().replicas.get(&id).cloned()
    }

    pub fn ids(&self) -> Vec<u64> {
        self.lock().replicas.keys().copied().collect()
    }

    /// One that leads and is not cut off, and its id.
    pub fn leader(&self) -> Option<(u64, Replica)> {
        let inner = self.lock();
        let mut replicas = inner.replicas.iter().filter(|(id, _)| !inner.cut.contains(id));
        let leader = replicas.find(|(_, replica)| replica.role().borrow().leading);
        leader.map(|(id, replica)| (*id, replica.clone()))
    }

    /// Nothing comes from it or to it until it is healed.
    pub fn cut(&self, id: u64) {
        self.lock().cut.insert(id);
    }

    pub fn heal(&self, id: u64) {
        self.lock().cut.remove(&id);
    }
}

struct Wire {
    from: u64,
    local: Arc<Local>,
}

impl Wire {
    fn reach(&self, to: u64) -> Option<Replica> {
        let inner = self.local.lock();
        let is_cut = inner.cut.contains(&to) || inner.cut.contains(&self.from);
        inner.replicas.get(&to).filter(|_| !is_cut).cloned()
    }
}

impl Transport for Wire {
    fn send(&self, to: &Member, messages: Vec<Bytes>) {
        if let Some(replica) = self.reach(to.id) {
            replica.receive(messages);
        }
    }

    fn send_snapshot(
        &self,
        to: &Member,
        message: Bytes,
        mut data: Box<dyn Read + Send>,
        done: Box<dyn FnOnce(Sent) + Send>,
    ) {
        let replica = self.reach(to.id);
        // It takes as long as it takes, and the one that sends goes on.
        std::thread::spawn(move || {
            done(replica.map_or(Sent::Lost, |replica| Sent::of(&replica.receive_snapshot(message, &mut data))));
        });
    }
}
