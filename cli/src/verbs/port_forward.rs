//! `copepod port-forward`: ports of this machine that lead to a pod.
//!
//! Each connection has a WebSocket of its own, so nothing is lost but that connection when one breaks. When the pod is
//! gone, another one of the same service or deployment takes its place.

use std::sync::Arc;

use clap::Args;
use futures::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Mutex,
    task::JoinSet,
};
use tokio_tungstenite::tungstenite::Message;

use super::{pods, resource};
use crate::{
    client::{Client, Socket, refused},
    failure::{Doing, Failure, Outcome},
};

const PROTOCOL: &str = "v4.channel.k8s.io";

const DATA: u8 = 0;
const ERROR: u8 = 1;

/// How much is read at once.
const PART_BYTES: usize = 16 << 10;

#[derive(Args)]
pub struct PortForward {
    /// A pod, or deployment/web or service/web for a pod of it
    what: String,
    /// `8080`, `8080:80`, `:80` for any free port here, or the name of a port
    #[arg(required = true)]
    ports: Vec<String>,
    /// Where to listen
    #[arg(long, value_delimiter = ',', default_value = "localhost")]
    address: Vec<String>,
}

pub async fn run(forward: PortForward, client: &Client, namespace: &str) -> Outcome {
    let target = Arc::new(Target {
        client: client.clone(),
        namespace: namespace.to_owned(),
        what: forward.what,
        pod: Mutex::new(None),
    });
    let mut listening = JoinSet::new();
    for text in &forward.ports {
        let (here, there) = text.split_once(':').unwrap_or((text, text));
        let there = target.port(there).await?;
        let here = match here {
            "" => 0,
            here => here.parse::<u16>().or_else(|_| if here == text { Ok(there) } else { here.parse() }).doing(text)?,
        };
        for address in &forward.address {
            let listener = TcpListener::bind((address.as_str(), here)).await.doing(format!("{address}:{here}"))?;
            let own = listener.local_addr().doing("the port")?;
            println!("Forwarding from {own} -> {there}");
            listening.spawn(listen(listener, there, target.clone()));
        }
    }
    tokio::select! {
        _ = tokio::signal::ctrl_c() => Ok(()),
        ended = listening.join_next() => match ended {
            Some(Ok(outcome)) => outcome,
            _ => Ok(()),
        },
    }
}

async fn listen(listener: TcpListener, port: u16, target: Arc<Target>) -> Outcome {
    loop {
        let (stream, _) = listener.accept().await.doing("listening")?;
        let target = target.clone();
        tokio::spawn(async move {
            if let Err(failure) = target.serve(stream, port).await {
                eprintln!("{failure}");
            }
        });
    }
}

/// What the ports lead to.
struct Target {
    client: Client,
    namespace: String,
    what: String,
    /// The pod that is used at the moment.
    pod: Mutex<Option<String>>,
}

impl Target {
    /// The pod that is used; a new one in the place of `gone`.
    async fn pod(&self, gone: Option<&str>) -> Outcome<String> {
        let mut pod = self.pod.lock().await;
        if let Some(name) = pod.as_deref().filter(|name| gone != Some(*name)) {
            return Ok(name.to_owned());
        }
        let next = pods::one(&self.what, &self.client, &self.namespace).await?;
        if let Some(gone) = gone.filter(|gone| *gone != next) {
            eprintln!("pod {gone} does not answer any more; going on with {next}");
        }
        *pod = Some(next.clone());
        Ok(next)
    }

    /// A port by number or name; a service's is the one of its pods that it leads to.
    async fn port(&self, text: &str) -> Outcome<u16> {
        let of_service = self
            .what
            .split_once('/')
            .filter(|(kind, _)| resource::kind(kind).is_ok_and(|kind| kind.plural == "services"));
        let mut wanted = text.to_owned();
        if let Some((_, name)) = of_service {
            let service = self.object("services", name).await?;
            let ports = service["spec"]["ports"].as_array().into_iter().flatten();
            let mut ports = ports
                .filter(|port| port["name"] == text || text.parse::<u16>().is_ok_and(|number| port["port"] == number));
            let port = ports.next().ok_or_else(|| Failure::new(format!("{} has no port {text}", self.what)))?;
            wanted = match &port["targetPort"] {
                Value::String(name) => name.clone(),
                Value::Number(number) => number.to_string(),
                _ => port["port"].to_string(),
            };
        }
        if let Ok(number) = wanted.parse() {
            return Ok(number);
        }
        let pod = self.object("pods", &self.pod(None).await?).await?;
        let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
        let mut ports = containers.flat_map(|container| container["ports"].as_array().into_iter().flatten());
        let port = ports.find(|port| port["name"] == wanted).and_then(|port| port["containerPort"].as_u64());
        let port = port.and_then(|port| u16::try_from(port).ok());
        port.ok_or_else(|| Failure::new(format!("{} has no port called {wanted}", self.what)))
    }

    async fn object(&self, plural: &str, name: &str) -> Outcome<Value> {
        let path = format!("/api/v1/namespaces/{}/{plural}/{name}", self.namespace);
        self.client.get(&path).await?.map_err(|status| refused(&status))
    }

    async fn serve(&self, stream: TcpStream, port: u16) -> Outcome {
        let pod = self.pod(None).await?;
        match self.open(&pod, port).await {
            Ok(socket) => carry(stream, socket).await,
            Err(failure) => {
                let next = self.pod(Some(&pod)).await?;
                if next == pod {
                    return Err(failure);
                }
                carry(stream, self.open(&next, port).await?).await
            }
        }
    }

    async fn open(&self, pod: &str, port: u16) -> Outcome<Socket> {
        let path = format!("/api/v1/namespaces/{}/pods/{pod}/portforward?ports={port}", self.namespace);
        self.client.websocket(&path, PROTOCOL).await?.map_err(|status| refused(&status))
    }
}

/// Carries one connection.
async fn carry(stream: TcpStream, socket: Socket) -> Outcome {
    let (mut from_here, mut to_here) = stream.into_split();
    let (mut to_server, mut from_server) = socket.split();
    let up = async {
        let mut part = vec![DATA; 1 + PART_BYTES];
        while let Ok(n_bytes @ 1..) = from_here.read(&mut part[1..]).await {
            if to_server.send(Message::binary(part[..=n_bytes].to_vec())).await.is_err() {
                return;
            }
        }
        // What was asked for last may still be on its way.
        std::future::pending::<()>().await;
    };
    let down = async {
        // The first message of each channel says which port it is for.
        let mut is_named = [false; 2];
        while let Some(Ok(message)) = from_server.next().await {
            let Message::Binary(bytes) = message else { continue };
            let Some((channel, data)) = bytes.split_first() else { continue };
            let Some(named) = is_named.get_mut(usize::from(*channel)) else { continue };
            match (std::mem::replace(named, true), *channel) {
                (false, _) => {}
                (true, ERROR) => return Err(Failure::new(String::from_utf8_lossy(data).into_owned())),
                (true, _) => {
                    if to_here.write_all(data).await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
        let _ = to_here.shutdown().await;
        Ok(())
    };
    tokio::select! {
        () = up => Ok(()),
        outcome = down => outcome,
    }
}
