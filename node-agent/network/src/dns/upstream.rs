//! Names outside the cluster: asked of the node's own name servers, and kept for a while.
//!
//! What is kept answers the later questions of a search path, and those of other pods. A failure is kept as well, for a
//! moment (RFC 9520): else every step of a search path would wait for a name server that is away.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, MessageType, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    sync::Semaphore,
};

use super::Reply;

/// How long another name server may take before the next one is asked.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// Questions passed on at a time; more are refused, so that a name server that is away does not pile them up here.
const QUESTIONS_MAX: usize = 256;

/// An answer is kept for as long as its records say, and at most so long: what moves outside is seen within that time.
const KEPT_MAX: Duration = Duration::from_secs(30);
/// How long it is kept that a name does not exist, where nobody says it, and that nobody answered.
const NOTHING_KEPT: Duration = Duration::from_secs(5);
const FAILURE_KEPT: Duration = Duration::from_secs(2);

/// Answers kept at a time; at a few hundred bytes each, about a megabyte.
const ANSWERS_MAX: usize = 4096;

/// The longest datagram taken from another name server.
const DATAGRAM: usize = 4096;

pub struct Upstream {
    servers: Vec<SocketAddr>,
    passing: Semaphore,
    kept: Mutex<Kept>,
}

impl Upstream {
    pub fn new(servers: Vec<SocketAddr>) -> Upstream {
        Upstream { servers, passing: Semaphore::new(QUESTIONS_MAX), kept: Mutex::default() }
    }

    pub async fn ask(&self, name: &Name, kind: RecordType) -> Reply {
        let key = (name.to_lowercase(), kind);
        if let Some(reply) = self.kept().get(&key, Instant::now()) {
            return reply;
        }
        let mut question = Message::query();
        question.metadata.recursion_desired = true;
        question.add_query(Query::query(key.0.clone(), kind));
        let Ok(_place) = self.passing.try_acquire() else { return Reply::of(ResponseCode::ServFail) };
        let reply = self.reply(&question).await.unwrap_or_else(|| Reply::of(ResponseCode::ServFail));
        self.kept().put(key, &reply, Instant::now());
        reply
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first useful answer, or the last of those that refuse.
    async fn reply(&self, question: &Message) -> Option<Reply> {
        let bytes = question.to_vec().ok()?;
        let mut refused = None;
        for server in &self.servers {
            let Some(answer) = asked(*server, &bytes, true).await.and_then(|answer| read(question, &answer)) else {
                continue;
            };
            let whole = match answer.metadata.truncation {
                true => asked(*server, &bytes, false).await.and_then(|answer| read(question, &answer)),
                false => None,
            };
            let reply = of(whole.unwrap_or(answer));
            match reply.code {
                ResponseCode::NoError | ResponseCode::NXDomain => return Some(reply),
                _ => refused = Some(reply),
            }
        }
        refused
    }

    /// A question as it came, for what only the other name server can say (DNSSEC); nothing of it is kept.
    pub async fn pass_on(&self, question: &[u8], datagram: bool) -> Option<Vec<u8>> {
        let _place = self.passing.try_acquire().ok()?;
        for server in &self.servers {
            if let Some(answer) = asked(*server, question, datagram).await {
                return Some(answer);
            }
        }
        None
    }
}

async fn asked(server: SocketAddr, question: &[u8], datagram: bool) -> Option<Vec<u8>> {
    let asked = async {
        if !datagram {
            let mut stream = TcpStream::connect(server).await.ok()?;
            send(&mut stream, question).await?;
            return framed(&mut stream).await;
        }
        let from = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(from).await.ok()?;
        socket.connect(server).await.ok()?;
        socket.send(question).await.ok()?;
        let mut buffer = vec![0; DATAGRAM];
        loop {
            let length = socket.recv(&mut buffer).await.ok()?;
            // Only an answer to this very question.
            if length >= 2 && buffer[..2] == question[..2] {
                return Some(buffer[..length].to_vec());
            }
        }
    };
    tokio::time::timeout(ANSWER_MAX, asked).await.ok()?
}

/// A message on a connection: two bytes of length before it (RFC 1035 §4.2.2).
pub async fn framed(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).await.ok()?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).await.ok()?;
    Some(message)
}

pub async fn send(stream: &mut TcpStream, message: &[u8]) -> Option<()> {
    let length = u16::try_from(message.len()).ok()?;
    let framed = [&length.to_be_bytes(), message].concat();
    stream.write_all(&framed).await.ok()
}

/// Who answers says again what was asked.
fn read(question: &Message, answer: &[u8]) -> Option<Message> {
    let answer = Message::from_vec(answer).ok()?;
    let fits = answer.metadata.message_type == MessageType::Response && answer.queries == question.queries;
    fits.then_some(answer)
}

