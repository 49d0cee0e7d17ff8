//! A registry that misbehaves on demand.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{Digest, Platform};

type Answer = dyn Fn(&Request<Incoming>) -> Response<Full<Bytes>> + Send + Sync;

pub(crate) struct Scripted {
    pub address: String,
    /// `GET /v2/… range authorization`, in order.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    pub async fn start(
        answer: impl Fn(&Request<Incoming>) -> Response<Full<Bytes>> + Send + Sync + 'static,
    ) -> Scripted {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let answer: Arc<Answer> = Arc::new(answer);
        let noted = asked.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, noted) = (answer.clone(), noted.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let header = |name| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
                    let mut line = request.uri().to_string();
                    for extra in [header(header::RANGE), header(header::AUTHORIZATION)].into_iter().flatten() {
                        line.push_str(&format!(" {extra}"));
                    }
                    noted.lock().unwrap().push(line);
                    let response = answer(&request);
                    async move { Ok::<_, Infallible>(response) }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Scripted { address, asked }
    }

    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// The blobs and names of a registry.
#[derive(Clone, Default)]
pub(crate) struct Content {
    pub by_name: BTreeMap<String, Bytes>,
}

impl Content {
    /// An image `app:1` of one layer.
    pub fn image(layer: &[u8]) -> Content {
        let mut content = Content::default();
        let configuration = json!({
            "architecture": Platform::here().architecture, "os": "linux",
            "rootfs": { "type": "layers", "diff_ids": [Digest::of(layer)] },
        });
        let config = content.blob(configuration.to_string());
        let layer = content.blob(layer.to_vec());
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [layer] }).to_string();
        content.by_name.insert("manifests/1".into(), manifest.into());
        content
    }

    /// Puts the image behind an index, beside one for another machine.
    pub fn behind_index(mut self) -> Content {
        let manifest = self.by_name["manifests/1"].clone();
        let digest = Digest::of(&manifest);
        let entry = |digest: &Digest, architecture: &str| {
            json!({
                "digest": digest, "size": manifest.len(),
                "platform": { "os": "linux", "architecture": architecture },
            })
        };
        let entries = [entry(&Digest::of(b"other"), "s390x"), entry(&digest, &Platform::here().architecture)];
        let index = json!({ "schemaVersion": 2, "manifests": entries }).to_string();
        self.by_name.insert(format!("manifests/{digest}"), manifest);
        self.by_name.insert("manifests/1".into(), index.into());
        self
    }

    fn blob(&mut self, bytes: impl Into<Bytes>) -> serde_json::Value {
        let bytes = bytes.into();
        let descriptor = json!({ "digest": Digest::of(&bytes), "size": bytes.len() });
        self.by_name.insert(format!("blobs/{}", Digest::of(&bytes)), bytes);
        descriptor
    }

    pub fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let found = self.by_name.iter().find(|(name, _)| path.ends_with(name.as_str()));
        match found {
            Some((_, bytes)) => Response::new(Full::new(bytes.clone())),
            None => refuse(StatusCode::NOT_FOUND, r#"{"errors":[{"code":"X","message":"no such thing"}]}"#),
        }
    }
}

pub(crate) fn refuse(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response
}

/// Passes connections on to `target`, and cuts each after so many bytes of answers.
pub(crate) async fn cutting_proxy(target: String, bytes: u64) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let n_connections: Arc<AtomicUsize> = Arc::default();
    let counted = n_connections.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            let mut server = TcpStream::connect(&target).await.unwrap();
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.into_split();
                let (from_server, mut to_server) = server.split();
                let mut answers = from_server.take(bytes);
                tokio::select! {
                    _ = tokio::io::copy(&mut from_client, &mut to_server) => (),
                    _ = tokio::io::copy(&mut answers, &mut to_client) => (),
                }
                let _ = to_client.shutdown().await;
            });
        }
    });
    (address, n_connections)
}
