//! Policies, held by the nodes of the pods that they are about.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use copepod_network::{Allowance, Peers, Policies, Ports, Protocol, Range};

use crate::{
    traffic::{WEB, service, two_nodes},
    world::{Node, Pod, again},
};

fn allowed(peers: Peers, ports: Option<(u16, u16)>) -> Allowance {
    let ports = ports.map(|(first, last)| BTreeSet::from([Ports { protocol: Protocol::Tcp, first, last }]));
    Allowance { peers, ports }
}

fn pods(pods: &[&Pod]) -> Peers {
    Peers::Pods(pods.iter().map(|pod| pod.address).collect())
}

fn only(pod: &Pod, allowances: &[Allowance]) -> BTreeMap<Ipv4Addr, BTreeSet<Allowance>> {
    BTreeMap::from([(pod.address, allowances.iter().cloned().collect())])
}

fn ingress(node: &Node, pod: &Pod, allowances: &[Allowance]) {
    node.services_and_policies(&[], Policies { ingress: only(pod, allowances), ..Policies::default() });
}

/// Whether the first is answered by the other, at 8080.
fn reaches(from: &Pod, to: &Pod) -> bool {
    from.space.tcp_soon(&format!("{}:8080", to.address)).contains(" to ")
}

#[test]
fn an_isolated_pod_is_reached_by_whom_a_policy_names() {
    let (one, two, outside) = two_nodes();
    let (web, near, far, other) = (one.pod("web"), one.pod("near"), two.pod("far"), two.pod("other"));
    web.space.serve("web", 8080);
    let all = || [&near, &far, &other].map(|pod| reaches(pod, &web));
    one.services(&[]);
    assert_eq!(all(), [true; 3], "without policies everybody");
    let mut open = far.space.connect(&format!("{}:8080", web.address)).unwrap();
    ingress(&one, &web, &[]);
    assert_eq!(all(), [false; 3]);
    assert!(again(&mut open).contains("web to"), "what was open stays so");
    assert!(one.space.tcp(&format!("{}:8080", web.address)).contains("web to"), "probes of the own machine");
    ingress(&one, &web, &[allowed(pods(&[&near, &far]), None)]);
    assert_eq!(all(), [true, true, false]);
    ingress(&one, &web, &[allowed(Peers::Everybody, Some((8000, 8079)))]);
    assert_eq!(all(), [false; 3], "another port");
    ingress(&one, &web, &[allowed(pods(&[&other]), Some((8000, 9000))), allowed(pods(&[&near]), Some((8080, 8080)))]);
    assert_eq!(all(), [true, false, true]);
    let block = Peers::Block {
        range: Range::parse("10.244.2.0/24").unwrap(),
        except: vec![Range::parse(&format!("{}/32", far.address)).unwrap()],
    };
    ingress(&one, &web, &[allowed(block, None)]);
    assert_eq!(all(), [false, false, true]);
    one.services(&[]);
    assert_eq!(all(), [true; 3]);
    let rules = one.space.sh("nft list ruleset");
    assert!(!rules.contains("peers-") && !rules.contains("chain in-"), "nothing is left of them: {rules}");
    drop(outside);
}

#[test]
fn an_isolated_pod_speaks_to_whom_a_policy_names_also_through_services() {
    let (one, two, outside) = two_nodes();
    let (client, web, far) = (one.pod("client"), one.pod("web"), two.pod("far"));
    web.space.serve("web", 8080);
    far.space.serve("far", 8080);
    outside.serve("outside", 8080);
    let services = [service(&[&far], 1, Protocol::Tcp)];
    let egress = |allowances: &[Allowance]| {
        one.services_and_policies(&services, Policies { egress: only(&client, allowances), ..Policies::default() });
        let out = client.space.tcp_soon("192.0.2.3:8080").contains(" to ");
        let by_name = client.space.tcp_soon(WEB).contains(" to ");
        [reaches(&client, &web), reaches(&client, &far), by_name, out]
    };
    assert_eq!(egress(&[]), [false; 4]);
    assert_eq!(egress(&[allowed(pods(&[&far]), Some((8080, 8080)))]), [false, true, true, false]);
    let world = Peers::Block { range: Range::parse("192.0.2.0/24").unwrap(), except: Vec::new() };
    assert_eq!(egress(&[allowed(world, None)]), [false, false, false, true]);
    // Allowed to send is not yet allowed to get.
    let both = Policies { ingress: only(&web, &[]), egress: only(&client, &[allowed(pods(&[&web]), None)]) };
    one.services_and_policies(&services, both);
    assert!(!reaches(&client, &web));
    assert!(web.space.tcp_soon(&format!("{}:8080", web.address)).contains("web"), "nobody is kept from himself");
}

#[test]
fn an_agent_that_starts_again_keeps_pods_isolated() {
    let (one, _two, _outside) = two_nodes();
    let (web, near) = (one.pod("web"), one.pod("near"));
    web.space.serve("web", 8080);
    ingress(&one, &web, &[allowed(pods(&[&near]), Some((9, 9)))]);
    assert!(!reaches(&near, &web));
    let one = one.restart();
    assert!(!reaches(&near, &web));
    ingress(&one, &web, &[]);
    assert!(!reaches(&near, &web));
    assert!(!one.space.sh("nft list ruleset").contains("peers-"), "nothing is left of the life before");
    one.services(&[]);
    assert!(reaches(&near, &web));
}
