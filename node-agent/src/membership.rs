//! How this machine proves that it is its node: joining, the certificate, and renewing it.
//!
//! The key is made here and never leaves. A token is used once, to buy the first certificate from a cluster whose
//! authority the token pins; from then on the node renews its certificate by itself at two thirds of its life, and the
//! token is not needed again, also not after a restart.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use copepod_api::Timestamp;
use copepod_identity::{SERVER_NAME, Tokens};
use copepod_proto::nodes::{JoinReply, JoinRequest, RenewRequest, nodes_client::NodesClient};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tonic::{Code, transport::Channel};
use x509_parser::{parse_x509_certificate, pem::parse_x509_pem};

use crate::{
    assignments::write,
    config::{AgentConfig, AgentError},
    connect::{Dial, endpoint, keep_asking},
};

/// The pause before a join or a renewal is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// How long one question may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Time between two looks at the certificate's age. Its life is measured by the wall clock, which may jump.
const LOOK: Duration = Duration::from_secs(60);

const KEY: &str = "node.key";
const MEMBERSHIP: &str = "membership.json";

/// What the cluster gave this node. Kept beside the key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Saved {
    certificate: String,
    authority: String,
    servers: Vec<String>,
}

/// Whether a node with this data directory has joined a cluster before, and so needs no token.
pub fn has_joined(data_dir: &std::path::Path) -> bool {
    data_dir.join("identity").join(MEMBERSHIP).exists()
}

pub struct Membership {
    dir: PathBuf,
    name: String,
    key_pem: String,
    /// As given on the command line: tried last, for a cluster that moved altogether.
    configured: Option<String>,
    /// Where connections come from, if that is said.
    from: Option<IpAddr>,
    current: Mutex<Current>,
}

struct Current {
    saved: Saved,
    tls: Arc<ClientConfig>,
}

