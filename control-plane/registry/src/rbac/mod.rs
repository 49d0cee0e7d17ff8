//! Roles and who holds them: `rbac.authorization.k8s.io/v1`.
//!
//! What they mean is `copepod_access`'s business. Here is what they may say, and that nobody gives away by them what they
//! do not hold.

mod binding;
mod role;

use copepod_access::{Index, escalation::Refusal};
use copepod_api::{Request, Resource, Status, StatusResult};
use serde_json::Value;

use crate::{Row, pipeline::World};

const GROUP: &str = "rbac.authorization.k8s.io";

/// May write anything, as everywhere.
const MASTERS: &str = "system:masters";

pub(crate) fn rows() -> Vec<Row> {
    vec![binding::cluster_row(), role::cluster_row(), binding::row(), role::row()]
}

type Check = fn(&Index, &copepod_api::User, &Value) -> Result<(), Refusal>;

/// Lets the write pass if the user holds what would be given.
fn guard(world: &World<'_>, request: &Request, new: &Value, old: Option<&Value>, check: Check) -> StatusResult<()> {
    if request.user.is_in(MASTERS) || old.is_some_and(|old| substance(old) == substance(new)) {
        return Ok(());
    }
    check(&Index::of(&world.view), &request.user, new).map_err(|refusal| match refusal {
        Refusal::Exceeds(why) => {
            let name = new.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
            Status::forbidden(&request.target.resource, name, why)
        }
        Refusal::NoRole(plural, name) => Status::not_found(&Resource::known(GROUP, plural), &name),
    })
}

/// All but what the garbage collector and the books change: an object whose writer would no longer be allowed to write
/// it can still go.
fn substance(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|field, _| {
            !["ownerReferences", "finalizers", "managedFields", "resourceVersion"].contains(&field.as_str())
        });
    }
    object
}
