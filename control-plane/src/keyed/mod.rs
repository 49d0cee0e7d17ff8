//! Controllers that need the cluster's keys: what they write follows from the view and from what only servers have.
//!
//! They look like the others (`copepod_controllers`) and run like them, and have one argument more.

mod account_secrets;
mod extension_authentication;
mod root_ca;
mod signing;

use std::sync::Arc;

use copepod_api::{Key, Plan, Timestamp};
use copepod_identity::Authority;
use copepod_store::{Event, View};

use crate::driver::Job;

struct Controller {
    name: &'static str,
    wakes: fn(&View, &Event) -> Vec<Key>,
    all: fn(&View) -> Vec<Key>,
    reconcile: fn(&Authority, &View, &Key, Timestamp) -> Plan,
}

const ALL: &[Controller] =
    &[root_ca::CONTROLLER, account_secrets::CONTROLLER, signing::CONTROLLER, extension_authentication::CONTROLLER];

/// All of them, with the keys.
pub fn jobs(authority: &Arc<Authority>) -> Vec<Box<dyn Job>> {
    let job = |controller| Box::new(Keyed { controller, authority: authority.clone() }) as Box<dyn Job>;
    ALL.iter().map(job).collect()
}

struct Keyed {
    controller: &'static Controller,
    authority: Arc<Authority>,
}

impl Job for Keyed {
    fn name(&self) -> &'static str {
        self.controller.name
    }

    fn wakes(&self, view: &View, event: &Event) -> Vec<Key> {
        (self.controller.wakes)(view, event)
    }

    fn all(&self, view: &View) -> Vec<Key> {
        (self.controller.all)(view)
    }

    fn reconcile(&self, view: &View, key: &Key, now: Timestamp) -> Plan {
        (self.controller.reconcile)(&self.authority, view, key, now)
    }
}
