//! What a client wants to be connected to, and whether that can be.

use copepod_api::{Object, Status, StatusResult};

use super::ports::PORTS_MAX;
use crate::{logs, query::Query};

/// Which command in which container, and which of its streams.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecQuery {
    pub namespace: String,
    pub pod: String,
    pub uid: String,
    pub node: String,
    pub container: String,
    /// Empty to attach to the container's own process.
    pub command: Vec<String>,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
    pub attach: bool,
}

pub fn exec(pod: &Object, query: &Query, attach: bool) -> StatusResult<ExecQuery> {
    let what = if attach { "PodAttachOptions" } else { "PodExecOptions" };
    let refused = |why: &str| Status::bad_request(format!("{what} is invalid: {why}"));
    let command: Vec<String> = query.all("command").map(str::to_owned).collect();
    if !attach && command.iter().all(String::is_empty) {
        return Err(refused("command: Required value: a command to run must be given"));
    }
    let tty = query.flag("tty")?;
    // A terminal has one output.
    let (stdin, stdout, stderr) = (query.flag("stdin")?, query.flag("stdout")?, query.flag("stderr")? && !tty);
    if !stdin && !stdout && !stderr {
        return Err(Status::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    let node = host(pod)?;
    Ok(ExecQuery {
        namespace: pod.key.namespace().to_owned(),
        pod: pod.key.name().to_owned(),
        uid: pod.meta.uid.clone(),
        node,
        container: logs::container(pod, query.text("container"))?,
        command,
        stdin,
        stdout,
        stderr,
        tty,
        attach,
    })
}

/// A port of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardQuery {
    pub namespace: String,
    pub pod: String,
    pub uid: String,
    pub node: String,
    pub port: u16,
}

/// The pod whose ports are wanted; which of them, clients mostly say on the streams.
pub fn forward(pod: &Object) -> StatusResult<ForwardQuery> {
    Ok(ForwardQuery {
        namespace: pod.key.namespace().to_owned(),
        pod: pod.key.name().to_owned(),
        uid: pod.meta.uid.clone(),
        node: host(pod)?,
        port: 0,
    })
}

/// The ports that are named beforehand.
pub fn ports(query: &Query) -> StatusResult<Vec<u16>> {
    let texts = query.all("ports").flat_map(|text| text.split(',')).filter(|text| !text.is_empty());
    let ports = texts.map(|text| {
        let port = text.parse::<u16>().ok().filter(|port| *port > 0);
        port.ok_or_else(|| Status::bad_request(format!("ports: Invalid value: {text:?}: must be between 1 and 65535")))
    });
    let ports: Vec<u16> = ports.collect::<StatusResult<_>>()?;
    match ports.len() {
        0..=PORTS_MAX => Ok(ports),
        _ => Err(Status::bad_request(format!("ports: at most {PORTS_MAX} ports may be named"))),
    }
}

/// The node that has the pod.
pub fn host(pod: &Object) -> StatusResult<String> {
    let name = pod.key.name();
    let node = pod.node.as_deref().filter(|node| !node.is_empty());
    node.map(str::to_owned).ok_or_else(|| Status::bad_request(format!("pod {name} does not have a host assigned")))
}
