//! Connections: TLS, who is at the other end, HTTP/1.1 and HTTP/2.
//!
//! One port serves REST and gRPC. What a connection's certificate says about the client is put into the extensions of
//! every request on it, as a `User`; handlers of both kinds find it there.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use axum::{Router, body::Body};
use copepod_api::User;
use http::Request;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use rustls::ServerConfig;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use crate::{
    crowd::{self, Crowd},
    who,
};

/// How many connections a server holds. Each costs some tens of kilobytes, and one agent, kubectl or controller needs
/// one.
const CONNECTIONS_MAX: usize = 20_000;

/// How long a client may take to shake hands, and to send the head of a request.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
const HEAD_MAX: Duration = Duration::from_secs(15);

/// How often a silent connection is asked whether it still lives, and how long it may take to say so.
const ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const ALIVE_MAX: Duration = Duration::from_secs(15);

/// The same for nodes: an agent whose machine is gone is to be missed in seconds. The kernel asks, so that it costs next to
/// nothing even with thousands of nodes.
const NODE_ALIVE_INTERVAL: Duration = Duration::from_secs(1);
const NODE_ALIVE_MAX: Duration = Duration::from_secs(3);

/// How many requests one connection may have under way; a controller that watches every kind needs a few hundred.
const STREAMS_MAX: u32 = 1_000;

/// How long the head of a request may be: selectors that name hundreds of objects stand in it.
const HEAD_BYTES_MAX: u32 = 128 * 1024;

/// How much may wait to be sent on one stream: what a client that does not read costs.
const UNSENT_BYTES_MAX: usize = 128 * 1024;

/// How long requests under way may take to end when the server stops. Watches never end by themselves.
const STOP_MAX: Duration = Duration::from_secs(1);

/// How long accepting rests when the machine cannot give another socket.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// The address of the client, in the extensions of its requests.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// Serves until `stop`, then lets what is under way end, for a moment. The certificates may be exchanged meanwhile; new
/// connections get the new ones.
pub async fn serve(listener: TcpListener, tls: Arc<ArcSwap<ServerConfig>>, router: Router, stop: CancellationToken) {
    serve_crowd(listener, tls, router, stop, Crowd::new(crowd::CONNECTIONS_MAX)).await;
}

/// The same, with another limit a client.
pub async fn serve_crowd(
    listener: TcpListener,
    tls: Arc<ArcSwap<ServerConfig>>,
    router: Router,
    stop: CancellationToken,
    crowd: Arc<Crowd>,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = TaskTracker::new();
    let closing = CancellationToken::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener, &room) => accepted,
        };
        let (stream, peer, place) = accepted;
        let acceptor = TlsAcceptor::from(tls.load_full());
        let own = crowd.enter(peer.ip());
        let router = if own.is_beyond { crowd::refusing() } else { router.clone() };
        let (stop, closing) = (stop.clone(), closing.clone());
        connections.spawn(async move {
            tokio::select! {
                () = connection(stream, peer, acceptor, router, stop) => {}
                () = tokio::time::sleep(crowd::REFUSAL_MAX), if own.is_beyond => {}
                () = closing.cancelled() => {}
            }
            drop((place, own));
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(STOP_MAX, connections.wait()).await.is_err() {
        closing.cancel();
        connections.wait().await;
    }
}

/// The next connection, when there is room for one.
async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> (TcpStream, SocketAddr, Option<OwnedSemaphorePermit>) {
    // The semaphore is never closed, so there always comes a permit.
    let place = room.clone().acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return (stream, peer, place),
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: TlsAcceptor,
    router: Router,
    stop: CancellationToken,
) {
    let _ = stream.set_nodelay(true);
    // HTTP/1.1 has no pings: without these, a watch of a client that vanished would stay for an hour.
    keep_asking(&stream, ALIVE_INTERVAL, ALIVE_MAX);
    let stream = match tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "no TLS connection came about"),
        Err(_) => return tracing::debug!(%peer, "the TLS handshake took too long"),
    };
    let certificates = stream.get_ref().1.peer_certificates();
    let user: User = certificates
        .and_then(|chain| copepod_identity::user_of_certificate(chain.first()?))
        .unwrap_or_else(who::anonymous);
    if user.is_in(copepod_identity::NODES_GROUP) {
        keep_asking(stream.get_ref().0, NODE_ALIVE_INTERVAL, NODE_ALIVE_MAX);
    }

    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(user.clone());
        request.extensions_mut().insert(Peer(peer));
        router.clone().oneshot(request.map(Body::new))
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_MAX).max_buf_size(UNSENT_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(ALIVE_INTERVAL)
        .keep_alive_timeout(ALIVE_MAX)
        .max_send_buf_size(UNSENT_BYTES_MAX)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let mut is_stopping = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%peer, %error, "a connection broke");
                }
                return;
            }
            () = stop.cancelled(), if !is_stopping => {
                is_stopping = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Has the kernel ask a silent peer whether it lives, and give the connection up when nothing comes back for so long.
fn keep_asking(stream: &TcpStream, interval: Duration, max: Duration) {
    let socket = SockRef::from(stream);
    let asking = TcpKeepalive::new().with_time(interval).with_interval(interval.min(max));
    let _ = socket.set_tcp_keepalive(&asking);
    let _ = socket.set_tcp_user_timeout(Some(interval + max));
}
