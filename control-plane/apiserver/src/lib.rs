//! The HTTP front: Kubernetes' REST API over the door and its views.
//!
//! There is one handler for all kinds. A request's path names a row of the registry; what can be done there, how its
//! tables look, which fields selectors may name, all comes from that row. Reads are written from stored bytes, without
//! decoding them; writes become one `Request` each and go through the door, on this server if it leads, and otherwise
//! over to the one that does.

mod accept;
mod access;
mod aggregation;
mod answer;
mod body;
mod compress;
mod continuation;
mod crowd;
mod discovery;
mod fairness;
mod fanout;
mod forward;
mod frames;
mod front;
mod health;
mod impersonation;
mod list;
mod logs;
mod metrics;
mod openapi;
mod options;
mod past;
mod path;
mod programs;
mod proxy;
mod query;
mod read;
mod reviews;
mod selection;
mod serve;
mod shape;
mod spdy;
mod streams;
mod tokens;
mod versions;
mod watch;
mod webhooks;
mod who;
mod write;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use copepod_store::Door;

pub use aggregation::{API_SERVICES, front_proxy, probe};
pub use fairness::defaults::all as flow_defaults;
pub use forward::Forwarder;
pub use logs::{LogQuery, LogStream, Tunnels};
pub use serve::{Peer, serve};
pub use streams::{ExecQuery, ForwardQuery, Frame, Link};
pub use tokens::{Keys as AccountKeysCache, pod_token};
pub use webhooks::Webhooks;

/// What the front needs besides the door.
#[derive(Clone, Default)]
pub struct Config {
    /// Carries writes to the leader; without it (a single server, a test) a server that does not lead refuses them.
    pub forwarder: Option<Forwarder>,
}

/// All of the API. It has no fallback of its own, so that routers of other services can be merged into it.
pub fn router(door: Arc<dyn Door>, tunnels: Arc<dyn Tunnels>, config: Config) -> axum::Router {
    front::router(front::Front::new(door, tunnels, config))
}
