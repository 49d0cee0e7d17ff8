//! The session with the control plane: dialled by the agent, held as long as it lasts, dialled again.
//!
//! Whatever happens here, no container notices. Servers are tried in turn, the leader first once it is known, with a
//! pause that grows and is never the same on two nodes.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use copepod_proto::nodes::{
    Acknowledged, Delta, FromNode, Heartbeat, Hello, PodUsage, StatusBatch, ToNode, from_node,
    nodes_client::NodesClient, to_node,
};
use prost::Message;
use rand::RngExt;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, Interval, MissedTickBehavior},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::{
    agent::Agent,
    connect::Dial,
    tries::{End, Tries},
    tunnels,
};

/// Until the agent has been told of a server.
const NOBODY: Duration = Duration::from_secs(2);

/// Statuses that change together are said together. Long enough for the pods of one Deployment, too short to be seen.
const GATHER: Duration = Duration::from_millis(2);

/// Reports in one message, by their bytes; more are said in the next. The server keeps a buffer of the longest message of
/// each session.
const BATCH_BYTES: usize = 2 * 1024;

/// Until the server says otherwise.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// How long after a heartbeat the server's answer may come, or two heartbeats, which are further apart where there are many
/// nodes. One that hangs answers nobody, and another leads by then; one that has much to do must not be left, for it would
/// have more to do.
const HEARD_MAX: Duration = Duration::from_secs(4);

/// An agent that wakes so much later than it wanted to cannot say that others are late.
const LATE_MAX: Duration = Duration::from_millis(500);

/// An acknowledgement waits for this part of what heartbeats are further apart than where there are few nodes. What is told to
/// thousands keeps their server busy, and so do their answers: they are to come when all have been told.
const ACKNOWLEDGE_PART: u32 = 10;

/// Messages up, waiting for the connection. Reports wait outside, by pod, so that this stays short.
const OUTBOX: usize = 64;

/// What a session needs to know of the node.
pub struct Session {
    pub agent: Arc<Agent>,
    pub dial: Arc<dyn Dial>,
    /// JSON of the Node object.
    pub node: Vec<u8>,
}

/// Holds sessions until `stop`.
pub async fn hold(session: Session, stop: CancellationToken) {
    let work = async {
        let mut tries = Tries::default();
        let mut next: VecDeque<String> = VecDeque::new();
        loop {
            if next.is_empty() {
                next = session.dial.servers().into();
            }
            let Some(server) = next.pop_front() else {
                tokio::time::sleep(NOBODY).await;
                continue;
            };
            let end = once(&session, &server, tries.answer_max()).await;
            match &end {
                End::Redirect(leader) => {
                    tracing::debug!(server, leader, "another server leads");
                    if *leader != server {
                        next.push_front(leader.clone());
                    }
                }
                End::Broken(why) => tracing::info!(server, why, "the session ended; pods go on"),
                End::Unanswered => tracing::debug!(server, answer_max = ?tries.answer_max(), "no answer"),
                End::Refused(why) => tracing::debug!(server, why, "no session"),
            }
            tokio::time::sleep(jittered(tries.after(&end))).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => (),
        () = work => (),
    }
}

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.5..1.5))
}

async fn once(session: &Session, server: &str, answer_max: Duration) -> End {
    let channel = match tokio::time::timeout(answer_max, session.dial.dial(server)).await {
        Ok(Ok(channel)) => channel,
        Ok(Err(error)) => return End::Refused(error),
        Err(_) => return End::Unanswered,
    };
    let mut client = NodesClient::new(channel.clone());
    let (outbox, outbound) = mpsc::channel(OUTBOX);
    let revision = session.agent.machine.assignments().revision();
    let hello = Hello { node: session.node.clone().into(), revision };
    if outbox.send(message(from_node::Message::Hello(hello))).await.is_err() {
        return End::Refused("the connection closed".into());
    }
    let opened = tokio::time::timeout(answer_max, client.session(ReceiverStream::new(outbound))).await;
    let inbound = match opened {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => return End::Refused(format!("{}: {}", status.code(), status.message())),
        Err(_) => return End::Unanswered,
    };
    session.agent.machine.tokens.connect(Some(channel.clone()));
    let end = carry(session, server, &channel, outbox, inbound, answer_max).await;
    session.agent.machine.tokens.connect(None);
    end
}

