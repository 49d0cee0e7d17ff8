//! How a server finds its place: it founds a cluster, joins one, or comes back to its own.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use copepod_api::Timestamp;
use copepod_identity::{Authority, MASTERS_GROUP, Tokens};
use copepod_proto::peers::{PeerJoinReply, PeerJoinRequest, peers_client::PeersClient};
use copepod_replica::{Founder, Member, RebirthError, Reborn};
use serde::{Deserialize, Serialize};

use crate::{
    JoinServer, ServerConfig, ServerError, dial,
    keys::{Keys, write_private},
};

/// How long a join is tried again while the cluster has no leader.
const JOIN_MAX: Duration = Duration::from_secs(60);

/// Ten years: the operator's own kubeconfig, which whoever can read the server's disk could make anew.
const ADMIN_VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Who this server is to the others; kept beside its keys.
#[derive(Serialize, Deserialize)]
pub struct Place {
    pub id: u64,
    /// Whether it founded its cluster, and so may begin with an empty log.
    pub founds: bool,
    /// The members it was told of when it joined: whom to speak to until the log says who they are.
    #[serde(default)]
    pub contacts: Vec<Contact>,
}

#[derive(Clone, Serialize, Deserialize)]
pub struct Contact {
    id: u64,
    name: String,
    address: String,
}

impl From<&Contact> for Member {
    fn from(contact: &Contact) -> Member {
        let Contact { id, name, address } = contact.clone();
        Member { id, name, address, learner: false }
    }
}

pub async fn place(config: &ServerConfig, keys: &Keys) -> Result<Place, ServerError> {
    let file = config.data_dir.join("server.json");
    if let Some(place) = read(&file)? {
        return Ok(place);
    }
    let place = match &config.join {
        None => {
            if keys.authority()?.is_none() {
                let authority =
                    Authority::create(Timestamp::now()).map_err(|error| ServerError::Identity(error.to_string()))?;
                let (certificate, key) = authority.to_pem();
                keys.keep_authority(&certificate, &key)?;
            }
            Place { id: 1, founds: true, contacts: Vec::new() }
        }
        Some(join) => {
            let reply = ask(config, join).await?;
            keys.keep_shared(&reply.keys)?;
            let contacts =
                reply.members.into_iter().map(|peer| Contact { id: peer.id, name: peer.name, address: peer.address });
            Place { id: reply.id, founds: false, contacts: contacts.collect() }
        }
    };
    keep(&file, &place)?;
    Ok(place)
}

/// Writes down the place of a server that goes on from what another cluster left.
pub fn keep_place(data_dir: &Path, id: u64) -> Result<(), ServerError> {
    keep(&data_dir.join("server.json"), &Place { id, founds: false, contacts: Vec::new() })
}

fn keep(file: &Path, place: &Place) -> Result<(), ServerError> {
    let text = serde_json::to_vec(place).map_err(|error| ServerError::Identity(error.to_string()))?;
    write_private(file, &text)
}

/// Makes this server, whose cluster lost its majority, a cluster of one.
pub fn recover(data_dir: &Path, founder: Founder) -> Result<Reborn, RecoverError> {
    if read(&data_dir.join("server.json"))?.is_none() {
        return Err(RecoverError::NoServer { path: data_dir.to_owned() });
    }
    let reborn = copepod_replica::recover(&data_dir.join("raft"), founder)?;
    keep_place(data_dir, reborn.id)?;
    Ok(reborn)
}

#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    #[error("{path} is not the directory of a server", path = path.display())]
    NoServer { path: PathBuf },
    #[error("{0}")]
    Rebirth(#[from] RebirthError),
    #[error("{0}")]
    Server(#[from] ServerError),
}

fn read(file: &Path) -> Result<Option<Place>, ServerError> {
    match fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| ServerError::keys(file.to_owned(), &format!("cannot be read ({error})"))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ServerError::disk(file, error)),
    }
}

/// Asks any server, follows it to the leader, and asks again while nobody leads.
async fn ask(config: &ServerConfig, join: &JoinServer) -> Result<PeerJoinReply, ServerError> {
    let failed = |cause: String| ServerError::Join { server: join.server.clone(), cause };
    let token = Tokens::parse(&join.token).map_err(|error| failed(error.to_string()))?;
    let deadline = tokio::time::Instant::now() + JOIN_MAX;
    let mut server = join.server.clone();
    loop {
        let request =
            PeerJoinRequest { token: join.token.clone(), name: config.name.clone(), address: config.advertise.clone() };
        let channel = dial::pinned(&server, &token.fingerprint).await;
        let outcome = match channel {
            Ok(channel) => PeersClient::new(channel).join(request).await,
            Err(error) => Err(tonic::Status::unavailable(error)),
        };
        let status = match outcome {
            Ok(reply) => return Ok(reply.into_inner()),
            Err(status) => status,
        };
        match status.metadata().get(crate::admission::LEADER).and_then(|leader| leader.to_str().ok()) {
            Some(leader) if leader != server => server = leader.to_owned(),
            _ if status.code() != tonic::Code::Unavailable => return Err(failed(status.message().to_owned())),
            _ if tokio::time::Instant::now() > deadline => return Err(failed(status.message().to_owned())),
            _ => {
                server = join.server.clone();
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

pub fn admin_kubeconfig(config: &ServerConfig, authority: &Authority) -> Result<String, ServerError> {
    let identity = |error: &dyn std::fmt::Display| ServerError::Identity(error.to_string());
    let issued = authority
        .issue_client("admin", MASTERS_GROUP, Timestamp::now(), ADMIN_VALIDITY)
        .map_err(|error| identity(&error))?;
    let url = format!("https://{}", config.advertise);
    Ok(copepod_identity::kubeconfig(
        "copepod",
        &url,
        authority.certificate_pem(),
        &issued.certificate_pem,
        &issued.key_pem,
    ))
}
