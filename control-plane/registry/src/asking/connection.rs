//! Connections to pods, services and nodes: nothing is written, and still somebody may want to be asked.

use copepod_api::{Target, User};
use copepod_store::View;
use serde_json::Value;

use super::{Attempt, Operation, Testimony, Undecided, ask};
use crate::{Env, Row, pipeline::World};

/// Somebody who wants to be connected.
pub struct Connection<'a> {
    pub row: &'a Row,
    pub user: &'a User,
    pub target: &'a Target,
    /// `PodExecOptions` and the like.
    pub options: &'a Value,
}

/// The warnings that everybody has who was asked, if all of them allow it.
pub fn connect(
    view: &View,
    connection: &Connection<'_>,
    env: &mut Env<'_>,
    testimony: Testimony,
) -> Result<Vec<String>, Undecided> {
    let mut world = World::fork(view, env, testimony);
    let attempt = Attempt {
        row: connection.row,
        user: connection.user,
        target: connection.target,
        operation: Operation::Connect,
        old: None,
        asked: None,
    };
    let asked = ask(&mut world, &attempt, connection.options);
    let mut world = world.settled()?;
    asked.map(|()| std::mem::take(&mut world.warnings)).map_err(Undecided::Refused)
}
