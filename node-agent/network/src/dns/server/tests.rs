//! Questions of a pod, and the name server outside counted.

use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::rr::rdata::A;

use super::*;
use crate::dns::names::tests::names;

const POD: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 244, 0, 9));

/// A name server that knows one name, and how often it was asked.
async fn outside() -> (SocketAddr, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).await.unwrap();
    let (address, asked) = (socket.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let count = asked.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            count.fetch_add(1, Ordering::Relaxed);
            let question = Message::from_vec(&buffer[..length]).unwrap();
            let mut answer = Message::response(question.metadata.id, OpCode::Query);
            let query = question.queries[0].clone();
            match query.name().to_string().as_str() {
                "example.org." if query.query_type() == RecordType::A => {
                    let data = RData::A(A::new(192, 0, 2, 1));
                    answer.add_answer(Record::from_rdata(query.name().clone(), 60, data));
                }
                "example.org." => {}
                "broken.org." => answer.metadata.response_code = ResponseCode::ServFail,
                _ => answer.metadata.response_code = ResponseCode::NXDomain,
            }
            answer.add_query(query);
            socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
        }
    });
    (address, asked)
}

async fn server() -> (Server, Arc<AtomicUsize>) {
    let (address, asked) = outside().await;
    let server = Server::new(vec![address]);
    server.set_names(names());
    let IpAddr::V4(pod) = POD else { unreachable!() };
    let conf = "search d.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n";
    server.set_search(pod, Some(Search::of(conf)));
    (server, asked)
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut question = Message::query();
    question.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    question
}

async fn asked(server: &Server, question: &Message, from: IpAddr) -> Message {
    let answer = server.answer(&question.to_vec().unwrap(), from, true).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

/// `NoError: web. 10.96.0.7`, and `+SOA` where the answer says for how long there is nothing.
async fn ask(server: &Server, name: &str, kind: RecordType) -> String {
    let answer = asked(server, &question(name, kind), POD).await;
    let mut text = format!("{:?}:", answer.metadata.response_code);
    for record in &answer.answers {
        text.push_str(&format!(" {}={}", record.name, record.data));
    }
    if answer.authorities.iter().any(|record| matches!(record.data, RData::SOA(_))) {
        text.push_str(" +SOA");
    }
    text
}

#[tokio::test]
async fn the_first_question_of_a_search_path_is_answered_with_its_outcome() {
    let (server, asked) = server().await;
    let outside = "example.org.d.svc.cluster.local.";
    assert_eq!(
        ask(&server, outside, RecordType::A).await,
        format!("NoError: {outside}=example.org. example.org.=192.0.2.1")
    );
    assert_eq!(ask(&server, outside, RecordType::AAAA).await, format!("NoError: {outside}=example.org."));
    let web = "web.d.d.svc.cluster.local.";
    let target = "web.d.svc.cluster.local.";
    assert_eq!(ask(&server, web, RecordType::A).await, format!("NoError: {web}={target} {target}=10.96.0.7"));
    assert_eq!(ask(&server, web, RecordType::AAAA).await, format!("NoError: {web}={target} +SOA"));
    assert_eq!(asked.load(Ordering::Relaxed), 2, "one question for each kind of address");
}

#[tokio::test]
async fn what_exists_is_answered_as_it_is_and_what_nothing_matches_does_not_exist() {
    let (server, asked) = server().await;
    for (name, expected) in [
        ("web.d.svc.cluster.local.", "NoError: web.d.svc.cluster.local.=10.96.0.7"),
        ("idle.d.svc.cluster.local.", "NoError: +SOA"),
        ("typo.d.svc.cluster.local.", "NXDomain: +SOA"),
        // A namespace, which is no host.
        ("d.d.svc.cluster.local.", "NXDomain: +SOA"),
        ("example.org.svc.cluster.local.", "NXDomain: +SOA"),
    ] {
        assert_eq!(ask(&server, name, RecordType::A).await, expected);
    }
    assert_eq!(asked.load(Ordering::Relaxed), 0, "nothing of that is anybody's business outside");
}

#[tokio::test]
async fn what_does_not_exist_outside_either_is_asked_once() {
    let (server, asked) = server().await;
    for suffix in ["d.svc.cluster.local.", "svc.cluster.local.", "cluster.local.", ""] {
        let answer = ask(&server, &format!("no.such.host.{suffix}"), RecordType::A).await;
        assert!(answer.starts_with("NXDomain:"), "{answer}");
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    assert!(ask(&server, "broken.org.d.svc.cluster.local.", RecordType::A).await.starts_with("NXDomain:"));
    assert_eq!(ask(&server, "broken.org.", RecordType::A).await, "ServFail:");
}

#[tokio::test]
async fn whoever_is_no_pod_of_this_node_is_answered_word_by_word() {
    let (server, _) = server().await;
    let question = question("example.org.d.svc.cluster.local.", RecordType::A);
    let answer = asked(&server, &question, [10, 244, 0, 1].into()).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn names_elsewhere_are_followed() {
    let (server, _) = server().await;
    let out = "out.d.svc.cluster.local.";
    assert_eq!(ask(&server, out, RecordType::A).await, format!("NoError: {out}=example.org. example.org.=192.0.2.1"));
    assert_eq!(ask(&server, out, RecordType::CNAME).await, format!("NoError: {out}=example.org."));
    let inside = "inside.d.svc.cluster.local.";
    let web = "web.d.svc.cluster.local.";
    assert_eq!(ask(&server, inside, RecordType::A).await, format!("NoError: {inside}={web} {web}=10.96.0.7"));
}

#[tokio::test]
async fn a_circle_of_names_ends() {
    let (server, _) = server().await;
    let circle = |name: &str, to: &str| crate::Service {
        namespace: "d".into(),
        name: name.into(),
        external_name: Some(format!("{to}.d.svc.cluster.local")),
        ..crate::Service::default()
    };
    server.set_names(Names::of(&[circle("a", "b"), circle("b", "a")]));
    let answer = asked(&server, &question("a.d.svc.cluster.local.", RecordType::A), POD).await;
    assert_eq!(answer.answers.len(), ALIASES_MAX + 1);
}

#[tokio::test]
async fn who_speaks_edns_is_answered_in_edns() {
    let (server, _) = server().await;
    let mut question = question("Web.d.svc.cluster.local.", RecordType::A);
    assert!(asked(&server, &question, POD).await.edns.is_none());
    question.set_edns(Edns::new());
    let answer = asked(&server, &question, POD).await;
    assert_eq!(answer.edns.as_ref().map(Edns::max_payload), Some(UDP_BYTES_MAX));
    assert_eq!(answer.answers[0].name.to_string(), "Web.d.svc.cluster.local.", "as it was asked");
    question.edns.as_mut().unwrap().set_version(1);
    // BADVERS; the same number means BADSIG elsewhere.
    assert_eq!(u16::from(asked(&server, &question, POD).await.metadata.response_code), 16);
}

#[tokio::test]
async fn nonsense_is_refused_or_left() {
    let (server, _) = server().await;
    assert_eq!(server.answer(b"hello", POD, true).await, None);
    let mut none = Message::query();
    assert_eq!(asked(&server, &none, POD).await.metadata.response_code, ResponseCode::FormErr);
    none.metadata.message_type = MessageType::Response;
    assert_eq!(server.answer(&none.to_vec().unwrap(), POD, true).await, None);
    let mut chaos = question("version.bind.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(asked(&server, &chaos, POD).await.metadata.response_code, ResponseCode::Refused);
}