fn of(answer: Message) -> Reply {
    Reply {
        code: answer.metadata.response_code,
        authoritative: false,
        truncated: answer.metadata.truncation,
        answers: answer.answers,
        // Of the other sections only what says how long a negative answer holds is of use to those who ask here.
        authorities: answer.authorities.into_iter().filter(|record| matches!(record.data, RData::SOA(_))).collect(),
        additionals: Vec::new(),
    }
}

/// Answers, until when they hold.
#[derive(Default)]
struct Kept {
    answers: BTreeMap<(Name, RecordType), (Reply, Instant, Instant)>,
}

impl Kept {
    fn get(&mut self, key: &(Name, RecordType), now: Instant) -> Option<Reply> {
        let (reply, since, until) = self.answers.get(key)?;
        if *until <= now {
            self.answers.remove(key);
            return None;
        }
        let age = u32::try_from(now.saturating_duration_since(*since).as_secs()).unwrap_or(u32::MAX);
        let mut reply = reply.clone();
        for record in reply.answers.iter_mut().chain(&mut reply.authorities) {
            record.ttl = record.ttl.saturating_sub(age);
        }
        Some(reply)
    }

    fn put(&mut self, key: (Name, RecordType), reply: &Reply, now: Instant) {
        let time = kept_for(reply).min(KEPT_MAX);
        if time.is_zero() {
            return;
        }
        if self.answers.len() >= ANSWERS_MAX {
            self.answers.retain(|_, (_, _, until)| *until > now);
        }
        if self.answers.len() >= ANSWERS_MAX {
            let soonest = self.answers.iter().min_by_key(|(_, (_, _, until))| *until).map(|(key, _)| key.clone());
            soonest.and_then(|key| self.answers.remove(&key));
        }
        self.answers.insert(key, (reply.clone(), now, now + time));
    }
}

fn kept_for(reply: &Reply) -> Duration {
    if reply.truncated {
        return Duration::ZERO;
    }
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    let negative = reply.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(zone) => Some(seconds(record.ttl.min(zone.minimum))),
        _ => None,
    });
    let shortest = reply.answers.iter().map(|record| seconds(record.ttl)).min();
    match reply.code {
        // An alias to a name without such records has both.
        ResponseCode::NoError | ResponseCode::NXDomain => match (shortest, negative) {
            (Some(shortest), Some(negative)) => shortest.min(negative),
            (Some(time), None) | (None, Some(time)) => time,
            (None, None) => NOTHING_KEPT,
        },
        _ => FAILURE_KEPT,
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::{Record, rdata::A};

    use super::*;
    use crate::dns::{absolute, zone};

    fn key(name: &str) -> (Name, RecordType) {
        (absolute(name).unwrap(), RecordType::A)
    }

    fn found(ttl: u32) -> Reply {
        let record = Record::from_rdata(absolute("example.com").unwrap(), ttl, RData::A(A::new(192, 0, 2, 1)));
        Reply { answers: vec![record], ..Reply::of(ResponseCode::NoError) }
    }

    #[test]
    fn answers_hold_as_long_as_they_say_and_not_longer_than_a_while() {
        let (mut kept, start) = (Kept::default(), Instant::now());
        let mut ttl = |ttl: u32, after: u64| {
            kept.put(key("example.com"), &found(ttl), start);
            kept.get(&key("example.com"), start + Duration::from_secs(after)).map(|reply| reply.answers[0].ttl)
        };
        assert_eq!([ttl(20, 0), ttl(20, 7), ttl(20, 20)], [Some(20), Some(13), None]);
        assert_eq!([ttl(3600, 29), ttl(3600, 30)], [Some(3571), None]);
        assert_eq!(ttl(0, 0), None);
    }

    #[test]
    fn what_does_not_exist_is_kept_as_its_zone_says_and_failures_for_a_moment() {
        let absent = Reply { authorities: zone().into_iter().collect(), ..Reply::of(ResponseCode::NXDomain) };
        assert_eq!(kept_for(&absent), Duration::from_secs(5));
        assert_eq!(kept_for(&Reply::of(ResponseCode::ServFail)), FAILURE_KEPT);
        assert_eq!(kept_for(&Reply { truncated: true, ..found(9) }), Duration::ZERO);
    }

    #[test]
    fn the_number_of_answers_is_bounded() {
        let (mut kept, start) = (Kept::default(), Instant::now());
        for number in 0..ANSWERS_MAX + 5 {
            kept.put(key(&format!("n{number}.example.com")), &found(9), start);
        }
        assert_eq!(kept.answers.len(), ANSWERS_MAX);
    }
}
