//! Packets, from pods and machines to pods and services, through two real nodes.

use std::net::Ipv4Addr;

use crate::world::{Node, Pod, Space, Wire, again, answers, node_far_away, search};
use copepod_network::{Endpoint, HostPort, Protocol, Service, ServicePort, Wishes};

pub const WEB: &str = "10.96.0.5:80";

pub fn service(endpoints: &[&Pod], own: u8, protocol: Protocol) -> Service {
    let endpoints = endpoints.iter().map(|pod| Endpoint {
        address: pod.address,
        port: 8080,
        is_local: pod.node == own,
        is_ready: true,
        is_leaving: false,
    });
    let port = ServicePort {
        protocol,
        port: 80,
        node_port: Some(30080),
        endpoints: endpoints.collect(),
        ..ServicePort::default()
    };
    Service {
        namespace: "d".into(),
        name: "web".into(),
        address: Some(Ipv4Addr::new(10, 96, 0, 5)),
        ports: vec![port],
        ..Service::default()
    }
}

/// Tells every node of a service with these endpoints.
fn serve(nodes: &[&Node], endpoints: &[&Pod]) {
    for (number, node) in nodes.iter().enumerate() {
        node.services(&[service(endpoints, number as u8 + 1, Protocol::Tcp)]);
    }
}

pub fn two_nodes() -> (Node, Node, Space) {
    let mut wire = Wire::new();
    let (one, two, outside) = (wire.node(), wire.node(), wire.machine());
    one.peers(&[&two]);
    two.peers(&[&one]);
    // A wire that has just been laid carries nothing for a moment.
    for far in ["192.0.2.1:9", "192.0.2.2:9"] {
        assert_eq!(outside.tcp(far), "ConnectionRefused");
    }
    (one, two, outside)
}

#[test]
fn pods_reach_each_other_as_themselves_wherever_they_run() {
    let (one, two, _outside) = two_nodes();
    let (a, b, c) = (one.pod("a"), one.pod("b"), two.pod("c"));
    b.space.serve("b", 8080);
    c.space.serve("c", 8080);
    assert_eq!(a.space.tcp(&format!("{}:8080", b.address)), format!("b to {}", a.address));
    assert_eq!(a.space.tcp(&format!("{}:8080", c.address)), format!("c to {}", a.address));
    assert_eq!(a.space.udp(&format!("{}:8080", c.address)), format!("c to {}", a.address));
    // The machine speaks to pods with the address that other machines know.
    assert_eq!(one.space.tcp(&format!("{}:8080", b.address)), "b to 192.0.2.1");
}

#[test]
fn a_service_is_reached_from_pods_and_machines_and_refuses_without_endpoints() {
    let (one, two, _outside) = two_nodes();
    let (a, c) = (one.pod("a"), two.pod("c"));
    c.space.serve("c", 8080);
    serve(&[&one, &two], &[&c]);
    assert_eq!(a.space.tcp(WEB), format!("c to {}", a.address));
    assert_eq!(one.space.tcp(WEB), "c to 192.0.2.1");
    assert!(c.space.tcp(WEB).starts_with("c to "), "a pod reaches itself through its service");
    serve(&[&one], &[]);
    assert_eq!([a.space.tcp(WEB), one.space.tcp(WEB)], ["ConnectionRefused", "ConnectionRefused"]);
}

#[test]
fn a_node_port_is_at_the_addresses_of_every_machine_and_not_at_the_loopback() {
    let (one, two, outside) = two_nodes();
    let c = two.pod("c");
    c.space.serve("c", 8080);
    serve(&[&one, &two], &[&c]);
    assert!(outside.tcp("192.0.2.1:30080").starts_with("c to 192.0.2.1"), "the answer has to come back this way");
    assert_eq!(outside.tcp("192.0.2.2:30080"), "c to 192.0.2.3");
    assert_eq!(one.space.tcp("192.0.2.1:30080"), "c to 192.0.2.1");
    assert_eq!(one.space.tcp("127.0.0.1:30080"), "ConnectionRefused");
    assert_eq!(one.space.tcp("10.96.0.10:30080"), "ConnectionRefused");
}

