//! The name service of the cluster, answered from memory (specification: github.com/kubernetes/dns, dns-schema 1.1.0).
//!
//! Names below `cluster.local` never leave the node: what services there are is known here. Everything else is passed on
//! to the node's own name servers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, CNAME, PTR, SRV},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
};

use crate::{CLUSTER_DOMAIN, Service, node::NetworkError};

/// Short, so that clients that keep answers see a change soon.
const TTL_SECONDS: u32 = 5;

/// How long another name server may take before the next one is asked.
const UPSTREAM_MAX: Duration = Duration::from_secs(2);

/// Questions passed on at a time; more are refused, so that a name server that is away does not pile them up here.
const UPSTREAM_QUESTIONS_MAX: usize = 256;

/// Connections at a time, and how long one may say nothing.
const CONNECTIONS_MAX: usize = 128;
const IDLE_MAX: Duration = Duration::from_secs(10);

/// What fits into a datagram where the asker says nothing (RFC 1035), and at most (RFC 9715).
const UDP_BYTES: u16 = 512;
const UDP_BYTES_MAX: u16 = 1232;

/// All names below the cluster's domain.
#[derive(Default)]
pub struct Names {
    addresses: BTreeMap<String, BTreeSet<Ipv4Addr>>,
    services: BTreeMap<String, Vec<(u16, String)>>,
    aliases: BTreeMap<String, String>,
    pointers: BTreeMap<String, String>,
    /// Names that have others below them: they exist, without records of their own.
    parents: BTreeSet<String>,
}

impl Names {
    pub fn of(services: &[Service]) -> Names {
        let mut names = Names::default();
        for service in services {
            let name = format!("{}.{}.svc.{CLUSTER_DOMAIN}", service.name, service.namespace);
            names.parents_of(&name);
            if let Some(elsewhere) = &service.external_name {
                names.aliases.insert(name, elsewhere.trim_end_matches('.').to_lowercase());
                continue;
            }
            if let Some(address) = service.address {
                names.addresses.entry(name.clone()).or_default().insert(address);
                names.pointers.insert(reversed(address), name.clone());
            }
            for port in &service.ports {
                let record =
                    (!port.name.is_empty()).then(|| format!("_{}._{}.{name}", port.name, port.protocol.word()));
                if let Some(record) = record.clone().filter(|_| service.address.is_some()) {
                    names.parents_of(&record);
                    names.services.entry(record).or_default().push((port.port, name.clone()));
                }
                if service.address.is_some() {
                    continue;
                }
                for endpoint in port.endpoints.iter().filter(|endpoint| endpoint.is_ready) {
                    let dashed = endpoint.address.to_string().replace('.', "-");
                    let host = format!("{}.{name}", endpoint.hostname.as_ref().unwrap_or(&dashed));
                    names.addresses.entry(name.clone()).or_default().insert(endpoint.address);
                    names.addresses.entry(host.clone()).or_default().insert(endpoint.address);
                    names.pointers.insert(reversed(endpoint.address), host.clone());
                    if let Some(record) = record.clone() {
                        names.parents_of(&record);
                        names.services.entry(record).or_default().push((endpoint.port, host));
                    }
                }
            }
        }
        names
    }

    fn parents_of(&mut self, name: &str) {
        let mut rest = name;
        while let Some((_, parent)) = rest.split_once('.') {
            if !parent.ends_with(CLUSTER_DOMAIN) || !self.parents.insert(parent.to_owned()) {
                return;
            }
            rest = parent;
        }
    }

    /// The records of a name, or that there is none. `None`: it is not ours to answer.
    fn answer(&self, name: &str, kind: RecordType) -> Option<Result<Vec<RData>, ResponseCode>> {
        let ours = name == CLUSTER_DOMAIN || name.ends_with(&format!(".{CLUSTER_DOMAIN}"));
        if kind == RecordType::PTR
            && let Some(target) = self.pointers.get(name)
        {
            return Some(Ok(absolute(target).map(|name| RData::PTR(PTR(name))).into_iter().collect()));
        }
        if !ours {
            return None;
        }
        if let Some(alias) = self.aliases.get(name) {
            return Some(Ok(absolute(alias).map(|name| RData::CNAME(CNAME(name))).into_iter().collect()));
        }
        let addresses = self.addresses.get(name);
        let services = self.services.get(name);
        if addresses.is_none() && services.is_none() && !self.parents.contains(name) && name != CLUSTER_DOMAIN {
            return Some(Err(ResponseCode::NXDomain));
        }
        let records = match kind {
            RecordType::A => addresses.into_iter().flatten().map(|address| RData::A(A(*address))).collect(),
            RecordType::SRV => services
                .into_iter()
                .flatten()
                .filter_map(|(port, host)| Some(RData::SRV(SRV::new(0, 100, *port, absolute(host)?))))
                .collect(),
            _ => Vec::new(),
        };
        Some(Ok(records))
    }
}

