//! One server: the real machine, log and handle on a simulated disk, and before them a door that decides with the real
//! registry.
//!
//! The door does what `control-plane/src/door.rs` does, without its tasks: it decides on the committed state and
//! everything proposed since, and starts over when a proposal is lost.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    io::Read,
    pin::Pin,
    rc::Rc,
    sync::{atomic::AtomicBool, mpsc},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use copepod_api::{Request, Revision, Status, Timestamp};
use copepod_registry::{Env, transact};
use copepod_replica::{Config, Input, Machine, Member, OpenError, Outlet, Replica, Sent, Settled, SnapshotWork};
use copepod_store::View;
use prost::Message as _;

use crate::{Mutation, dice::Dice, disk::SimDisk};

/// What came of a request.
#[derive(Clone)]
pub enum Outcome {
    /// Written, at this revision.
    Written(Revision),
    Seen(View),
    Refused(Status),
    /// It was so already.
    Same,
    /// It has not happened, and will not.
    Never,
    Unknown,
}

/// What the machine has others do.
pub enum Out {
    Messages { to: u64, messages: Vec<Bytes> },
    Snapshot { to: u64, message: Bytes, data: Vec<u8> },
    Write(SnapshotWork),
}

#[derive(Clone, Default)]
struct Outbox(Rc<RefCell<Vec<Out>>>);

impl Outlet for Outbox {
    fn send(&mut self, to: &Member, messages: Vec<Bytes>) {
        self.0.borrow_mut().push(Out::Messages { to: to.id, messages });
    }

    fn send_snapshot(&mut self, to: &Member, message: Bytes, mut data: Box<dyn Read + Send>) {
        let mut content = Vec::new();
        // What cannot be read arrives cut, and is refused there.
        let _ = data.read_to_end(&mut content);
        self.0.borrow_mut().push(Out::Snapshot { to: to.id, message, data: content });
    }

    fn write_snapshot(&mut self, work: SnapshotWork) {
        self.0.borrow_mut().push(Out::Write(work));
    }

    fn let_go(&mut self, _: Box<dyn std::any::Any + Send>) {}
}

type Waiting = Pin<Box<dyn Future<Output = Outcome>>>;

/// A server that runs.
pub struct Server {
    machine: Machine<SimDisk>,
    queue: mpsc::Receiver<Input>,
    pub replica: Replica,
    outbox: Outbox,
    /// The term, and the state after everything proposed in it.
    ahead: Option<(u64, View)>,
    /// Proposals that are not committed, and whether one was lost since the last fresh start.
    in_flight: Rc<Cell<usize>>,
    is_lost: Rc<Cell<bool>>,
    waiting: Vec<(u64, Waiting)>,
    /// The second halves of transactions, where these are written apart.
    later: Vec<(u64, u64, Vec<Request>, Timestamp)>,
    dice: Dice,
    mutation: Option<Mutation>,
}

impl Server {
    pub fn open(
        id: u64,
        disk: SimDisk,
        bootstrap: bool,
        contacts: Vec<Member>,
        mut dice: Dice,
        mutation: Option<Mutation>,
    ) -> Result<Server, OpenError> {
        let config = Config {
            id,
            data_dir: "/simulated".into(),
            name: name(id),
            address: format!("{}:1", name(id)),
            bootstrap,
            contacts,
        };
        let outbox = Outbox::default();
        let mut lots = Dice::of(dice.next(), 2);
        let (machine, queue, replica) =
            Replica::apart(config, disk, Box::new(outbox.clone()), Box::new(move || lots.next()))?;
        Ok(Server {
            machine,
            queue,
            replica,
            outbox,
            ahead: None,
            in_flight: Rc::default(),
            is_lost: Rc::default(),
            waiting: Vec::new(),
            later: Vec::new(),
            dice,
            mutation,
        })
    }

    pub fn tick(&mut self) {
        for (call, term, requests, now) in std::mem::take(&mut self.later) {
            self.decide(call, term, &requests, now);
        }
        self.machine.tick();
    }

    /// Takes what other servers say.
    pub fn receive(&mut self, mut messages: Vec<Bytes>) {
        if self.mutation == Some(Mutation::IgnoreTerm) {
            let term = self.replica.role().borrow().term;
            messages.iter_mut().for_each(|message| bring_forward(message, term));
        }
        self.replica.receive(messages);
    }

    pub fn write_snapshot(&mut self, work: &SnapshotWork) {
        self.machine.take(work.carry_out(&AtomicBool::new(false)));
    }

    pub fn snapshot_sent(&mut self, to: u64, sent: Sent) {
        self.machine.take(Input::snapshot_sent(to, sent));
    }

    /// Does all that is to be done. An error is the end of the process.
    pub fn settle(&mut self) -> Result<Settled, String> {
        loop {
            let mut has_input = false;
            while let Ok(input) = self.queue.try_recv() {
                has_input = true;
                self.machine.take(input);
            }
            let settled = self.machine.settle().map_err(|error| error.to_string())?;
            if !has_input {
                return Ok(settled);
            }
        }
    }

    pub fn outputs(&mut self) -> Vec<Out> {
        std::mem::take(&mut self.outbox.0.borrow_mut())
    }

