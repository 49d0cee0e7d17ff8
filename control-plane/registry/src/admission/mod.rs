//! What a cluster says about an object besides its kind's own rules: defaults and limits of its namespace, who pods are,
//! how much of everything there may be.
//!
//! A plugin is a file here and a line in `PLUGINS`. The pipeline calls them in one place for all kinds: `complete` fills
//! in before users' webhooks and policies are asked, `judge` refuses what is well formed and still not allowed, and
//! `charge` counts what is about to be stored, last of all, in the transaction that stores it.

mod default_class;
mod limit_ranger;
mod pod_security;
mod priority;
mod resource_quota;
mod service_account;
mod tolerations;

use copepod_api::{Request, Resource, Status, StatusResult};
use serde_json::Value;

use crate::{Row, json::text, pipeline::World};

#[cfg(test)]
pub(crate) use pod_security::watched;

/// What is about to happen to an object.
pub(crate) struct Write<'a> {
    pub row: &'a Row,
    pub request: &'a Request,
    /// What is replaced; `None` where the object is new.
    pub old: Option<&'a Value>,
}

struct Plugin {
    /// Fills in.
    complete: fn(&mut World<'_>, &Write<'_>, &mut Value) -> StatusResult<()>,
    /// Refuses, or warns.
    judge: fn(&mut World<'_>, &Write<'_>, &Value) -> StatusResult<()>,
    /// Counts.
    charge: fn(&mut World<'_>, &Write<'_>, &Value) -> StatusResult<()>,
}

const NONE: Plugin = Plugin { complete: |_, _, _| Ok(()), judge: |_, _, _| Ok(()), charge: |_, _, _| Ok(()) };

/// In the order in which they speak: Kubernetes' own.
const PLUGINS: &[Plugin] = &[
    limit_ranger::PLUGIN,
    service_account::PLUGIN,
    priority::PLUGIN,
    tolerations::PLUGIN,
    default_class::PLUGIN,
    pod_security::PLUGIN,
    resource_quota::PLUGIN,
];

/// Fills in what the cluster says about an object.
pub(crate) fn complete(world: &mut World<'_>, write: &Write<'_>, object: &mut Value) -> StatusResult<()> {
    PLUGINS.iter().try_for_each(|plugin| (plugin.complete)(world, write, object))
}

/// Refuses a well-formed object that may not be.
pub(crate) fn judge(world: &mut World<'_>, write: &Write<'_>, object: &Value) -> StatusResult<()> {
    PLUGINS.iter().try_for_each(|plugin| (plugin.judge)(world, write, object))
}

/// Counts what is about to be stored.
pub(crate) fn charge(world: &mut World<'_>, write: &Write<'_>, object: &Value) -> StatusResult<()> {
    PLUGINS.iter().try_for_each(|plugin| (plugin.charge)(world, write, object))
}

impl Write<'_> {
    fn is_of(&self, resource: &Resource) -> bool {
        self.row.kind.group == resource.group && self.row.kind.plural == resource.plural
    }

    fn is_new(&self, resource: &Resource) -> bool {
        self.old.is_none() && self.is_of(resource)
    }

    fn namespace(&self) -> &str {
        &self.request.target.namespace
    }

    /// The refusal of this object.
    fn forbidden(&self, object: &Value, why: impl std::fmt::Display) -> Status {
        // An object that is to be named by the server is called by what it asked for.
        let name = text(object, "/metadata/name").or_else(|| text(object, "/metadata/generateName"));
        Status::forbidden(&self.row.kind.resource(), name.unwrap_or_default(), why)
    }
}

/// Several faults in one sentence.
fn told(faults: &[String]) -> String {
    match faults {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}
