//! What only the leader does: the real controllers, the real scheduler and the node front, begun with a leadership and
//! dropped with it.
//!
//! Each is a loop that is woken, decides on the committed state and submits. Which key is looked at when is the agenda's
//! business, as in `control-plane/src/driver.rs`; the scheduler decides, notes what happens until all of it is answered and
//! decides again, as in `control-plane/src/scheduling.rs`.

use std::{
    collections::BTreeMap,
    task::{Context, Poll, Waker},
    time::Duration,
};

use copepod_api::{
    DeleteOptions, Request, Timestamp, User,
    k8s_openapi::api::core::v1::Pod,
    resource::{NODES, REPLICA_SETS},
};
use copepod_controllers::{
    ALL,
    agenda::{Agenda, Work, is_final},
};
use copepod_replica::{Replica, ReplicaCursor};
use copepod_scheduler::Scheduler;
use copepod_store::{Cursor, Event, EventKind, View};

use crate::{
    Mutation,
    dice::Dice,
    front::{self, Front},
    plan::MS,
    server::Outcome,
};

/// Calls from here on are those of the leader's own loops.
pub const OWN_CALLS: u64 = 1 << 62;

/// Pause after a refused batch of bindings, as on a server.
const REBIND: u64 = 20 * MS;

/// The loops, by which they are woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loop {
    Controllers,
    Scheduler,
    Front,
}

impl Loop {
    pub const ALL: [Loop; 3] = [Loop::Controllers, Loop::Scheduler, Loop::Front];
}

enum About {
    Plan(Work),
    /// That a plan was refused is being told.
    Told(Work),
    Bindings,
    Front(front::Asked),
}

/// How many of a thousand looks of controllers take long, and how long at most: as where sets have thousands of pods.
const LONG_LOOKS: u64 = 50;
const LONG_LOOK_MAX: u64 = 50 * MS;

/// What a loop has others do.
#[derive(Default)]
pub struct Wishes {
    pub submissions: Vec<(u64, Vec<Request>)>,
    pub messages: Vec<front::Message>,
    /// When the loop wants to look again, from now.
    pub again: Option<u64>,
}

pub struct Leading {
    pub term: u64,
    calls: BTreeMap<u64, About>,
    n_calls: u64,
    agenda: Agenda,
    cursor: ReplicaCursor,
    scheduler: Scheduler,
    bindings: ReplicaCursor,
    n_unanswered: usize,
    /// When bindings are to be decided whatever has happened.
    decide_at: Option<u64>,
    pub front: Front,
    dice: Dice,
    mutation: Option<Mutation>,
}

impl Leading {
    pub fn begin(term: u64, replica: &Replica, now: u64, mut dice: Dice, mutation: Option<Mutation>) -> Leading {
        let view = replica.view();
        let front = Front::begin(replica, now, &mut dice, mutation);
        let mut agenda = Agenda::default();
        for (place, controller) in ALL.iter().enumerate() {
            agenda.mark(place, (controller.all)(&view));
        }
        Leading {
            term,
            calls: BTreeMap::new(),
            n_calls: 0,
            agenda,
            cursor: replica.watch(None, view.revision()),
            scheduler: Scheduler::new(),
            bindings: replica.watch(None, view.revision()),
            n_unanswered: 0,
            decide_at: Some(now),
            front,
            dice,
            mutation,
        }
    }

    fn call(&mut self, about: About, requests: Vec<Request>, wishes: &mut Wishes) {
        self.n_calls += 1;
        let call = OWN_CALLS + (self.term << 32) + self.n_calls;
        self.calls.insert(call, about);
        wishes.submissions.push((call, requests));
    }

    /// Looks, decides and submits. `now` is the simulated time, `clock` what this server takes for it.
    pub fn look(&mut self, which: Loop, replica: &Replica, now: u64, clock: Timestamp) -> Wishes {
        let mut wishes = Wishes::default();
        match which {
            Loop::Controllers => self.control(replica, now, clock, &mut wishes),
            Loop::Scheduler => self.schedule(replica, now, clock, &mut wishes),
            Loop::Front => {
                let asked = self.front.look(replica, now, clock, &mut wishes.messages);
                for (asked, requests) in asked {
                    self.call(About::Front(asked), requests, &mut wishes);
                }
                wishes.again = Some(self.front.pause(now));
            }
        }
        wishes
    }

    fn control(&mut self, replica: &Replica, now: u64, clock: Timestamp, wishes: &mut Wishes) {
        let (view, now) = (replica.view(), Duration::from_micros(now));
        match drain(&mut self.cursor) {
            Some(events) => {
                for event in &events {
                    for (place, controller) in ALL.iter().enumerate() {
                        self.agenda.mark(place, (controller.wakes)(&view, event));
                    }
                }
            }
            None => {
                self.agenda = Agenda::default();
                self.cursor = replica.watch(None, view.revision());
                self.calls.retain(|_, about| !matches!(about, About::Plan(_) | About::Told(_)));
                for (place, controller) in ALL.iter().enumerate() {
                    self.agenda.mark(place, (controller.all)(&view));
                }
            }
        }
        for work in self.agenda.take(now) {
            let controller = &ALL[work.0];
            if self.mutation == Some(Mutation::SkipCollection)
                && controller.name == "garbage-collector"
                && work.1.resource == REPLICA_SETS
            {
                continue;
            }
            let mut plan = (controller.reconcile)(&view, &work.1, clock);
            if self.mutation == Some(Mutation::GiveUpEarly)
                && controller.name == "pod-garbage-collector"
                && work.1.resource == NODES
            {
                plan.requests.extend(given_up(&view, work.1.name()));
            }
            if self.dice.chance(LONG_LOOKS) {
                self.agenda.looked(&work, Duration::from_micros(self.dice.below(LONG_LOOK_MAX)), now);
            }
            if self.agenda.planned(&work, &plan, clock, now) {
                self.call(About::Plan(work), plan.requests, wishes);
            }
        }
        wishes.again = self.agenda.pause(now).map(|pause| (pause.as_micros() as u64).max(1));
    }