    /// Calls that have come to an end.
    pub fn ended(&mut self) -> Vec<(u64, Outcome)> {
        let mut context = Context::from_waker(Waker::noop());
        let mut ended = Vec::new();
        self.waiting.retain_mut(|(call, future)| match future.as_mut().poll(&mut context) {
            Poll::Ready(outcome) => {
                ended.push((*call, outcome));
                false
            }
            Poll::Pending => true,
        });
        ended
    }

    pub fn forget(&mut self, call: u64) {
        self.waiting.retain(|(waiting, _)| *waiting != call);
    }

    pub fn read(&mut self, call: u64) {
        if self.mutation == Some(Mutation::LocalReads) {
            let view = self.replica.view();
            return self.waiting.push((call, Box::pin(async move { Outcome::Seen(view) })));
        }
        let replica = self.replica.clone();
        let fresh = async move { replica.fresh().await.map_or(Outcome::Never, Outcome::Seen) };
        self.waiting.push((call, Box::pin(fresh)));
    }

    pub fn join(&mut self, call: u64, id: u64) {
        let replica = self.replica.clone();
        self.waiting.push((
            call,
            Box::pin(async move {
                let _ = replica.add_member(&name(id), &format!("{}:1", name(id))).await;
                Outcome::Never
            }),
        ));
    }

    pub fn leave(&mut self, call: u64, id: u64) {
        let replica = self.replica.clone();
        self.waiting.push((
            call,
            Box::pin(async move {
                let _ = replica.remove_member(id).await;
                Outcome::Never
            }),
        ));
    }

    /// On the leader; elsewhere it says who leads.
    pub fn submit(&mut self, call: u64, requests: &[Request], now: Timestamp) -> Result<(), Option<u64>> {
        let role = self.replica.role().borrow().clone();
        let ignores_term = self.mutation == Some(Mutation::IgnoreTerm);
        if !role.leading {
            self.ahead = self.ahead.take().filter(|_| ignores_term);
            return Err(role.leader.map(|leader| leader.id));
        }
        if self.is_lost.get() || self.ahead.as_ref().is_none_or(|(term, _)| *term != role.term && !ignores_term) {
            // Nothing decided on a lost proposal may still be under way when the committed state is taken up.
            if self.in_flight.get() > 0 {
                return Err(None);
            }
            self.is_lost.set(false);
            self.ahead = Some((role.term, self.replica.view()));
        }
        if self.mutation == Some(Mutation::SplitTransaction)
            && let [first, rest @ ..] = requests
            && !rest.is_empty()
        {
            self.later.push((call, role.term, rest.to_vec(), now));
            self.decide(u64::MAX, role.term, std::slice::from_ref(first), now);
            return Ok(());
        }
        self.decide(call, role.term, requests, now);
        Ok(())
    }

    fn decide(&mut self, call: u64, term: u64, requests: &[Request], now: Timestamp) {
        let Some((_, view)) = self.ahead.clone() else { return };
        let now = now.max(view.at());
        let dice = &mut self.dice;
        let mut env = Env { now, dice: &mut || dice.next() };
        let replica = self.replica.clone();
        let decided = match transact(&view, requests, &mut env) {
            Ok(decided) if !decided.txn.ops.is_empty() => decided,
            refused => {
                let status = refused.err();
                // What it was refused on may not be committed, and somebody else may lead.
                let confirmed = async move {
                    let fresh = replica.fresh().await;
                    let role = replica.role().borrow().clone();
                    match (fresh, status) {
                        (Ok(seen), Some(status))
                            if role.leading && role.term == term && seen.revision() >= view.revision() =>
                        {
                            Outcome::Refused(status)
                        }
                        (Ok(seen), None) if role.leading && role.term == term && seen.revision() >= view.revision() => {
                            Outcome::Same
                        }
                        _ => Outcome::Never,
                    }
                };
                return self.waiting.push((call, Box::pin(confirmed)));
            }
        };
        let expected = decided.view.revision();
        let next = (decided.view.clone(), decided.events);
        let committed = replica.propose(term, decided.txn, now, &view, next);
        self.ahead = Some((term, decided.view));
        let (in_flight, is_lost) = (self.in_flight.clone(), self.is_lost.clone());
        in_flight.set(in_flight.get() + 1);
        let is_early = self.mutation == Some(Mutation::EarlyAnswers);
        let answered = async move {
            let outcome = if is_early { Ok(Ok(expected)) } else { committed.await };
            let outcome = match outcome {
                Ok(Ok(revision)) if revision == expected => Outcome::Written(revision),
                Ok(Err(copepod_replica::ProposeError::NotLeader | copepod_replica::ProposeError::Full)) => {
                    Outcome::Never
                }
                _ => Outcome::Unknown,
            };
            if !matches!(outcome, Outcome::Written(_)) {
                is_lost.set(true);
            }
            in_flight.set(in_flight.get() - 1);
            outcome
        };
        self.waiting.push((call, Box::pin(answered)));
    }
}

/// What every message of Raft says of its term.
#[derive(Clone, PartialEq, prost::Message)]
struct Dated {
    #[prost(uint64, tag = "4")]
    term: u64,
}

/// Makes a message of an earlier term one of `term`: of a field that is there twice, the second counts. What has no term yet has zero.
fn bring_forward(message: &mut Bytes, term: u64) {
    if Dated::decode(message.clone()).is_ok_and(|dated| (1..term).contains(&dated.term)) {
        *message = [&message[..], &Dated { term }.encode_to_vec()].concat().into();
    }
}

pub fn name(id: u64) -> String {
    format!("s{id}")
}
