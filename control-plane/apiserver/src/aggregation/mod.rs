//! Groups that programs outside of the server serve: their requests are passed on to them.
//!
//! A program stands behind a service of the cluster and is reached as webhooks are, through a tunnel to the node of one
//! of its pods. It proves by its certificate who it is, and this server by its own, which names the front proxy: so the
//! program may believe the headers that say for whom the request is.

pub mod documents;
pub mod probe;
mod registrations;
pub mod told;
mod wish;

use std::sync::Arc;

use axum::{body::Body, extract::Request, response::Response};
use copepod_api::{Key, Status, StatusResult, Timestamp, User, resource::SECRETS};
use copepod_identity::FrontProxy;
use copepod_store::View;
use http::StatusCode;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use serde_json::Value;
use tokio_rustls::client::TlsStream;

pub use registrations::{API_SERVICES, Registrations, Remote};
pub use wish::Parts;

use crate::{
    Tunnels,
    forward::{self, Switched},
    front::Front,
    programs::{self, Address},
    proxy, read,
    streams::{self, link::Connection},
    who,
};

/// The program that a path belongs to, if it belongs to one.
pub fn of_path(view: &View, path: &str) -> Option<(Parts, Remote)> {
    let parts = Parts::of(path)?;
    let remote = Registrations::of(view).remote(&parts.group, &parts.version)?.clone();
    Some((parts, remote))
}

/// Passes a request on to the program, on behalf of the user.
pub async fn answer(front: &Front, request: Request, user: &User, remote: &Remote) -> StatusResult<Response> {
    // The nodes hold their sessions to the leader.
    let forwarder = front.config.forwarder.as_ref();
    let request = match forward::switch(&*front.door, forwarder, user, request).await? {
        Switched::Here(request) => request,
        Switched::Done(response) => return Ok(response),
    };
    if !remote.is_available {
        return Err(Status::unavailable("service unavailable"));
    }
    let place = front.places.take()?;
    let view = read::view(&*front.door, None).await?;
    let failed = |why: String| Status::unavailable(format!("error trying to reach service: {why}"));
    let connection = connect(&view, &*front.tunnels, remote);
    let connection = TokioIo::new(connection.await.map_err(failed)?);
    let handshake = hyper::client::conn::http1::handshake(connection).await;
    let (mut sender, connection) = handshake.map_err(|error| failed(error.to_string()))?;
    tokio::spawn(async move {
        let _ = connection.with_upgrades().await;
        drop(place);
    });
    let path = request.uri().path().to_owned();
    let (mut passed_on, client) = proxy::passed_on(request, "", &path, &remote.host())?;
    who::describe(user, passed_on.headers_mut())?;
    let mut answered = sender.send_request(passed_on).await.map_err(|error| failed(error.to_string()))?;
    if answered.status() == StatusCode::SWITCHING_PROTOCOLS {
        streams::splice(client, hyper::upgrade::on(&mut answered));
        return Ok(answered.map(Body::new));
    }
    let mut response = answered.map(Body::new);
    proxy::forget(response.headers_mut(), false);
    Ok(response)
}

/// A connection to the program, as the front proxy.
async fn connect(
    view: &View,
    tunnels: &dyn Tunnels,
    remote: &Remote,
) -> Result<TlsStream<Box<dyn Connection + Unpin>>, String> {
    let tls = tls(view, remote)?;
    Address::of_service(&remote.namespace, &remote.service, remote.port).connect_with(view, tunnels, tls).await
}

/// The authority by which programs know this cluster's servers.
pub fn front_proxy(view: &View) -> Result<FrontProxy, String> {
    let secret = view.object(&Key::new(SECRETS, FrontProxy::NAMESPACE, FrontProxy::SECRET)).ok_or_else(|| {
        "the cluster has no authority for its front proxy yet; it is made when a server begins to lead".to_owned()
    })?;
    let secret: Value = serde_json::from_slice(&secret.bytes()).map_err(|error| error.to_string())?;
    FrontProxy::read(&secret).map_err(|error| error.to_string())
}

/// Its certificate is issued for this connection: next to the handshake that costs little, and nothing has to be renewed
/// or to be told of another authority.
fn tls(view: &View, remote: &Remote) -> Result<Arc<ClientConfig>, String> {
    let own = front_proxy(view)?.issue(Timestamp::now()).map_err(|error| error.to_string())?;
    let trust = match remote.trusts_all {
        true => None,
        false => Some(programs::trusted(remote.bundle.as_deref())?),
    };
    programs::client(trust, Some(&own)).map(Arc::new)
}

impl Remote {
    /// The name that its certificate must bear, and that requests name.
    fn host(&self) -> String {
        format!("{}.{}.svc", self.service, self.namespace)
    }
}