fn reversed(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("{d}.{c}.{b}.{a}.in-addr.arpa")
}

fn absolute(name: &str) -> Option<Name> {
    Name::from_ascii(format!("{name}.")).ok()
}

/// The server of one node.
pub struct Server {
    pub names: RwLock<Names>,
    upstream: Vec<SocketAddr>,
    passing: Semaphore,
    connections: Arc<Semaphore>,
}

impl Server {
    pub async fn start(address: Ipv4Addr, upstream: Vec<SocketAddr>) -> Result<Arc<Server>, NetworkError> {
        let failed = |error| NetworkError::io(format!("the name service at {address}:53"), error);
        let datagrams = Arc::new(UdpSocket::bind((address, 53)).await.map_err(failed)?);
        let listener = TcpListener::bind((address, 53)).await.map_err(failed)?;
        let server = Arc::new(Server {
            names: RwLock::default(),
            upstream,
            passing: Semaphore::new(UPSTREAM_QUESTIONS_MAX),
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        });
        tokio::spawn(server.clone().datagrams(datagrams));
        tokio::spawn(server.clone().connections(listener));
        Ok(server)
    }

    async fn datagrams(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let mut buffer = vec![0; 4096];
        loop {
            let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
            let question = buffer[..length].to_vec();
            let (server, socket) = (self.clone(), socket.clone());
            tokio::spawn(async move {
                if let Some(answer) = server.answer(&question, true).await {
                    let _ = socket.send_to(&answer, from).await;
                }
            });
        }
    }

