//! Who becomes part of the cluster: nodes and servers that hold a token.

use std::{sync::Arc, time::Duration};

use copepod_api::{Key, Object, Timestamp, resource::SECRETS};
use copepod_apiserver::AccountKeysCache;
use copepod_identity::{Authority, Role, Tokens};
use copepod_nodes::Issue;
use copepod_proto::peers::{Member, PeerJoinReply, PeerJoinRequest};
use copepod_replica::Replica;
use copepod_store::{Door, Leader, View};
use tonic::Status;

use crate::{door::ServerDoor, keys::Keys};

/// The metadata entry by which a refused caller is told where the leader is.
pub const LEADER: &str = "copepod-leader";

/// Nodes renew at two thirds of it.
const NODE_VALIDITY: Duration = Duration::from_secs(90 * 24 * 3600);

pub struct Admission {
    authority: Arc<Authority>,
    keys: Keys,
    account_keys: AccountKeysCache,
    door: Arc<ServerDoor>,
    replica: Replica,
}

impl Admission {
    pub fn new(authority: Arc<Authority>, keys: Keys, door: Arc<ServerDoor>, replica: Replica) -> Admission {
        Admission { authority, keys, account_keys: AccountKeysCache::default(), door, replica }
    }

    /// A machine with a server token becomes a learner, and a voter when it has caught up.
    pub async fn server(&self, request: PeerJoinRequest) -> Result<PeerJoinReply, Status> {
        match self.door.leader() {
            Leader::Here => (),
            Leader::At(leader) => {
                let mut status = Status::unavailable("another server leads");
                if let Ok(value) = leader.parse() {
                    status.metadata_mut().insert(LEADER, value);
                }
                return Err(status);
            }
            Leader::Unknown => return Err(Status::unavailable("no server leads at the moment")),
        }
        let view = self.door.fresh().await.map_err(|status| Status::unavailable(status.message().to_owned()))?;
        self.verify(&view, &request.token, Role::Server)?;
        copepod_api::names::dns_subdomain(&request.name)
            .map_err(|why| Status::invalid_argument(format!("server name {:?}: {why}", request.name)))?;
        let member = self
            .replica
            .add_member(&request.name, &request.address)
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        tracing::info!(server = request.name, address = request.address, "a server joins");
        let members = self.replica.members().into_iter().map(|member| Member {
            id: member.id,
            name: member.name,
            address: member.address,
            learner: member.learner,
        });
        Ok(PeerJoinReply {
            id: member.id,
            members: members.collect(),
            keys: self.keys.shared().map_err(|error| Status::internal(error.to_string()))?,
            cluster_id: self.replica.cluster_id(),
        })
    }

    /// Tokens are kept as Secrets in kube-system that hold a hash of the secret part.
    fn verify(&self, view: &View, text: &str, role: Role) -> Result<(), Status> {
        let refused = || {
            Status::unauthenticated(
                "the token is unknown, expired or of another cluster; make a new one with `copepod token create`",
            )
        };
        let token = Tokens::parse(text).map_err(|error| Status::unauthenticated(error.to_string()))?;
        let key = Key::new(SECRETS, Tokens::NAMESPACE, token.secret_name().as_str());
        let secret = view.object(&key).ok_or_else(refused)?;
        let valid = token.role == role && Tokens::verify(secret.value(), &token, Timestamp::now());
        if valid { Ok(()) } else { Err(refused()) }
    }
}

impl Issue for Admission {
    fn admit(&self, view: &View, token: &str) -> Result<(), Status> {
        self.verify(view, token, Role::Node)
    }

    fn sign_node(&self, request: &str, user: &copepod_api::User) -> Result<String, String> {
        let group = user.groups.first().map_or("", |group| group);
        let signed = self.authority.sign_request(request, &user.name, group, Timestamp::now(), NODE_VALIDITY);
        signed.map_err(|error| error.to_string())
    }

    fn pod_token(&self, view: &View, pod: &Object, audience: &str, seconds: i64) -> Result<(String, i64), String> {
        let audiences = (!audience.is_empty()).then(|| audience.to_owned()).into_iter().collect();
        let issued = copepod_apiserver::pod_token(&self.account_keys, view, pod, audiences, seconds);
        issued.map_err(|status| status.message().to_owned())
    }

    fn authority(&self) -> String {
        self.authority.certificate_pem().to_owned()
    }

    fn servers(&self) -> Vec<String> {
        self.replica.members().into_iter().map(|member| member.address).collect()
    }
}
