//! The loops that make the world follow its description.
//!
//! A controller is a pure function: it looks at a view and at one key, and says in a plan what should change. It holds no
//! client, reads no clock, remembers nothing between two calls. What wakes it only says *that* it should look; what it
//! does follows from the view alone, so there is one path after an event and after a restart.
//!
//! A new controller is a file with a `CONTROLLER` in it, and a line in `ALL`.

pub mod agenda;
pub mod clusterrole_aggregation;
pub mod cronjob;
pub mod definitions;
pub mod deployment;
pub mod disruption;
pub mod endpoints;
pub mod endpointslice;
pub mod endpointslicemirroring;
pub mod events;
pub mod flowschema;
pub mod garbage_collector;
pub mod job;
pub mod namespace;
pub mod node_lifecycle;
pub mod podgc;
pub mod replicaset;
pub mod replicationcontroller;
pub mod resourcequota;
pub mod serviceaccount;
pub mod statefulset;

mod hash;
mod made;
mod owned;
mod percent;
mod pods;
mod replicas;
mod time;
mod tolerations;
#[cfg(test)]
mod world;
mod write;

use copepod_api::{Key, Plan, Status, Timestamp};
use copepod_store::{Event, View};

pub struct Controller {
    pub name: &'static str,
    /// Which keys of this controller an event makes dirty. The view is the one after the event; the object before and
    /// after is in the event.
    pub wakes: fn(&View, &Event) -> Vec<Key>,
    /// Every key it should look at when a leader starts.
    pub all: fn(&View) -> Vec<Key>,
    pub reconcile: fn(&View, &Key, now: Timestamp) -> Plan,
    /// What to say about a plan that the registry would not have: its refusal is the same on every newer view until
    /// somebody changes something, so people must hear of it.
    pub refused: fn(&View, &Key, &Status, now: Timestamp) -> Plan,
}

/// For controllers whose requests are never refused for good, or whom nobody would ask.
const SILENT: fn(&View, &Key, &Status, Timestamp) -> Plan = |_, _, _, _| Plan::nothing();

pub const ALL: &[Controller] = &[
    deployment::CONTROLLER,
    replicaset::CONTROLLER,
    replicationcontroller::CONTROLLER,
    statefulset::CONTROLLER,
    job::CONTROLLER,
    cronjob::CONTROLLER,
    endpointslice::CONTROLLER,
    endpointslicemirroring::CONTROLLER,
    endpoints::CONTROLLER,
    node_lifecycle::CONTROLLER,
    podgc::CONTROLLER,
    garbage_collector::CONTROLLER,
    namespace::CONTROLLER,
    disruption::CONTROLLER,
    events::CONTROLLER,
    definitions::CONTROLLER,
    clusterrole_aggregation::CONTROLLER,
    flowschema::CONTROLLER,
    serviceaccount::CONTROLLER,
    resourcequota::CONTROLLER,
];
