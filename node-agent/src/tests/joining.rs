//! Joining a cluster over real TLS: the token pins the authority, the node's certificate opens the session.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use copepod_api::Timestamp;
use copepod_identity::{Authority, Role, Tokens, server_config, user_of_certificate};
use copepod_proto::nodes::{
    FromNode, JoinReply, JoinRequest, RenewRequest, ToNode, TokenReply, TokenRequest, TunnelData,
    nodes_client::NodesClient,
    nodes_server::{Nodes, NodesServer},
};
use futures::StreamExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status, Streaming,
    transport::server::{TcpConnectInfo, TlsConnectInfo},
};

use crate::{
    config::{AgentConfig, AgentError, RuntimeChoice},
    connect::Dial,
    membership::Membership,
};

const HOUR: Duration = Duration::from_secs(3600);

/// Signs whoever comes, and tells each caller in the reply to `renew` who its certificate says it is.
struct Front {
    authority: Arc<Authority>,
}

fn caller<T>(request: &Request<T>) -> Option<String> {
    let info = request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>()?;
    let certificates = info.peer_certs()?;
    Some(user_of_certificate(certificates.first()?)?.name.to_string())
}

#[tonic::async_trait]
impl Nodes for Front {
    type SessionStream = tokio_stream::Empty<Result<ToNode, Status>>;
    type TunnelStream = tokio_stream::Empty<Result<TunnelData, Status>>;

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        assert_eq!(caller(&request), None);
        let asked = request.into_inner();
        if Tokens::parse(&asked.token).unwrap().role != Role::Node {
            return Err(Status::unauthenticated("the token is for servers"));
        }
        let user = format!("system:node:{}", asked.node_name);
        let signed =
            self.authority.sign_request(&asked.certificate_request, &user, "system:nodes", Timestamp::now(), 24 * HOUR);
        let certificate = signed.unwrap();
        Ok(Response::new(JoinReply {
            certificate,
            authority: self.authority.certificate_pem().into(),
            servers: vec![],
        }))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<JoinReply>, Status> {
        let certificate = caller(&request).ok_or_else(|| Status::unauthenticated("no certificate"))?;
        Ok(Response::new(JoinReply { certificate, ..JoinReply::default() }))
    }

    async fn token(&self, _: Request<TokenRequest>) -> Result<Response<TokenReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn session(&self, _: Request<Streaming<FromNode>>) -> Result<Response<Self::SessionStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn tunnel(&self, _: Request<Streaming<TunnelData>>) -> Result<Response<Self::TunnelStream>, Status> {
        Err(Status::unimplemented(""))
    }
}

async fn serve(authority: Arc<Authority>) -> String {
    let issued = authority.issue_server("s1", "127.0.0.1", Timestamp::now()).unwrap();
    let tls = TlsAcceptor::from(Arc::new(server_config(authority.certificate_pem(), &issued).unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let incoming = TcpListenerStream::new(listener).filter_map(move |stream| {
        let tls = tls.clone();
        // A client that does not trust us breaks its handshake off; the others are served on.
        async move { tls.accept(stream.ok()?).await.ok().map(Ok::<TlsStream<TcpStream>, std::io::Error>) }
    });
    let server = tonic::transport::Server::builder().add_service(NodesServer::new(Front { authority }));
    tokio::spawn(async move { server.serve_with_incoming(Box::pin(incoming)).await });
    address
}

fn config(dir: &std::path::Path, server: Option<String>, token: Option<String>) -> AgentConfig {
    AgentConfig {
        name: "n1".into(),
        cgroup: "n1".into(),
        data_dir: dir.into(),
        run_dir: dir.into(),
        images_dir: dir.into(),
        server,
        token,
        address: None,
        labels: BTreeMap::new(),
        runtime: RuntimeChoice::Embedded,
        mirrors: Vec::new(),
    }
}

fn token(authority: &Authority, role: Role) -> String {
    Tokens::mint(role, authority.certificate_pem(), HOUR, Timestamp::now()).unwrap().text
}

#[tokio::test]
async fn a_token_buys_a_certificate_that_is_kept() {
    let authority = Arc::new(Authority::create(Timestamp::now()).unwrap());
    let server = serve(authority.clone()).await;
    let dir = tempfile::tempdir().unwrap();
    let with_token = config(dir.path(), Some(server.clone()), Some(token(&authority, Role::Node)));
    let membership = Membership::establish(&with_token).await.unwrap();
    assert_eq!(membership.authority(), authority.certificate_pem());
    let first_certificate = std::fs::read(dir.path().join("identity/membership.json")).unwrap();

    // The next life needs neither the token nor a word from the server.
    let again = Membership::establish(&config(dir.path(), Some(server.clone()), None)).await.unwrap();
    assert_eq!(std::fs::read(dir.path().join("identity/membership.json")).unwrap(), first_certificate);
    let mut client = NodesClient::new(again.dial(&again.servers()[0]).await.unwrap());
    let said = client.renew(RenewRequest::default()).await.unwrap().into_inner().certificate;
    assert_eq!(said, "system:node:n1");
}

#[tokio::test]
async fn a_node_that_cannot_join_says_why() {
    let authority = Arc::new(Authority::create(Timestamp::now()).unwrap());
    let server = serve(authority.clone()).await;
    let cases = [
        (Some(server.clone()), None, "copepod token create"),
        (None, Some(token(&authority, Role::Node)), "--server"),
        (Some(server.clone()), Some("nonsense".to_owned()), "copy it whole"),
        (Some(server.clone()), Some(token(&authority, Role::Server)), "the token is for servers"),
    ];
    for (server, token, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        match Membership::establish(&config(dir.path(), server, token)).await {
            Err(AgentError::Join(said)) => assert!(said.contains(expected), "{said}"),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("joined without {expected}"),
        }
    }
}

#[tokio::test]
async fn a_token_of_another_cluster_never_reaches_this_one() {
    let (ours, theirs) = (Authority::create(Timestamp::now()).unwrap(), Authority::create(Timestamp::now()).unwrap());
    let server = serve(Arc::new(ours)).await;
    let dir = tempfile::tempdir().unwrap();
    let foreign = config(dir.path(), Some(server), Some(token(&theirs, Role::Node)));
    // It keeps trying, as it would with a cluster that is not up yet; it must not have joined meanwhile.
    let joined = tokio::time::timeout(Duration::from_millis(300), Membership::establish(&foreign)).await;
    assert!(joined.is_err());
    assert!(!dir.path().join("identity/membership.json").exists());
}