async fn carry(
    session: &Session,
    server: &str,
    channel: &Channel,
    outbox: mpsc::Sender<FromNode>,
    mut inbound: tonic::Streaming<ToNode>,
    answer_max: Duration,
) -> End {
    let agent = &session.agent;
    let machine = &agent.machine;
    let mut contained = agent.contained();
    contained.mark_unchanged();
    let mut every = HEARTBEAT;
    let mut heartbeat = pulse(every);
    // When the server is given up, unless it says something.
    let mut silent = Instant::now() + answer_max;
    let mut welcome = false;
    let mut heard = false;
    let mut parts = Delta::default();
    // When the server is told what the data path contains.
    let mut acknowledge: Option<Instant> = None;
    loop {
        let say = tokio::select! {
            told = tokio::time::timeout_at(silent, inbound.message()) => {
                let now = Instant::now();
                let Ok(told) = told else {
                    if now < silent + LATE_MAX {
                        return End::Broken("the server does not answer any more".into());
                    }
                    // This machine is what was late, and may not have looked at what has arrived.
                    silent = now + patience(every);
                    continue;
                };
                silent = now + patience(every);
                match told {
                    Ok(Some(ToNode { message: Some(told) })) => match told {
                        to_node::Message::Welcome(told) => {
                            if !welcome {
                                tracing::info!(server, "session begins");
                            }
                            if told.heartbeat_milliseconds > 0 {
                                every = Duration::from_millis(told.heartbeat_milliseconds.into());
                                heartbeat = pulse(every);
                                silent = Instant::now() + patience(every);
                            }
                            session.dial.learn(&told.servers);
                            welcome = true;
                            None
                        }
                        to_node::Message::Delta(part) => {
                            let whole = match gather(&mut parts, part) {
                                Ok(whole) => whole,
                                Err(error) => return End::Broken(format!("what the server said is no delta: {error}")),
                            };
                            let Some(whole) = whole else { continue };
                            if let Err(error) = agent.take(whole) {
                                return End::Broken(format!("what the server said cannot be written down: {error}"));
                            }
                            if !heard {
                                // Only now is it known which pods are still this node's to speak of.
                                machine.reports.say_all_again(Instant::now().into_std());
                                heard = true;
                            }
                            None
                        }
                        to_node::Message::Released(released) => {
                            agent.released(&released.uid);
                            None
                        }
                        to_node::Message::OpenTunnel(open) => {
                            tunnels::open(agent.clone(), channel.clone(), open);
                            None
                        }
                        to_node::Message::Heard(_) => None,
                        to_node::Message::Redirect(redirect) => return End::Redirect(redirect.leader),
                    },
                    Ok(Some(ToNode { message: None })) => None,
                    Ok(None) if welcome => return End::Broken("the server closed it".into()),
                    Ok(None) => return End::Refused("the server closed it at once".into()),
                    Err(status) if welcome => return End::Broken(status.message().to_owned()),
                    Err(status) => return End::Refused(status.message().to_owned()),
                }
            }
            () = machine.reports.changed(), if heard => {
                tokio::time::sleep(GATHER).await;
                let pods = machine.reports.take(BATCH_BYTES, Instant::now().into_std());
                (!pods.is_empty()).then(|| from_node::Message::Statuses(StatusBatch { pods, ..StatusBatch::default() }))
            }
            changed = contained.changed(), if acknowledge.is_none() => match changed {
                Ok(()) => {
                    let pause = acknowledge_pause(every);
                    acknowledge = (!pause.is_zero()).then(|| Instant::now() + jittered(pause));
                    acknowledge.is_none().then(|| acknowledged(&mut contained))
                }
                Err(_) => return End::Broken("the agent ends".into()),
            },
            () = tokio::time::sleep_until(acknowledge.unwrap_or(silent)), if acknowledge.is_some() => {
                acknowledge = None;
                Some(acknowledged(&mut contained))
            }
            event = machine.events.next(), if welcome => Some(from_node::Message::Event(event)),
            _ = heartbeat.tick(), if welcome => Some(from_node::Message::Heartbeat(usage(agent).await)),
        };
        if let Some(say) = say
            && outbox.send(message(say)).await.is_err()
        {
            return End::Broken("the connection closed".into());
        }
    }
}

/// How long an acknowledgement waits, in the mean.
fn acknowledge_pause(every: Duration) -> Duration {
    every.saturating_sub(HEARTBEAT) / ACKNOWLEDGE_PART
}

fn acknowledged(contained: &mut watch::Receiver<u64>) -> from_node::Message {
    from_node::Message::Acknowledged(Acknowledged { revision: *contained.borrow_and_update() })
}

/// How long a server may say nothing at all.
fn patience(every: Duration) -> Duration {
    every + HEARD_MAX.max(every * 2)
}

/// Beats as often as that, beginning at a moment that is another on each node: those that are told an interval together
/// would beat together for ever.
fn pulse(every: Duration) -> Interval {
    let first = Instant::now() + every.mul_f64(rand::rng().random_range(0.0..1.0));
    let mut pulse = tokio::time::interval_at(first, every);
    pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pulse
}

/// Adds a part to those before; gives the delta once it is whole.
fn gather(parts: &mut Delta, part: Bytes) -> Result<Option<Delta>, prost::DecodeError> {
    // Objects are kept as slices of what was read: of this copy, and not of the connection's buffer.
    let more = Delta::decode(Bytes::copy_from_slice(&part))?;
    if more.reset {
        // Whatever began before it was broken off.
        *parts = Delta::default();
    }
    parts.revision = more.revision;
    parts.reset |= more.reset;
    parts.changes.extend(more.changes);
    parts.slices.extend(more.slices);
    parts.peers.extend(more.peers);
    Ok((!more.more).then(|| std::mem::take(parts)))
}

fn message(message: from_node::Message) -> FromNode {
    FromNode { message: Some(message) }
}

async fn usage(agent: &Agent) -> Heartbeat {
    let runtime = &agent.machine.rooms.runtime;
    let (pods, machine) = (runtime.usage().await, runtime.machine_usage());
    Heartbeat {
        pods: pods
            .into_iter()
            .map(|usage| PodUsage {
                uid: usage.pod_uid,
                container: usage.container,
                memory_bytes: usage.memory_bytes,
                cpu_nanoseconds: usage.cpu_nanoseconds,
            })
            .collect(),
        node_memory_bytes: machine.memory_bytes,
        node_cpu_nanoseconds: machine.cpu_nanoseconds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_wait_only_where_there_are_many_nodes() {
        let milliseconds = |seconds| acknowledge_pause(Duration::from_secs(seconds)).as_millis();
        assert_eq!([1, 2, 16, 100].map(milliseconds), [0, 100, 1_500, 9_900]);
    }
}
