//! Whether a program that serves a group answers, as the condition `Available` of its APIService says it.

use std::time::Duration;

use bytes::Bytes;
use copepod_api::{
    Key, Status, User,
    resource::{ENDPOINT_SLICES, SERVICES},
};
use copepod_store::View;
use http::{
    StatusCode,
    header::{ACCEPT, HOST},
};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;

use super::{Registrations, Remote, connect};
use crate::{Tunnels, programs::AbortOnDrop, who};

/// How long a program may take to say what it serves.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// The longest answer that is read: hundreds of kinds, each with a dozen subresources.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Who asks where no user does.
const AGGREGATOR: &str = "system:kube-aggregator";

/// What is known of a program now: available or not, why, and in words.
pub struct Finding {
    pub is_available: bool,
    pub reason: &'static str,
    pub message: String,
}

/// The groups and versions that programs serve.
pub fn remotes(view: &View) -> Vec<(String, String)> {
    let all = Registrations::of(view);
    all.remotes().map(|(group, version, _)| (group.to_owned(), version.to_owned())).collect()
}

/// Looks at everything between here and the program, and then asks it what it serves. `None` where no program serves
/// this group and version.
pub async fn look(view: &View, tunnels: &dyn Tunnels, group: &str, version: &str) -> Option<Finding> {
    let registrations = Registrations::of(view);
    let remote = registrations.remote(group, version)?;
    let not = |reason, message| Some(Finding { is_available: false, reason, message });
    let (namespace, service) = (&remote.namespace, &remote.service);
    let Some(found) = view.object(&Key::new(SERVICES, namespace.as_str(), service.as_str())) else {
        return not("ServiceNotFound", format!("service/{service} in {namespace:?} is not present"));
    };
    let found: Value = serde_json::from_slice(&found.bytes()).unwrap_or_default();
    let ports = found["spec"]["ports"].as_array();
    let Some(port) = ports.into_iter().flatten().find(|port| port["port"] == remote.port) else {
        let message = format!("service/{service} in {namespace:?} is not listening on port {}", remote.port);
        return not("ServicePortError", message);
    };
    let name = port["name"].as_str().unwrap_or_default();
    match has_endpoints(view, remote, name) {
        None => {
            return not("EndpointsNotFound", format!("cannot find endpoints for service/{service} in {namespace:?}"));
        }
        Some(false) => {
            let message =
                format!("endpoints for service/{service} in {namespace:?} have no addresses with port name {name:?}");
            return not("MissingEndpoints", message);
        }
        Some(true) => {}
    }
    let path = format!("/apis/{group}/{version}");
    match get(view, tunnels, remote, &path, "application/json").await {
        Ok(_) => Some(Finding { is_available: true, reason: "Passed", message: "all checks passed".to_owned() }),
        Err(why) => {
            let url = format!("https://{}:{}{path}", remote.host(), remote.port);
            not("FailedDiscoveryCheck", format!("failing or missing response from {url}: {why}"))
        }
    }
}

/// Whether something is ready behind the port; `None` where there are no endpoints at all.
fn has_endpoints(view: &View, remote: &Remote, port: &str) -> Option<bool> {
    let slices = view.objects(&ENDPOINT_SLICES, Some(&remote.namespace));
    let own = slices.filter(|slice| slice.meta.labels.get(SERVICE_NAME).is_some_and(|name| *name == remote.service));
    let values: Vec<Value> = own.filter_map(|slice| serde_json::from_slice(&slice.bytes()).ok()).collect();
    if values.is_empty() {
        return None;
    }
    Some(values.iter().any(|slice| {
        let mut ports = slice["ports"].as_array().into_iter().flatten();
        let mut endpoints = slice["endpoints"].as_array().into_iter().flatten();
        ports.any(|own| own["name"].as_str().unwrap_or_default() == port)
            && endpoints.any(|endpoint| endpoint["conditions"]["ready"].as_bool().unwrap_or(true))
    }))
}

/// What the program answers with, if it is of the kind 2xx.
pub async fn get(
    view: &View,
    tunnels: &dyn Tunnels,
    remote: &Remote,
    path: &str,
    accept: &str,
) -> Result<Bytes, String> {
    let exchange = async {
        let stream = connect(view, tunnels, remote).await?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
        let _connection = AbortOnDrop(tokio::spawn(async move { drop(connection.await) }));
        let mut request = http::Request::get(path)
            .header(HOST, remote.host())
            .header(ACCEPT, accept)
            .body(Empty::<Bytes>::new())
            .map_err(|error| error.to_string())?;
        let said = |status: Status| status.message().to_owned();
        who::describe(&User::system(AGGREGATOR), request.headers_mut()).map_err(said)?;
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let code = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        match code {
            StatusCode::OK => Ok(body),
            other => Err(format!("bad status from the program: {}", other.as_u16())),
        }
    };
    tokio::time::timeout(ANSWER_MAX, exchange).await.unwrap_or_else(|_| Err("context deadline exceeded".to_owned()))
}