fn wishes(host_ip: Option<Ipv4Addr>, host_port: u16) -> Wishes {
    let port = HostPort { protocol: Protocol::Tcp, host_ip, host_port, container_port: 8080 };
    Wishes { host_ports: vec![port], search: search() }
}

#[test]
fn a_port_of_the_machine_leads_to_its_pod_from_everywhere_or_at_one_address() {
    let (one, _two, outside) = two_nodes();
    one.services(&[]);
    let (a, b) = (one.pod_with("a", wishes(None, 8000)), one.pod_with("b", wishes(Some(Ipv4Addr::LOCALHOST), 8001)));
    a.space.serve("a", 8080);
    b.space.serve("b", 8080);
    assert_eq!(outside.tcp("192.0.2.1:8000"), "a to 192.0.2.3");
    assert_eq!(one.space.tcp("192.0.2.1:8000"), "a to 192.0.2.1");
    assert_eq!(one.space.tcp("127.0.0.1:8000"), "a to 192.0.2.1");
    assert_eq!(b.space.tcp("192.0.2.1:8000"), format!("a to {}", b.address));
    assert!(a.space.tcp("192.0.2.1:8000").starts_with("a to "));
    assert_eq!(one.space.tcp("127.0.0.1:8001"), "b to 192.0.2.1");
    assert_eq!(outside.tcp("192.0.2.1:8001"), "ConnectionRefused");
    assert_eq!(one.space.tcp("127.0.0.53:8000"), "ConnectionRefused");
}

#[test]
fn an_agent_that_starts_again_serves_all_the_time() {
    let (one, two, outside) = two_nodes();
    let (a, c) = (one.pod_with("a", wishes(None, 8000)), two.pod("c"));
    a.space.serve("a", 8080);
    c.space.serve("c", 8080);
    serve(&[&one, &two], &[&c]);
    let mut open = a.space.connect(WEB).unwrap();
    let served = |outside: &Space, a: &Pod| [a.space.tcp(WEB), outside.tcp("192.0.2.1:8000")];
    let expected = [format!("c to {}", a.address), "a to 192.0.2.3".to_owned()];
    assert_eq!(served(&outside, &a), expected);
    let one = one.restart();
    assert_eq!(served(&outside, &a), expected, "before anybody has said what services there are");
    serve(&[&one], &[&c]);
    assert_eq!(served(&outside, &a), expected, "and before the pod is taken over");
    assert_eq!(again(&mut open), format!("c to {}", a.address));
    serve(&[&one], &[]);
    assert_eq!(a.space.tcp(WEB), "ConnectionRefused", "what was before is known well enough to be taken away");
}

#[test]
fn rules_that_somebody_has_broken_are_made_again() {
    let (one, two, _outside) = two_nodes();
    let (a, c) = (one.pod("a"), two.pod("c"));
    c.space.serve("c", 8080);
    serve(&[&one], &[]);
    one.space.sh("nft flush ruleset");
    serve(&[&one], &[&c]);
    assert_eq!(a.space.tcp(WEB), format!("c to {}", a.address));
    // Also when nothing else has changed.
    one.space.sh("nft flush ruleset");
    serve(&[&one], &[&c]);
    assert_eq!(a.space.tcp(WEB), format!("c to {}", a.address));
    // A table of a version that had other maps.
    let one = one.restart();
    one.space.sh("nft 'flush ruleset; table ip copepod { map services { type ipv4_addr : verdict; }; }'");
    serve(&[&one], &[&c]);
    assert_eq!(a.space.tcp(WEB), format!("c to {}", a.address));
}