impl Membership {
    /// The membership of before, or a new one. Waits for a cluster that does not answer; gives up only on a clear no.
    pub async fn establish(config: &AgentConfig) -> Result<Membership, AgentError> {
        let dir = config.data_dir.join("identity");
        let io = |error| AgentError::io(format!("the node's identity in {}", dir.display()))(error);
        fs::create_dir_all(&dir).map_err(io)?;
        let key_pem = key(&dir).map_err(io)?;
        let saved = fs::read(dir.join(MEMBERSHIP)).ok().and_then(|bytes| serde_json::from_slice::<Saved>(&bytes).ok());
        let saved = match saved {
            Some(saved) => saved,
            None => {
                let saved = join(config, &key_pem).await?;
                save(&dir, &saved).map_err(io)?;
                saved
            }
        };
        let tls = tls(&saved, &key_pem).map_err(AgentError::Join)?;
        let configured = config.server.clone();
        Ok(Membership {
            dir,
            name: config.name.clone(),
            key_pem,
            configured,
            from: source(config),
            current: Mutex::new(Current { saved, tls }),
        })
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn authority(&self) -> String {
        self.current().saved.authority.clone()
    }

    /// Renews the certificate at two thirds of its life, for as long as the agent runs.
    pub async fn keep_renewed(&self, stop: CancellationToken) {
        let work = async {
            loop {
                let certificate = self.current().saved.certificate.clone();
                if is_due(&certificate, Timestamp::now()) {
                    match self.renew().await {
                        Ok(()) => tracing::info!("the node's certificate is renewed"),
                        Err(error) => tracing::warn!(error, "the node's certificate could not be renewed"),
                    }
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => (),
            () = work => (),
        }
    }

    async fn renew(&self) -> Result<(), String> {
        let certificate_request = request(&self.key_pem, &self.name)?;
        let mut last = "no server is known".to_owned();
        for server in self.servers() {
            let asked = async {
                let mut client = NodesClient::new(self.dial(&server).await?);
                let request = RenewRequest { certificate_request: certificate_request.clone() };
                client.renew(request).await.map_err(|status| status.message().to_owned())
            };
            match tokio::time::timeout(ANSWER_MAX, asked).await {
                Ok(Ok(reply)) => {
                    let saved = saved(reply.into_inner());
                    let tls = tls(&saved, &self.key_pem)?;
                    save(&self.dir, &saved).map_err(|error| error.to_string())?;
                    *self.current() = Current { saved, tls };
                    return Ok(());
                }
                Ok(Err(error)) => last = format!("{server}: {error}"),
                Err(_) => last = format!("{server}: no answer"),
            }
        }
        Err(last)
    }
}

#[tonic::async_trait]
impl Dial for Membership {
    fn servers(&self) -> Vec<String> {
        let mut servers = self.current().saved.servers.clone();
        servers.extend(self.configured.clone().filter(|server| !servers.contains(server)));
        servers
    }

    fn learn(&self, servers: &[String]) {
        let mut current = self.current();
        if servers.is_empty() || current.saved.servers == servers {
            return;
        }
        current.saved.servers = servers.to_vec();
        if let Err(error) = save(&self.dir, &current.saved) {
            tracing::warn!(%error, "the cluster's servers could not be written down");
        }
    }

    async fn dial(&self, server: &str) -> Result<Channel, String> {
        let tls = self.current().tls.clone();
        connect(server, self.from, tls).await
    }
}

async fn connect(server: &str, from: Option<IpAddr>, mut tls: Arc<ClientConfig>) -> Result<Channel, String> {
    Arc::make_mut(&mut tls).alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(tls);
    let address = server.to_owned();
    let connect = tower::service_fn(move |_: tonic::codegen::http::Uri| {
        let (connector, address) = (connector.clone(), address.clone());
        async move {
            let stream = open(&address, from).await?;
            stream.set_nodelay(true)?;
            keep_asking(&stream)?;
            let name = ServerName::try_from(SERVER_NAME).map_err(io::Error::other)?;
            Ok::<_, io::Error>(TokioIo::new(connector.connect(name, stream).await?))
        }
    });
    endpoint(server)?.connect_with_connector(connect).await.map_err(|error| chain(&error))
}

/// Nodes that were given addresses of this machine's loopback speak from there, so that a server can tell them apart.
fn source(config: &AgentConfig) -> Option<IpAddr> {
    config.address.filter(IpAddr::is_loopback)
}

async fn open(server: &str, from: Option<IpAddr>) -> io::Result<TcpStream> {
    let Some(from) = from else { return TcpStream::connect(server).await };
    let address = tokio::net::lookup_host(server).await?.find(|address| address.is_ipv4() == from.is_ipv4());
    let address = address.ok_or_else(|| io::Error::other("the server has no address of this node's family"))?;
    let socket = if from.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(from, 0))?;
    socket.connect(address).await
}

/// An error with its causes: transports say what happened only at the bottom.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

async fn join(config: &AgentConfig, key_pem: &str) -> Result<Saved, AgentError> {
    let hint = "give --server and --token (make one with `copepod token create`)";
    let server = config.server.as_deref().ok_or_else(|| AgentError::Join(format!("this node is new: {hint}")))?;
    let text = config.token.as_deref().ok_or_else(|| AgentError::Join(format!("this node has no token: {hint}")))?;
    let token = Tokens::parse(text).map_err(|error| AgentError::Join(error.to_string()))?;
    let tls = copepod_identity::pinned_client_config(&token.fingerprint)
        .map_err(|error| AgentError::Join(error.to_string()))?;
    let tls = Arc::new(tls);
    let certificate_request = request(key_pem, &config.name).map_err(AgentError::Join)?;
    loop {
        let asked = async {
            let channel = connect(server, source(config), tls.clone()).await.map_err(tonic::Status::unavailable)?;
            let request = JoinRequest {
                token: text.to_owned(),
                node_name: config.name.clone(),
                certificate_request: certificate_request.clone(),
            };
            NodesClient::new(channel).join(request).await
        };
        let asked = tokio::time::timeout(ANSWER_MAX, asked).await;
        let status = match asked {
            Ok(Ok(reply)) => return Ok(saved(reply.into_inner())),
            Ok(Err(status)) => status,
            Err(_) => tonic::Status::unavailable("no answer"),
        };
        if matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument) {
            return Err(AgentError::Join(format!("server {server} refused the node: {}", status.message())));
        }
        tracing::warn!(server, reason = status.message(), "cannot join yet; trying again");
        tokio::time::sleep(AGAIN).await;
    }
}

fn saved(reply: JoinReply) -> Saved {
    Saved { certificate: reply.certificate, authority: reply.authority, servers: reply.servers }
}

fn save(dir: &std::path::Path, saved: &Saved) -> io::Result<()> {
    write(dir, MEMBERSHIP, &serde_json::to_vec(saved).map_err(io::Error::other)?)
}

fn key(dir: &std::path::Path) -> io::Result<String> {
    match fs::read_to_string(dir.join(KEY)) {
        Ok(pem) => Ok(pem),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let pem = rcgen::KeyPair::generate().map_err(io::Error::other)?.serialize_pem();
            write(dir, KEY, pem.as_bytes())?;
            Ok(pem)
        }
        Err(error) => Err(error),
    }
}

