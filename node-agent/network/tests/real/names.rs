//! Questions of a pod to the name service of its node, over both kinds of sockets.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream, UdpSocket},
    time::Duration,
};

use crate::world::{Pod, Wire, search};
use copepod_network::{Service, Wishes};
use hickory_proto::{
    op::{Message, Query},
    rr::{Name, RecordType},
};

const SERVER: (Ipv4Addr, u16) = (copepod_network::DNS_ADDRESS, 53);

fn question(name: &str) -> Vec<u8> {
    let mut question = Message::query();
    question.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    question.to_vec().unwrap()
}

fn told(answer: &[u8]) -> String {
    let answer = Message::from_vec(answer).unwrap();
    let records: Vec<String> = answer.answers.iter().map(|record| record.data.to_string()).collect();
    format!("{:?} {}", answer.metadata.response_code, records.join(" "))
}

fn by_datagram(pod: &Pod, name: &str) -> String {
    let question = question(name);
    pod.space.run(move || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket.connect(SERVER).unwrap();
        socket.send(&question).unwrap();
        let mut answer = [0; 512];
        let length = socket.recv(&mut answer).unwrap();
        told(&answer[..length])
    })
}

fn by_connection(pod: &Pod, name: &str) -> String {
    let question = question(name);
    pod.space.run(move || {
        let mut stream = TcpStream::connect(SERVER).unwrap();
        stream.write_all(&(question.len() as u16).to_be_bytes()).unwrap();
        stream.write_all(&question).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut answer).unwrap();
        told(&answer)
    })
}

#[test]
fn a_pod_finds_services_with_one_question_also_when_the_agent_has_started_again() {
    let mut wire = Wire::new();
    let node = wire.node();
    let web = Service {
        namespace: "d".into(),
        name: "web".into(),
        address: Some(Ipv4Addr::new(10, 96, 0, 5)),
        ..Service::default()
    };
    node.peers(&[]);
    node.services(std::slice::from_ref(&web));
    let pod = node.pod_with("a", Wishes { search: search(), ..Wishes::default() });
    assert_eq!(by_datagram(&pod, "web.d.svc.cluster.local."), "NoError 10.96.0.5");
    let found = "NoError web.d.svc.cluster.local. 10.96.0.5";
    assert_eq!(by_datagram(&pod, "web.d.d.svc.cluster.local."), found);
    assert_eq!(by_connection(&pod, "web.d.d.svc.cluster.local."), found);
    let node = node.restart();
    node.services(&[web]);
    assert_eq!(by_datagram(&pod, "web.d.d.svc.cluster.local."), found);
    assert_eq!(by_datagram(&pod, "none.d.svc.cluster.local."), "NXDomain ");
}
