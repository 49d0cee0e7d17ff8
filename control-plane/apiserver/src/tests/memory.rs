//! A cluster of one server in memory: the door on a bare view.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use bytes::Bytes;
use copepod_api::{
    Action, Body, Expect, Key, Op, Reply, Request, Resource, Revision, Status, Target, Timestamp, Txn, User,
    WriteOptions,
};
use copepod_registry::{Env, Testimony, Undecided, decide};
use copepod_store::{Compacted, Cursor, Door, Event, History, Leader, View, door::Async};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::watch};
use tokio_util::io::ReaderStream;

use crate::{ExecQuery, ForwardQuery, Frame, Link, LogQuery, LogStream, Tunnels, Webhooks};

pub struct Memory {
    state: Mutex<State>,
    revision: watch::Sender<Revision>,
    pub leader: Mutex<Leader>,
    pub n_submits: AtomicUsize,
    /// It takes what is submitted and never answers.
    pub is_silent: AtomicBool,
}

struct State {
    view: View,
    history: History,
    dice: u64,
}

impl Memory {
    /// A cluster as it begins: with its roles and namespaces.
    pub fn new() -> Arc<Memory> {
        let memory = Memory {
            state: Mutex::new(State {
                view: with_default_roles(),
                history: History::beginning(Revision::ZERO),
                dice: 0x9e37_79b9_7f4a_7c15,
            }),
            revision: watch::Sender::new(Revision::ZERO),
            leader: Mutex::new(Leader::Here),
            n_submits: AtomicUsize::new(0),
            is_silent: AtomicBool::new(false),
        };
        for namespace in ["default", "kube-system"] {
            memory.write("namespaces", json!({"metadata": {"name": namespace}}));
        }
        Arc::new(memory)
    }

    /// Creates an object behind the back of the front.
    pub fn write(&self, plural: &str, object: Value) -> Reply {
        let row = copepod_registry::rows().iter().find(|row| row.kind.plural == plural).expect("a known plural");
        let target = Target {
            resource: row.kind.resource(),
            version: row.kind.version.as_ref().into(),
            namespace: if row.kind.is_namespaced() { "default" } else { "" }.into(),
            name: "".into(),
            subresource: "".into(),
        };
        let options = WriteOptions::default();
        let request = Request { user: User::system("test"), target, action: Action::Create { object }, options };
        self.carry_out(&[request], Testimony::default()).expect("a valid object").remove(0)
    }

    fn carry_out(&self, requests: &[Request], testimony: Testimony) -> Result<Vec<Reply>, Undecided> {
        let mut state = self.state.lock().unwrap();
        let State { view, history, dice } = &mut *state;
        let mut throw = || {
            *dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *dice ^ (*dice >> 29)
        };
        let done = decide(view, requests, &mut Env { now: Timestamp::now(), dice: &mut throw }, testimony)?;
        done.events.into_iter().for_each(|event| history.push(event));
        *view = done.view;
        self.revision.send_replace(view.revision());
        Ok(done.replies)
    }

    /// Stores these bytes as they are.
    pub fn store(&self, key: Key, body: Body) {
        let mut state = self.state.lock().unwrap();
        let op = Op::Put { key, body, expect: Expect::Any };
        let (view, events) = state.view.apply(&Txn { ops: vec![op] }, Timestamp::now()).expect("an object");
        events.into_iter().for_each(|event| state.history.push(event));
        state.view = view;
        self.revision.send_replace(state.view.revision());
    }

    /// Forgets the events so far, as compaction does.
    pub fn compact(&self) {
        let mut state = self.state.lock().unwrap();
        state.history = History::beginning(state.view.revision());
    }
}

fn with_default_roles() -> View {
    let ops = copepod_access::defaults::all()
        .into_iter()
        .map(|part| Op::Put { key: part.key, body: Body::encode(&part.object), expect: Expect::Any })
        .collect();
    View::default().apply(&Txn { ops }, Timestamp::now()).expect("objects").0
}

