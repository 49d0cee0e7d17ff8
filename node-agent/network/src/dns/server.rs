//! The sockets of the name service, and how a question becomes an answer.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType, rdata::CNAME},
};
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::Semaphore,
};

use super::{
    Names, Reply, Search, TTL_SECONDS, absolute,
    names::Found,
    upstream::{Upstream, framed, send},
};
use crate::node::NetworkError;

/// Connections at a time, and how long one may say nothing.
const CONNECTIONS_MAX: usize = 128;
const IDLE_MAX: Duration = Duration::from_secs(10);

/// Rest after a socket has failed: what it lacks (descriptors, memory) does not come back by asking faster.
const REST: Duration = Duration::from_millis(100);

/// What fits into a datagram where the asker says nothing (RFC 1035), and at most (RFC 9715).
const UDP_BYTES: u16 = 512;
const UDP_BYTES_MAX: u16 = 1232;

/// The only version of EDNS (RFC 6891).
const EDNS_VERSION: u8 = 0;

/// Names that lead to other names: more than that is a circle.
const ALIASES_MAX: usize = 8;

/// How long the rest of a search path may take. After that the name asked for is said not to exist, which is so, and
/// the pod goes on by itself, long before it would give up waiting (5 s).
const SEARCH_MAX: Duration = Duration::from_secs(2);

/// The name server of one node.
pub struct Server {
    names: RwLock<Names>,
    /// The pods of this node, by their addresses.
    searches: RwLock<BTreeMap<Ipv4Addr, Search>>,
    upstream: Upstream,
    connections: Arc<Semaphore>,
}

impl Server {
    pub async fn start(address: SocketAddr, upstream: Vec<SocketAddr>) -> Result<Arc<Server>, NetworkError> {
        let failed = |error| NetworkError::io(format!("the name service at {address}"), error);
        let datagrams = Arc::new(UdpSocket::bind(address).await.map_err(failed)?);
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let server = Arc::new(Server::new(upstream));
        tokio::spawn(server.clone().datagrams(datagrams));
        tokio::spawn(server.clone().connections(listener));
        Ok(server)
    }

    fn new(upstream: Vec<SocketAddr>) -> Server {
        Server {
            names: RwLock::default(),
            searches: RwLock::default(),
            upstream: Upstream::new(upstream),
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        }
    }

    pub fn set_names(&self, names: Names) {
        *self.names.write().unwrap_or_else(PoisonError::into_inner) = names;
    }

    /// The search path of the pod with this address; `None` when it is gone.
    pub fn set_search(&self, pod: Ipv4Addr, search: Option<Search>) {
        let mut searches = self.searches.write().unwrap_or_else(PoisonError::into_inner);
        match search {
            Some(search) => searches.insert(pod, search),
            None => searches.remove(&pod),
        };
    }

    async fn datagrams(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let mut buffer = vec![0; usize::from(u16::MAX)];
        loop {
            let Some((length, from)) = got(socket.recv_from(&mut buffer).await).await else { continue };
            let question = buffer[..length].to_vec();
            let (server, socket) = (self.clone(), socket.clone());
            tokio::spawn(async move {
                if let Some(answer) = server.answer(&question, from.ip(), true).await {
                    let _ = socket.send_to(&answer, from).await;
                }
            });
        }
    }

    async fn connections(self: Arc<Self>, listener: TcpListener) {
        loop {
            let Ok(place) = self.connections.clone().acquire_owned().await else { return };
            let Some((mut stream, from)) = got(listener.accept().await).await else { continue };
            let server = self.clone();
            tokio::spawn(async move {
                let _place = place;
                while let Ok(Some(question)) = tokio::time::timeout(IDLE_MAX, framed(&mut stream)).await {
                    let Some(answer) = server.answer(&question, from.ip(), false).await else { return };
                    let Ok(Some(())) = tokio::time::timeout(IDLE_MAX, send(&mut stream, &answer)).await else { return };
                }
            });
        }
    }