/// A request for a certificate. The server decides what it says; the subject is a courtesy to whoever reads it.
fn request(key_pem: &str, name: &str) -> Result<String, String> {
    let key = rcgen::KeyPair::from_pem(key_pem).map_err(|error| format!("the node's key: {error}"))?;
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, format!("system:node:{name}"));
    let request = params.serialize_request(&key).map_err(|error| error.to_string())?;
    request.pem().map_err(|error| error.to_string())
}

fn tls(saved: &Saved, key_pem: &str) -> Result<Arc<ClientConfig>, String> {
    let config = copepod_identity::client_config(&saved.authority, Some((&saved.certificate, key_pem)));
    config.map(Arc::new).map_err(|error| format!("the node's certificate: {error}"))
}

/// Two thirds of the certificate's life have passed. One that cannot be read is due as well.
fn is_due(certificate_pem: &str, now: Timestamp) -> bool {
    let due = || -> Option<i64> {
        let (_, pem) = parse_x509_pem(certificate_pem.as_bytes()).ok()?;
        let (_, certificate) = parse_x509_certificate(&pem.contents).ok()?;
        let (from, to) = (certificate.validity().not_before.timestamp(), certificate.validity().not_after.timestamp());
        Some(from + (to - from) / 3 * 2)
    };
    due().is_none_or(|due| now.as_second() >= due)
}

#[cfg(test)]
mod tests {
    use super::*;
    use copepod_identity::Authority;

    const DAY: u64 = 86_400;

    #[test]
    fn a_certificate_is_renewed_at_two_thirds_of_its_life() {
        let authority = Authority::create(Timestamp::now()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let key_pem = key(dir.path()).unwrap();
        assert_eq!(key(dir.path()).unwrap(), key_pem, "the key is kept");
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(dir.path().join(KEY)).unwrap().permissions().mode() & 0o777, 0o600);

        let request = request(&key_pem, "n").unwrap();
        let now = Timestamp::now();
        let month = Duration::from_secs(30 * DAY);
        let certificate = authority.sign_request(&request, "system:node:n", "system:nodes", now, month).unwrap();
        let later = |seconds: u64| now + Duration::from_secs(seconds);
        assert!(!is_due(&certificate, later(19 * DAY)));
        assert!(is_due(&certificate, later(21 * DAY)));
        assert!(is_due("nonsense", now));
        let saved = Saved { certificate, authority: authority.certificate_pem().into(), servers: vec![] };
        assert!(tls(&saved, &key_pem).is_ok());
    }
}
