//! Connects to registries, through a proxy where the machine's environment wants one.
//!
//! `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` mean what they mean for curl. What is not encrypted goes directly: it is
//! loopback or a mirror nearby, and nothing that a proxy should read.

use std::{
    error::Error,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_util::{
    client::{
        legacy::connect::{HttpConnector, proxy::Tunnel},
        proxy::matcher::Matcher,
    },
    rt::TokioIo,
};
use tokio::net::TcpStream;
use tower::Service;

use crate::registry::is_loopback;

/// A registry on another continent answers a connection within a second or two; longer, and a mirror is better asked.
const CONNECT_MAX: Duration = Duration::from_secs(10);

type Failure = Box<dyn Error + Send + Sync>;
type Connecting = Pin<Box<dyn Future<Output = Result<TokioIo<TcpStream>, Failure>> + Send>>;

#[derive(Clone)]
pub(crate) struct Connector {
    direct: HttpConnector,
    matcher: std::sync::Arc<Matcher>,
}

impl Connector {
    pub fn new() -> Connector {
        let mut direct = HttpConnector::new();
        direct.enforce_http(false);
        direct.set_connect_timeout(Some(CONNECT_MAX));
        direct.set_nodelay(true);
        Connector { direct, matcher: Matcher::from_env().into() }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = Failure;
    type Future = Connecting;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.direct.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, target: Uri) -> Connecting {
        let direct = target.scheme_str() != Some("https") || target.host().is_none_or(is_loopback);
        let proxy = if direct { None } else { self.matcher.intercept(&target) };
        let Some(proxy) = proxy else {
            let connecting = self.direct.call(target);
            return Box::pin(async move { Ok(connecting.await?) });
        };
        let through = proxy.uri().clone();
        if through.scheme_str() != Some("http") {
            let failure = format!("the proxy {through} is of a kind that is not known here; only http://… is");
            return Box::pin(async move { Err(failure.into()) });
        }
        let mut tunnel = Tunnel::new(through.clone(), self.direct.clone());
        if let Some(login) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(login.clone());
        }
        let connecting = tunnel.call(target);
        Box::pin(async move { connecting.await.map_err(|error| format!("the proxy {through}: {error}").into()) })
    }
}