/// `Door` for an `Arc` of it, so that cursors can keep it.
pub struct MemoryDoor(pub Arc<Memory>);

impl Door for MemoryDoor {
    fn view(&self) -> View {
        self.0.state.lock().unwrap().view.clone()
    }

    fn fresh(&self) -> Async<'_, Result<View, Status>> {
        Box::pin(async { Ok(self.view()) })
    }

    fn reached(&self, revision: Revision) -> Async<'_, Result<View, Status>> {
        Box::pin(async move {
            let mut seen = self.0.revision.subscribe();
            seen.wait_for(|seen| *seen >= revision).await.map_err(Status::internal)?;
            Ok(self.view())
        })
    }

    fn submit(&self, requests: Vec<Request>) -> Async<'_, Result<Vec<Reply>, Status>> {
        Box::pin(async move {
            self.0.n_submits.fetch_add(1, Ordering::Relaxed);
            if self.0.is_silent.load(Ordering::Relaxed) {
                return std::future::pending().await;
            }
            let decide = |testimony| std::future::ready(self.0.carry_out(&requests, testimony));
            Webhooks::new(Arc::new(Echo)).settle(|| self.view(), decide).await
        })
    }

    fn watch(&self, resource: Option<Resource>, from: Revision) -> Box<dyn Cursor> {
        Box::new(Place { memory: self.0.clone(), changed: self.0.revision.subscribe(), resource, seen: from })
    }

    fn leader(&self) -> Leader {
        self.0.leader.lock().unwrap().clone()
    }
}

struct Place {
    memory: Arc<Memory>,
    changed: watch::Receiver<Revision>,
    resource: Option<Resource>,
    seen: Revision,
}

impl Cursor for Place {
    fn next(&mut self) -> Async<'_, Result<Vec<Event>, Compacted>> {
        const AT_ONCE: usize = 256;
        Box::pin(async move {
            loop {
                self.changed.borrow_and_update();
                let (events, newest) = {
                    let state = self.memory.state.lock().unwrap();
                    let events = match &self.resource {
                        Some(resource) => state.history.after(resource, self.seen, AT_ONCE),
                        None => state.history.after_any(self.seen, AT_ONCE),
                    };
                    (events?, state.view.revision())
                };
                if let Some(last) = events.last() {
                    self.seen = last.revision;
                    return Ok(events);
                }
                self.seen = self.seen.max(newest);
                if self.changed.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        })
    }

    fn position(&self) -> Revision {
        self.seen
    }
}

/// A node that answers every question for logs with the question.
pub struct Echo;

impl Tunnels for Echo {
    fn logs(&self, query: LogQuery) -> Async<'_, Result<LogStream, Status>> {
        Box::pin(async move {
            let line = format!("{} on {} tail {:?}\n", query.container, query.node, query.tail_lines);
            let stream: LogStream = Box::pin(futures::stream::iter([Ok(Bytes::from(line))]));
            Ok(stream)
        })
    }

    fn exec(&self, _: ExecQuery) -> Async<'_, Result<Link, Status>> {
        Box::pin(async { Err(Status::unavailable("no node is connected")) })
    }

    /// Every port of every pod is one of this machine.
    fn forward(&self, query: ForwardQuery) -> Async<'_, Result<Link, Status>> {
        Box::pin(async move {
            let connected = TcpStream::connect(("127.0.0.1", query.port)).await;
            let (from, to) = connected.map_err(|_| Status::unavailable("no node is connected"))?.into_split();
            let from_node = ReaderStream::new(from).map(|read| {
                let frame = read.map(|data| Frame { channel: crate::streams::STDOUT, data });
                frame.map_err(Status::internal)
            });
            let to_node = futures::sink::unfold(to, |mut to, frame: Frame| async move {
                to.write_all(&frame.data).await.map_err(Status::internal).map(|()| to)
            });
            Ok(Link { from_node: Box::pin(from_node), to_node: Box::pin(to_node) })
        })
    }
}