    fn schedule(&mut self, replica: &Replica, now: u64, clock: Timestamp, wishes: &mut Wishes) {
        let view = replica.view();
        let Some(mut events) = drain(&mut self.bindings) else {
            self.scheduler = Scheduler::new();
            self.bindings = replica.watch(None, view.revision());
            self.decide_at = None;
            self.calls.retain(|_, about| !matches!(about, About::Bindings));
            self.n_unanswered = 0;
            return self.decide(&view, &[], clock, wishes);
        };
        if self.mutation == Some(Mutation::ForgetPod) {
            events.retain(|event| event.kind != EventKind::Added || !self.dice.chance(100));
        }
        if self.n_unanswered > 0 {
            if !events.is_empty() {
                self.scheduler.note(&view, &events);
                self.decide_at = Some(self.decide_at.map_or(now, |at| at.min(now)));
            }
            return;
        }
        let is_due = self.decide_at.is_some_and(|at| at <= now);
        if events.is_empty() && !is_due {
            wishes.again = self.decide_at.map(|at| at - now);
            return;
        }
        self.decide_at = None;
        self.decide(&view, &events, clock, wishes);
    }

    fn decide(&mut self, view: &View, events: &[Event], clock: Timestamp, wishes: &mut Wishes) {
        for plan in self.scheduler.schedule(view, events, clock) {
            if !plan.requests.is_empty() {
                self.n_unanswered += 1;
                self.call(About::Bindings, plan.requests, wishes);
            }
        }
    }

    /// Takes the answer to one of its calls; which loop is to look at that, and what else it asks for.
    pub fn answer(&mut self, call: u64, outcome: &Outcome, view: &View, now: u64, clock: Timestamp) -> (Loop, Wishes) {
        let mut wishes = Wishes::default();
        let is_done = matches!(outcome, Outcome::Written(_) | Outcome::Same);
        let which = match self.calls.remove(&call) {
            None => Loop::Controllers,
            Some(About::Plan(work)) => {
                let told = match outcome {
                    Outcome::Refused(status) if is_final(status) => (ALL[work.0].refused)(view, &work.1, status, clock),
                    _ => copepod_api::Plan::nothing(),
                };
                if told.requests.is_empty() {
                    self.agenda.done(work, !is_done, Duration::from_micros(now));
                } else {
                    self.call(About::Told(work), told.requests, &mut wishes);
                }
                Loop::Controllers
            }
            Some(About::Told(work)) => {
                self.agenda.done(work, true, Duration::from_micros(now));
                Loop::Controllers
            }
            Some(About::Bindings) => {
                self.n_unanswered = self.n_unanswered.saturating_sub(1);
                if !is_done {
                    self.decide_at = Some(now + REBIND);
                }
                Loop::Scheduler
            }
            Some(About::Front(asked)) => {
                for (asked, requests) in self.front.answer(asked, is_done, view, &mut wishes.messages) {
                    self.call(About::Front(asked), requests, &mut wishes);
                }
                Loop::Front
            }
        };
        (which, wishes)
    }

    /// An agent says something.
    pub fn hear(&mut self, heard: front::Heard, view: &View, now: u64, clock: Timestamp) -> Wishes {
        let mut wishes = Wishes::default();
        for (asked, requests) in self.front.hear(heard, view, now, clock) {
            self.call(About::Front(asked), requests, &mut wishes);
        }
        wishes
    }
}

/// Takes the leaving pods of StatefulSets off a node without its word.
fn given_up(view: &View, node: &str) -> Vec<Request> {
    let is_stateful = |owner: &copepod_api::meta::Owner| owner.kind == "StatefulSet";
    let leaving =
        view.pods_on(node).filter(|pod| pod.meta.is_leaving() && pod.meta.controller().is_some_and(is_stateful));
    let options = || DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
    let delete =
        |key: &copepod_api::Key| Request::delete::<Pod>(&User::system("admin"), key.namespace(), key.name(), options());
    leaving.map(|pod| delete(&pod.key)).collect()
}

/// What has happened since the last look; `None` when that is not known any more.
pub fn drain(cursor: &mut ReplicaCursor) -> Option<Vec<Event>> {
    let mut context = Context::from_waker(Waker::noop());
    let mut events = Vec::new();
    loop {
        let next = cursor.next().as_mut().poll(&mut context);
        match next {
            Poll::Ready(Ok(more)) => events.extend(more),
            Poll::Ready(Err(_)) => return None,
            Poll::Pending => return Some(events),
        }
    }
}
