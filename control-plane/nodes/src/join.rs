//! How a machine becomes a node: a token buys a certificate for one name.

use copepod_api::{Key, Object, User, names, resource::NODES};
use copepod_store::View;
use tonic::Status;

/// Who may join, and who signs; the assembly knows both.
pub trait Issue: Send + Sync + 'static {
    /// Whether the token admits a node.
    fn admit(&self, view: &View, token: &str) -> Result<(), Status>;

    /// A certificate for the key of the request (PEM) and this user; whatever subject the request names is ignored.
    fn sign_node(&self, request: &str, user: &User) -> Result<String, String>;

    /// A token of a pod's service account, and when it runs out (Unix seconds).
    fn pod_token(&self, view: &View, pod: &Object, audience: &str, seconds: i64) -> Result<(String, i64), String>;

    /// The authority's certificate, PEM.
    fn authority(&self) -> String;

    /// `host:port` of every server known.
    fn servers(&self) -> Vec<String>;
}

pub fn admit(view: &View, issue: &dyn Issue, token: &str, name: &str) -> Result<(), Status> {
    issue.admit(view, token)?;
    names::dns_subdomain(name).map_err(|why| Status::invalid_argument(format!("node name {name:?}: {why}")))?;
    if view.object(&Key::new(NODES, "", name)).is_some() {
        tracing::info!(node = name, "a node of a known name joins anew");
    }
    Ok(())
}
