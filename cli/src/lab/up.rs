//! `copepod up`: brings the local cluster up, or what is missing of it.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{Lab, Ledger, Member, Role, Up, answers, network, process};
use crate::{
    client::Client,
    failure::{Doing, Failure, Outcome},
    kubeconfig, token,
};

/// How long servers and nodes may take to be ready. They take about a second; a slow disk may need more.
const READY_MAX: Duration = Duration::from_secs(60);

/// Between two looks. Short, because the whole start is meant to take about two seconds.
const LOOK: Duration = Duration::from_millis(25);

/// How long the tokens are good for that members come in with.
const TICKET_SECONDS: u64 = 600;

pub async fn up(wanted: Up) -> Outcome {
    let began = Instant::now();
    let lab = Lab::checked()?;
    preflight(&lab)?;
    for mirror in &wanted.mirrors {
        crate::agent::mirror(mirror).map_err(|error| Failure::new(format!("--mirror {mirror}: {error}")))?;
    }
    let mut ledger = Ledger::read(&lab)?.unwrap_or_else(Ledger::new);
    if wanted.servers < ledger.servers || wanted.nodes < ledger.nodes {
        return Err(Failure::new(format!(
            "the local cluster has {} servers and {} nodes already",
            ledger.servers, ledger.nodes
        ))
        .hint("`copepod down` takes it away; then start a smaller one"));
    }
    ledger.servers = wanted.servers;
    ledger.nodes = wanted.nodes;
    ledger.mirrors = wanted.mirrors;
    // What ended before has nothing to say about this start.
    ledger.processes.retain(|_, process| process.lives());
    ledger.write(&lab)?;

    let say = Progress::begin(began);
    say.step("network");
    network::open(&lab, &mut ledger)?;
    for member in ledger.members(&lab) {
        network::attach(&lab, &member)?;
    }

    say.step("servers");
    let servers = ledger.servers(&lab);
    // The first founds the cluster, unless another knows it: then the first has lost its disk, and joins like any other.
    let is_founded = servers.iter().any(is_member);
    for server in servers.iter().filter(|server| is_member(server) || (server.number() == 1 && !is_founded)) {
        start(&lab, &mut ledger, server, None)?;
    }
    let client = first_to_answer(&ledger, &servers).await?;
    for server in servers.iter().filter(|server| !is_member(server)) {
        let ticket = ticket(&client, token::Role::Server).await?;
        start(&lab, &mut ledger, server, Some(&ticket))?;
    }

    say.step("nodes");
    let nodes = ledger.nodes(&lab);
    let joining = nodes.iter().any(|node| !is_member(node));
    let node_ticket = if joining { Some(ticket(&client, token::Role::Node).await?) } else { None };
    for node in &nodes {
        start(&lab, &mut ledger, node, node_ticket.as_ref().filter(|_| !is_member(node)))?;
    }
    for server in &servers {
        ready(&ledger, server, || answers(server)).await?;
    }
    all_vote(&ledger, &client, &servers).await?;
    all_nodes_ready(&ledger, &client, &nodes).await?;
    say.done(&lab, &ledger, &client);
    Ok(())
}

fn preflight(lab: &Lab) -> Outcome {
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::new("a local cluster needs root: it makes network namespaces, mounts and cgroups")
            .hint("run it again with sudo"));
    }
    if !std::path::Path::new("/sys/fs/cgroup").join("cgroup.controllers").exists()
        && !std::path::Path::new("/sys/fs/cgroup/memory").exists()
    {
        return Err(Failure::new("no cgroup hierarchy is mounted at /sys/fs/cgroup"));
    }
    for program in ["ip", "nft", "nsenter", "setsid"] {
        process::system(program, &[if program == "ip" { "-V" } else { "--version" }], "")?;
    }
    if Ledger::read(lab)?.is_none() && std::path::Path::new("/sys/class/net").join(lab.bridge()).exists() {
        return Err(Failure::new(format!("a network link {} exists that `copepod up` did not make", lab.bridge()))
            .hint(format!("remove it with `ip link del {}`, or choose another name with COPEPOD_LAB", lab.bridge())));
    }
    Ok(())
}

impl Member {
    fn number(&self) -> u8 {
        self.name[1..].parse().unwrap_or_default()
    }
}

/// Whether a member has been part of the cluster before, and needs no token.
fn is_member(member: &Member) -> bool {
    match member.role {
        Role::Server => member.directory.join("server.json").exists(),
        Role::Node => copepod_node_agent::has_joined(&member.directory),
    }
}