#[test]
fn a_connection_that_begins_amid_a_change_is_not_refused() {
    let (one, two, outside) = two_nodes();
    let (a, c) = (one.pod("a"), two.pod("c"));
    c.space.serve("c", 8080);
    serve(&[&one, &two], &[&c]);
    // As a packet sees it for which the front is of one state, and what it leads to of another.
    one.space.sh("nft 'flush chain ip copepod pick-1; flush chain ip copepod port-1'");
    let seen = [a.space.tcp_soon(WEB), one.space.tcp_soon(WEB), outside.tcp_soon("192.0.2.1:30080")];
    assert_eq!(seen, ["TimedOut"; 3], "it is to try again");
    assert_eq!(one.space.tcp_soon("192.0.2.1:30081"), "ConnectionRefused", "nobody was ever there");
    serve(&[&one], &[]);
    assert_eq!([a.space.tcp(WEB), outside.tcp("192.0.2.1:30080")], ["ConnectionRefused"; 2], "nobody is left");
}

#[test]
fn routes_to_nodes_that_left_while_nobody_looked_are_taken_away() {
    let (one, two, _outside) = two_nodes();
    let routed = |node: &Node| node.space.sh("ip route").contains("10.244.2.0/24 via 192.0.2.2");
    assert!(routed(&one));
    let one = one.restart();
    assert!(routed(&one));
    one.peers(&[]);
    assert!(!routed(&one));
    one.peers(&[&two]);
    assert!(routed(&one));
    // A link that was down for a moment.
    one.space.sh("ip link set eth0 down && ip link set eth0 up");
    assert!(!routed(&one));
    one.peers(&[&two]);
    assert!(routed(&one));
}

#[test]
fn links_are_as_wide_as_that_of_the_machine_and_are_mended() {
    let mut wire = Wire::new();
    let one = wire.node();
    one.space.sh("ip link set eth0 mtu 1400");
    one.peers(&[]);
    let a = one.pod("a");
    assert!(a.space.sh("ip link show eth0").contains("mtu 1400"));
    // Another namespace for the same pod while the first is still there.
    let again = one.pod("a");
    assert_eq!(again.address, a.address);
    again.space.serve("again", 8080);
    assert_eq!(one.space.tcp(&format!("{}:8080", a.address)), "again to 192.0.2.1");
    assert_eq!(a.space.sh("ip -o link | wc -l").trim(), "1", "the loopback alone");
}

#[test]
fn nothing_is_left_when_it_is_torn_down() {
    let mut wire = Wire::new();
    let (one, two) = (wire.node(), wire.node());
    one.peers(&[&two]);
    let _pod = one.pod("a");
    serve(&[&one], &[]);
    one.with(async |_| copepod_network::Network::tear_down().await).unwrap();
    let left = one.space.sh("nft list ruleset; ip -o link; ip -o -4 addr; ip route");
    for trace in ["copepod", "cpd", "10.96", "10.244"] {
        assert!(!left.contains(trace), "{left}");
    }
}

/// Asks a few times, and says which names answered.
fn answering(from: &Space, to: &str) -> Vec<String> {
    let mut names: Vec<String> =
        (0..12).map(|_| from.tcp(to).split(' ').next().unwrap_or_default().to_owned()).collect();
    names.sort();
    names.dedup();
    names
}

#[test]
fn a_client_comes_back_to_its_endpoint_until_it_is_gone() {
    let (one, two, outside) = two_nodes();
    let pods = [one.pod("a"), one.pod("b"), two.pod("c")];
    for (pod, name) in pods.iter().zip(["a", "b", "c"]) {
        pod.space.serve(name, 8080);
    }
    let client = one.pod("client");
    let tell = |node: &Node, pods: &[&Pod]| {
        let affinity = Some(std::time::Duration::from_secs(600));
        node.services(&[Service { affinity, ..service(pods, 1, Protocol::Tcp) }]);
    };
    let all: Vec<&Pod> = pods.iter().collect();
    tell(&one, &all);
    let chosen = answering(&client.space, WEB);
    assert_eq!(chosen.len(), 1, "{chosen:?}");
    assert_eq!(answering(&outside, "192.0.2.1:30080").len(), 1);
    let one = one.restart();
    tell(&one, &all);
    assert_eq!(answering(&client.space, WEB), chosen, "the kernel remembers what an agent does not");
    let others: Vec<&Pod> =
        pods.iter().zip(["a", "b", "c"]).filter(|(_, name)| *name != chosen[0]).map(|(pod, _)| pod).collect();
    tell(&one, &others);
    let next = answering(&client.space, WEB);
    assert!(next.len() == 1 && next != chosen, "{next:?}");
}