    async fn connections(self: Arc<Self>, listener: TcpListener) {
        loop {
            let Ok(place) = self.connections.clone().acquire_owned().await else { return };
            let Ok((mut stream, _)) = listener.accept().await else { continue };
            let server = self.clone();
            tokio::spawn(async move {
                let _place = place;
                while let Ok(Some(question)) = tokio::time::timeout(IDLE_MAX, framed(&mut stream)).await {
                    let Some(answer) = server.answer(&question, false).await else { return };
                    let length = (answer.len() as u16).to_be_bytes();
                    if stream.write_all(&length).await.is_err() || stream.write_all(&answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    }

    /// `None`: not a question.
    async fn answer(&self, bytes: &[u8], datagram: bool) -> Option<Vec<u8>> {
        let question = Message::from_vec(bytes).ok()?;
        if question.metadata.message_type != MessageType::Query {
            return None;
        }
        let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
        answer.metadata.recursion_desired = question.metadata.recursion_desired;
        answer.metadata.recursion_available = true;
        let [query] = question.queries.as_slice() else {
            answer.metadata.response_code = ResponseCode::FormErr;
            return answer.to_vec().ok();
        };
        answer.add_query(query.clone());
        if question.metadata.op_code != OpCode::Query {
            answer.metadata.response_code = ResponseCode::NotImp;
            return answer.to_vec().ok();
        }
        let name = query.name().to_ascii().trim_end_matches('.').to_lowercase();
        let found = self.names.read().unwrap_or_else(PoisonError::into_inner).answer(&name, query.query_type());
        match found {
            Some(found) => {
                answer.metadata.authoritative = true;
                match found {
                    Ok(records) => {
                        let owner = query.name().clone();
                        answer.add_answers(
                            records.into_iter().map(|data| Record::from_rdata(owner.clone(), TTL_SECONDS, data)),
                        );
                    }
                    Err(code) => answer.metadata.response_code = code,
                }
            }
            None => match self.pass_on(bytes, datagram).await {
                Some(answer) => return Some(answer),
                None => answer.metadata.response_code = ResponseCode::ServFail,
            },
        }
        let text = answer.to_vec().ok()?;
        let room = question.edns.as_ref().map_or(UDP_BYTES, |edns| edns.max_payload().clamp(UDP_BYTES, UDP_BYTES_MAX));
        if datagram && text.len() > usize::from(room) {
            return answer.truncate().to_vec().ok();
        }
        Some(text)
    }

    async fn pass_on(&self, question: &[u8], datagram: bool) -> Option<Vec<u8>> {
        let _place = self.passing.try_acquire().ok()?;
        for server in &self.upstream {
            let asked = async {
                if !datagram {
                    let mut stream = TcpStream::connect(server).await.ok()?;
                    stream.write_all(&(question.len() as u16).to_be_bytes()).await.ok()?;
                    stream.write_all(question).await.ok()?;
                    return framed(&mut stream).await;
                }
                let socket = UdpSocket::bind(("0.0.0.0", 0)).await.ok()?;
                socket.connect(server).await.ok()?;
                socket.send(question).await.ok()?;
                let mut buffer = vec![0; 4096];
                loop {
                    let length = socket.recv(&mut buffer).await.ok()?;
                    // Only an answer to this very question.
                    if length >= 2 && buffer[..2] == question[..2] {
                        return Some(buffer[..length].to_vec());
                    }
                }
            };
            if let Ok(Some(answer)) = tokio::time::timeout(UPSTREAM_MAX, asked).await {
                return Some(answer);
            }
        }
        None
    }
}

/// A message on a connection: two bytes of length before it (RFC 1035 §4.2.2).
async fn framed(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).await.ok()?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).await.ok()?;
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Endpoint, ServicePort};

    fn names() -> Names {
        let endpoint = |last: u8, hostname: Option<&str>, is_ready| Endpoint {
            address: Ipv4Addr::new(10, 244, 0, last),
            port: 8080,
            is_local: true,
            is_ready,
            hostname: hostname.map(str::to_owned),
        };
        let port = |endpoints| ServicePort { name: "http".into(), port: 80, endpoints, ..ServicePort::default() };
        let service = |name: &str, address: Option<Ipv4Addr>, endpoints| Service {
            namespace: "d".into(),
            name: name.into(),
            address,
            ports: vec![port(endpoints)],
            ..Service::default()
        };
        let alias = Service { external_name: Some("Example.org".into()), ..service("out", None, vec![]) };
        Names::of(&[
            service("web", Some(Ipv4Addr::new(10, 96, 0, 7)), vec![endpoint(2, None, true)]),
            service("db", None, vec![endpoint(3, Some("db-0"), true), endpoint(4, None, false)]),
            alias,
        ])
    }

    fn ask(name: &str, kind: RecordType) -> String {
        match names().answer(name, kind) {
            None => "elsewhere".to_owned(),
            Some(Err(code)) => format!("{code:?}"),
            Some(Ok(records)) => records.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        }
    }

    #[test]
    fn services_have_names() {
        assert_eq!(ask("web.d.svc.cluster.local", RecordType::A), "10.96.0.7");
        assert_eq!(ask("web.d.svc.cluster.local", RecordType::AAAA), "");
        assert_eq!(ask("db.d.svc.cluster.local", RecordType::A), "10.244.0.3");
        assert_eq!(ask("db-0.db.d.svc.cluster.local", RecordType::A), "10.244.0.3");
        assert_eq!(ask("_http._tcp.web.d.svc.cluster.local", RecordType::SRV), "0 100 80 web.d.svc.cluster.local.");
        assert_eq!(ask("7.0.96.10.in-addr.arpa", RecordType::PTR), "web.d.svc.cluster.local.");
        assert_eq!(ask("out.d.svc.cluster.local", RecordType::A), "example.org.");
    }

    #[test]
    fn what_is_not_there_is_said_and_what_is_not_ours_is_passed_on() {
        assert_eq!(ask("none.d.svc.cluster.local", RecordType::A), "NXDomain");
        assert_eq!(ask("d.svc.cluster.local", RecordType::A), "");
        assert_eq!(ask("example.org", RecordType::A), "elsewhere");
        assert_eq!(ask("8.8.8.8.in-addr.arpa", RecordType::PTR), "elsewhere");
    }
}