fn start(lab: &Lab, ledger: &mut Ledger, member: &Member, ticket: Option<&process::Ticket>) -> Outcome {
    if ledger.is_running(member) {
        return Ok(());
    }
    process::start(lab, ledger, member, ticket)
}

async fn ticket(client: &Client, role: token::Role) -> Outcome<process::Ticket> {
    let token = token::create(client, role, Duration::from_secs(TICKET_SECONDS)).await?;
    Ok(process::Ticket { server: client.address().to_owned(), token })
}

async fn first_to_answer(ledger: &Ledger, servers: &[Member]) -> Outcome<Client> {
    let deadline = Instant::now() + READY_MAX;
    loop {
        for server in servers.iter().filter(|server| is_member(server)) {
            if answers(server).await {
                return kubeconfig::read(&server.kubeconfig(), None).and_then(Client::new);
            }
        }
        for server in servers {
            still_runs(ledger, server)?;
        }
        if Instant::now() > deadline {
            return Err(late(&servers[0]));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn ready<F: Future<Output = bool>>(ledger: &Ledger, member: &Member, check: impl Fn() -> F) -> Outcome {
    let deadline = Instant::now() + READY_MAX;
    while !check().await {
        still_runs(ledger, member)?;
        if Instant::now() > deadline {
            return Err(late(member));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Until every server votes, one failure may be one too many.
async fn all_vote(ledger: &Ledger, client: &Client, servers: &[Member]) -> Outcome {
    let deadline = Instant::now() + READY_MAX;
    let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    loop {
        let votes = |slice: &Value| {
            let endpoints = slice["endpoints"].as_array();
            endpoints.into_iter().flatten().filter(|endpoint| endpoint["conditions"]["ready"] == true).count()
        };
        if client.get(path).await?.is_ok_and(|slice| votes(&slice) == servers.len()) {
            return Ok(());
        }
        for server in servers {
            still_runs(ledger, server)?;
        }
        if Instant::now() > deadline {
            return Err(late(&servers[servers.len() - 1]));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn all_nodes_ready(ledger: &Ledger, client: &Client, nodes: &[Member]) -> Outcome {
    let deadline = Instant::now() + READY_MAX;
    loop {
        let list = client.get("/api/v1/nodes").await?.map_err(|status| crate::client::refused(&status))?;
        let is_ready = |name: &str| {
            list["items"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|node| node["metadata"]["name"] == name && condition(node))
        };
        let Some(missing) = nodes.iter().find(|node| !is_ready(&node.name)) else { return Ok(()) };
        still_runs(ledger, missing)?;
        if Instant::now() > deadline {
            return Err(late(missing));
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn condition(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn still_runs(ledger: &Ledger, member: &Member) -> Outcome {
    if ledger.is_running(member) || !ledger.processes.contains_key(&member.name) {
        return Ok(());
    }
    Err(Failure::new(format!("{} has ended:\n{}", member.name, process::last_words(member)))
        .hint(format!("its whole log: {}", member.log.display())))
}

fn late(member: &Member) -> Failure {
    let words = process::last_words(member);
    Failure::new(format!("{} is not ready after {} s:\n{words}", member.name, READY_MAX.as_secs()))
        .hint(format!("its whole log: {}", member.log.display()))
}

/// What happens, told on standard error while somebody looks on.
struct Progress {
    began: Instant,
    shown: bool,
}

impl Progress {
    fn begin(began: Instant) -> Progress {
        Progress { began, shown: std::io::stderr().is_terminal() }
    }

    fn step(&self, what: &str) {
        if self.shown {
            eprintln!("{:>6.2} s  {what}", self.began.elapsed().as_secs_f64());
        }
    }

    fn done(&self, lab: &Lab, ledger: &Ledger, client: &Client) {
        let path = super::kubeconfig_path();
        let first = lab.member(Role::Server, 1);
        let written = std::fs::read(first.kubeconfig())
            .doing(first.kubeconfig().display())
            .and_then(|text| process::write_private(&path, &text));
        if let Err(failure) = written {
            eprintln!("{failure}");
        }
        println!(
            "{} servers and {} nodes are up ({:.1} s); the API is at https://{}",
            ledger.servers,
            ledger.nodes,
            self.began.elapsed().as_secs_f64(),
            client.address()
        );
        println!("  export KUBECONFIG=$(copepod kubeconfig)   # for kubectl, Helm and other clients");
        println!("  copepod get nodes");
        println!("  copepod down                              # leaves nothing behind");
    }
}