    /// `None`: not a question.
    async fn answer(&self, bytes: &[u8], from: IpAddr, datagram: bool) -> Option<Vec<u8>> {
        let question = Message::from_vec(bytes).ok()?;
        if question.metadata.message_type != MessageType::Query {
            return None;
        }
        let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
        answer.metadata.recursion_desired = question.metadata.recursion_desired;
        answer.metadata.recursion_available = true;
        answer.add_queries(question.queries.iter().cloned());
        if question.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_BYTES_MAX).set_version(EDNS_VERSION);
            answer.set_edns(edns);
        }
        answer.metadata.response_code = match question.queries.as_slice() {
            _ if question.metadata.op_code != OpCode::Query => ResponseCode::NotImp,
            _ if question.edns.as_ref().is_some_and(|edns| edns.version() > EDNS_VERSION) => ResponseCode::BADVERS,
            [query] if query.query_class() != DNSClass::IN => ResponseCode::Refused,
            [query] => {
                let checked = question.metadata.checking_disabled
                    || question.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
                if checked && matches!(self.found(query.name(), query.query_type()), Found::Elsewhere) {
                    if let Some(answer) = self.upstream.pass_on(bytes, datagram).await {
                        return Some(answer);
                    }
                    ResponseCode::ServFail
                } else {
                    self.fill(&mut answer, query, from).await
                }
            }
            _ => ResponseCode::FormErr,
        };
        let text = answer.to_vec().ok()?;
        let room = question.edns.as_ref().map_or(UDP_BYTES, |edns| edns.max_payload().clamp(UDP_BYTES, UDP_BYTES_MAX));
        if datagram && text.len() > usize::from(room) {
            return answer.truncate().to_vec().ok();
        }
        Some(text)
    }

    async fn fill(&self, answer: &mut Message, query: &Query, from: IpAddr) -> ResponseCode {
        let mut reply = self.resolve(query.name(), query.query_type()).await;
        if reply.code == ResponseCode::NXDomain
            && reply.authoritative
            && let Some(found) = self.searched(query, from).await
        {
            reply = found;
        }
        // Clients take the first of several; the number of a question is its asker's dice.
        let alike = reply.answers.iter().all(|record| record.name == *query.name());
        if alike && !reply.answers.is_empty() {
            let first = usize::from(answer.metadata.id) % reply.answers.len();
            reply.answers.rotate_left(first);
        }
        for record in &mut reply.answers {
            // As it was written in the question: some check that (0x20).
            if record.name == *query.name() {
                record.name = query.name().clone();
            }
        }
        answer.metadata.authoritative = reply.authoritative;
        answer.metadata.truncation = reply.truncated;
        answer.answers = reply.answers;
        answer.authorities = reply.authorities;
        answer.additionals = reply.additionals;
        reply.code
    }

    fn found(&self, name: &Name, kind: RecordType) -> Found {
        let name = name.to_ascii().trim_end_matches('.').to_lowercase();
        self.names.read().unwrap_or_else(PoisonError::into_inner).find(&name, kind)
    }

    /// What a name is, with the names that it leads to.
    async fn resolve(&self, name: &Name, kind: RecordType) -> Reply {
        let mut aliases = Vec::new();
        let mut owner = name.clone();
        let authoritative = !matches!(self.found(name, kind), Found::Elsewhere);
        loop {
            let mut reply = match self.found(&owner, kind) {
                Found::Elsewhere => self.upstream.ask(&owner, kind).await,
                Found::Missing => Reply::without_records(ResponseCode::NXDomain),
                Found::Alias(target) if kind == RecordType::CNAME || aliases.len() >= ALIASES_MAX => Reply {
                    answers: vec![Record::from_rdata(owner, TTL_SECONDS, RData::CNAME(CNAME(target)))],
                    ..Reply::of(ResponseCode::NoError)
                },
                Found::Alias(target) => {
                    aliases.push(Record::from_rdata(owner, TTL_SECONDS, RData::CNAME(CNAME(target.clone()))));
                    owner = target;
                    continue;
                }
                Found::Records(records) if records.is_empty() => Reply::without_records(ResponseCode::NoError),
                Found::Records(records) => {
                    let additionals = records.iter().flat_map(|data| self.beside(data)).collect();
                    let own = |data| Record::from_rdata(owner.clone(), TTL_SECONDS, data);
                    let answers = records.into_iter().map(own).collect();
                    Reply { answers, additionals, ..Reply::of(ResponseCode::NoError) }
                }
            };
            aliases.append(&mut reply.answers);
            return Reply { answers: aliases, authoritative, ..reply };
        }
    }

    /// The addresses of a host that a service record names, so that nobody needs to ask for them.
    fn beside(&self, data: &RData) -> Vec<Record> {
        let RData::SRV(service) = data else { return Vec::new() };
        let Found::Records(addresses) = self.found(&service.target, RecordType::A) else { return Vec::new() };
        addresses.into_iter().map(|data| Record::from_rdata(service.target.clone(), TTL_SECONDS, data)).collect()
    }

    /// For a name that does not exist: what the search path of the pod that asks leads to, as an alias of the name.
    async fn searched(&self, query: &Query, from: IpAddr) -> Option<Reply> {
        let (IpAddr::V4(pod), RecordType::A | RecordType::AAAA) = (from, query.query_type()) else { return None };
        let name = query.name().to_ascii().trim_end_matches('.').to_lowercase();
        let following = {
            let searches = self.searches.read().unwrap_or_else(PoisonError::into_inner);
            searches.get(&pod)?.after(&name)
        };
        let searched = async {
            for candidate in following {
                let Some(candidate) = absolute(&candidate) else { continue };
                // A name counts when it has addresses of whatever kind: both questions must have the same outcome.
                let exists = match self.found(&candidate, RecordType::A) {
                    Found::Missing => false,
                    Found::Records(addresses) => !addresses.is_empty(),
                    Found::Alias(_) | Found::Elsewhere => true,
                };
                if !exists {
                    continue;
                }
                let reply = self.resolve(&candidate, query.query_type()).await;
                match reply.code {
                    ResponseCode::NoError => return Some((candidate, reply)),
                    ResponseCode::NXDomain => {}
                    // Nobody knows, so nobody should say that the candidates after it were meant.
                    _ => return None,
                }
            }
            None
        };
        let (found, mut reply) = tokio::time::timeout(SEARCH_MAX, searched).await.ok()??;
        let alias = Record::from_rdata(query.name().clone(), TTL_SECONDS, RData::CNAME(CNAME(found)));
        reply.answers.insert(0, alias);
        Some(Reply { authoritative: true, ..reply })
    }
}

/// What a socket gave; a failure is followed by a rest.
async fn got<T>(outcome: io::Result<T>) -> Option<T> {
    match outcome {
        Ok(got) => Some(got),
        Err(error) => {
            tracing::debug!(%error, "a socket of the name service");
            tokio::time::sleep(REST).await;
            None
        }
    }
}

#[cfg(test)]
mod tests;