#[test]
fn what_comes_from_outside_stays_where_a_local_policy_says_so() {
    let (one, two, outside) = two_nodes();
    let (a, c) = (one.pod("a"), two.pod("c"));
    c.space.serve("c", 8080);
    for (node, number) in [(&one, 1), (&two, 2)] {
        node.services(&[Service { outside_stays: true, ..service(&[&c], number, Protocol::Tcp) }]);
    }
    assert_eq!(outside.tcp("192.0.2.2:30080"), "c to 192.0.2.3", "the address of the client is kept");
    assert_eq!(a.space.tcp("192.0.2.1:30080").split(' ').next(), Some("c"), "pods are not outside");
    assert_eq!(outside.tcp_soon("192.0.2.1:30080"), "TimedOut");
    one.services(&[Service { inside_stays: true, ..service(&[&c], 1, Protocol::Tcp) }]);
    assert_eq!(a.space.tcp_soon(WEB), "TimedOut");
}

#[test]
fn datagrams_leave_endpoints_that_are_gone() {
    let (one, two, _outside) = two_nodes();
    let (a, b, c) = (one.pod("a"), one.pod("b"), two.pod("c"));
    b.space.serve("b", 8080);
    c.space.serve("c", 8080);
    one.services(&[service(&[&b], 1, Protocol::Udp)]);
    let mut asker = a.space.asker("10.96.0.5:80");
    let mut host = one.space.asker("192.0.2.1:30080");
    assert_eq!(asker(), format!("b to {}", a.address));
    assert_eq!(host(), "b to 192.0.2.1");
    one.services(&[service(&[&c], 1, Protocol::Udp)]);
    assert_eq!(asker(), format!("c to {}", a.address));
    assert_eq!(host(), "c to 192.0.2.1");
}

#[test]
fn pods_of_a_node_behind_a_router_are_reached_through_a_tunnel() {
    let mut wire = Wire::new();
    let (one, two) = (wire.node(), wire.node());
    let far = node_far_away(&mut wire, 9);
    one.peers(&[&two, &far]);
    two.peers(&[&one, &far]);
    far.peers(&[&one, &two]);
    let (a, b, c) = (one.pod("a"), far.pod("b"), two.pod("c"));
    for (pod, name) in [(&a, "a"), (&b, "b"), (&c, "c")] {
        pod.space.serve(name, 8080);
    }
    let at = |pod: &Pod| format!("{}:8080", pod.address);
    assert_eq!(a.space.tcp(&at(&b)), format!("b to {}", a.address));
    assert_eq!(b.space.udp(&at(&c)), format!("c to {}", b.address));
    assert_eq!(a.space.tcp(&at(&c)), format!("c to {}", a.address), "the near one still directly");
    assert!(one.space.tcp(&at(&b)).starts_with("b to "), "machines reach them as well");
    serve(&[&one], &[&b]);
    assert_eq!(a.space.tcp(WEB), format!("b to {}", a.address));
    assert!(two.space.tcp("192.0.2.1:30080").starts_with("b to "));
    // More than fits into one packet around a packet.
    let mut long = a.space.connect(&at(&b)).unwrap();
    assert_eq!(answers(&mut long, 50_000), 50_000 * format!("b to {}\n", a.address).len());
    let one = one.restart();
    one.peers(&[&two, &far]);
    assert_eq!(a.space.tcp(&at(&b)), format!("b to {}", a.address));
    one.with(async |_| copepod_network::Network::tear_down().await).unwrap();
    assert!(!one.space.sh("ip -o link; ip route").contains("cptunnel"));
}
