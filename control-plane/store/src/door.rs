//! The one door, as those who stand before it see it.
//!
//! The HTTP front, the node front and the leader's driver all change the world through `Door` and read it through views.
//! `control-plane` implements it on Raft; tests implement it on a bare `View`.

use std::{future::Future, pin::Pin};

use copepod_api::{Reply, Request, Resource, Revision, Status};

use crate::{Compacted, Event, View};

pub type Async<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

pub trait Door: Send + Sync + 'static {
    /// The newest view this server has. Never waits; on a follower it may be a little behind.
    fn view(&self) -> View;

    /// A view that contains every write acknowledged before the call (a read index, Raft dissertation §6.4).
    fn fresh(&self) -> Async<'_, Result<View, Status>>;

    /// Waits until this server's view contains `revision`.
    fn reached(&self, revision: Revision) -> Async<'_, Result<View, Status>>;

    /// Carries the requests out in one transaction, on the leader; all or none. The replies stand in the order of the
    /// requests. On a server that does not lead: 503, with the leader in `leader()`.
    fn submit(&self, requests: Vec<Request>) -> Async<'_, Result<Vec<Reply>, Status>>;

    /// The events of a resource after `from`, as they happen. `None`: the events of all resources.
    fn watch(&self, resource: Option<Resource>, from: Revision) -> Box<dyn Cursor>;

    fn leader(&self) -> Leader;
}

/// A place in the log of events.
pub trait Cursor: Send {
    /// Waits for the next events, in order, each exactly once. Dropping the future loses nothing.
    fn next(&mut self) -> Async<'_, Result<Vec<Event>, Compacted>>;

    /// Everything up to here has been delivered: what a bookmark may promise.
    fn position(&self) -> Revision;
}

/// Who takes writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leader {
    Here,
    /// `host:port` of the leader's one port.
    At(String),
    Unknown,
}
