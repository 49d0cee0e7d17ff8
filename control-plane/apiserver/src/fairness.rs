//! Nobody keeps everybody else from being served.
//!
//! Each request belongs to a priority level and a flow (`plan`), and takes a seat of its level, or waits for one, or is
//! asked to come again later (`levels`). Who says what belongs where are FlowSchemas and PriorityLevelConfigurations, which
//! are objects like others; `defaults` are those of every cluster.
//!
//! A seat is held until the answer begins, and by a long list until it is sent (`hold`). Watches, logs and streams go on
//! without one.

pub mod defaults;
mod hold;
mod levels;
mod plan;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::response::Response;
use copepod_access::Wish;
use copepod_api::{Resource, Status, StatusResult, Typed, User};
use copepod_store::{Snapshot, View};
use http::{HeaderName, HeaderValue};
use tokio::sync::oneshot;

use crate::compress::Long;
use levels::{Arrival, Caller, Levels, Ticket};
pub use plan::Class;
use plan::Plan;

/// How many requests are worked on at once, as upstream has it (400 reads and 200 writes). A write waits for disks most of
/// its time, so this is more than processors could do.
const SEATS: u32 = 600;

/// How long a request waits for its seat: after that its client has better uses for the connection.
const WAIT_MAX: Duration = Duration::from_secs(15);

/// When a client that was refused may ask again.
const RETRY_SECONDS: i32 = 1;

/// A list takes a seat for so many objects, and at most so many seats.
const OBJECTS_A_SEAT: usize = 500;
const WIDTH_MAX: u32 = 10;

const SCHEMAS: (&str, &str) = ("flowcontrol.apiserver.k8s.io", "flowschemas");
const LEVELS: (&str, &str) = ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations");

const SCHEMA_HEADER: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_HEADER: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// Who sits, who waits, and by which rules.
pub struct Fairness {
    seats: u32,
    state: Mutex<State>,
}

struct State {
    /// What the plan was made from.
    made_of: Option<[Snapshot; 2]>,
    plan: Arc<Plan>,
    levels: Levels,
    waiting: BTreeMap<Ticket, oneshot::Sender<()>>,
    /// By schema and level.
    refusals: BTreeMap<(Arc<str>, Arc<str>), u64>,
}

/// A request's place; left when it is dropped.
pub struct Seat {
    fairness: Arc<Fairness>,
    class: Class,
    width: u32,
}

impl Default for Fairness {
    fn default() -> Self {
        Fairness::with_seats(SEATS)
    }
}

impl Fairness {
    pub fn with_seats(seats: u32) -> Fairness {
        let state = State {
            made_of: None,
            plan: Arc::default(),
            levels: Levels::default(),
            waiting: BTreeMap::new(),
            refusals: BTreeMap::new(),
        };
        Fairness { seats, state: Mutex::new(state) }
    }

    /// Waits for a seat, or refuses.
    pub async fn seat(self: &Arc<Self>, view: &View, user: &User, wish: &Wish<'_>) -> StatusResult<Seat> {
        let busy = || Status::too_many_requests("too many requests, please try again later", RETRY_SECONDS);
        let class = self.plan(view).classify(user, wish).ok_or_else(busy)?;
        let width = width(view, wish);
        let caller = Caller { flow: flow(&class), width };
        let (seat, turn) = {
            let mut state = self.lock();
            match state.levels.arrive(&class.level, caller) {
                Arrival::Runs => return Ok(Seat { fairness: self.clone(), class, width }),
                Arrival::Refused => {
                    *state.refusals.entry((class.schema, class.level)).or_default() += 1;
                    return Err(busy());
                }
                Arrival::Waits(ticket) => {
                    let (sender, turn) = oneshot::channel();
                    state.waiting.insert(ticket, sender);
                    (Waiting { fairness: self.clone(), class: Some(class), width, ticket }, turn)
                }
            }
        };
        match tokio::time::timeout(WAIT_MAX, turn).await {
            Ok(Ok(())) => seat.into_seat().ok_or_else(busy),
            _ => Err(busy()),
        }
    }

    /// How many seats are taken and how many wait for one, a level.
    pub fn usage(&self) -> Vec<(String, u32, usize)> {
        self.lock().levels.usage().map(|(name, in_use, waiting)| (name.to_string(), in_use, waiting)).collect()
    }

    /// How many were refused, by schema and level.
    pub fn refusals(&self) -> BTreeMap<(Arc<str>, Arc<str>), u64> {
        self.lock().refusals.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The plan of a view: made anew when one of its objects changed.
    fn plan(&self, view: &View) -> Arc<Plan> {
        let made_of = [SCHEMAS, LEVELS].map(|(group, plural)| view.snapshot(&Resource::new(group, plural)));
        let mut state = self.lock();
        let is_same = state.made_of.as_ref().is_some_and(|known| known[0].is(&made_of[0]) && known[1].is(&made_of[1]));
        if !is_same {
            let plan = Plan::new(with_defaults(&made_of[0]), &with_defaults(&made_of[1]), self.seats);
            let going_on = state.levels.configure(plan.limits());
            state.plan = Arc::new(plan);
            state.made_of = Some(made_of);
            state.call(going_on);
        }
        state.plan.clone()
    }
}

impl State {
    fn call(&mut self, tickets: Vec<Ticket>) {
        for ticket in tickets {
            if let Some(turn) = self.waiting.remove(&ticket) {
                // Who does not listen any more notices it by itself, and leaves.
                let _ = turn.send(());
            }
        }
    }
}

/// The objects of a collection, and what must be there besides: all of it before a cluster has any.
fn with_defaults<T: Typed>(snapshot: &Snapshot) -> Vec<T> {
    let mut all: Vec<T> =
        snapshot.objects().filter_map(|object| serde_json::from_slice(&object.bytes()).ok()).collect();
    let is_new = all.is_empty();
    for default in defaults::all().into_iter().filter(|default| default["kind"] == T::KIND) {
        let name = default["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let is_there = all.iter().any(|own| own.metadata().name.as_deref() == Some(&name));
        if !is_there && (is_new || defaults::MANDATORY.contains(&&*name)) {
            all.extend(serde_json::from_value(default));
        }
    }
    all
}

fn width(view: &View, wish: &Wish<'_>) -> u32 {
    match wish {
        Wish::Object(wish) if wish.verb == "list" && wish.name.is_empty() => {
            let objects = view.count(&Resource::new(wish.group, wish.resource));
            u32::try_from(objects.div_ceil(OBJECTS_A_SEAT)).unwrap_or(WIDTH_MAX).clamp(1, WIDTH_MAX)
        }
        _ => 1,
    }
}

fn flow(class: &Class) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&class.schema, &class.distinguisher).hash(&mut hasher);
    hasher.finish()
}

impl Class {
    /// Tells the client what its request counted as, whatever became of it.
    pub fn mark(&self, response: &mut Response) {
        for (header, uid) in [(SCHEMA_HEADER, &self.schema_uid), (LEVEL_HEADER, &self.level_uid)] {
            if let (false, Ok(value)) = (uid.is_empty(), HeaderValue::from_str(uid)) {
                response.headers_mut().insert(header, value);
            }
        }
    }
}

impl Seat {
    /// What the request counted as.
    pub fn class(&self) -> Class {
        self.class.clone()
    }

    /// Stays with the answer if that is long.
    pub fn settle(self, response: Response) -> Response {
        match response.extensions().get::<Long>().is_some() {
            true => hold::until_sent(self, response),
            false => response,
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.fairness.lock();
        let going_on = state.levels.leave(&self.class.level, self.width);
        state.call(going_on);
    }
}

/// Somebody in a queue. Dropped, they leave it, or the seat that they were given unseen.
struct Waiting {
    fairness: Arc<Fairness>,
    /// Taken with the seat.
    class: Option<Class>,
    width: u32,
    ticket: Ticket,
}

impl Waiting {
    fn into_seat(mut self) -> Option<Seat> {
        let class = self.class.take()?;
        Some(Seat { fairness: self.fairness.clone(), class, width: self.width })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(class) = self.class.take() else { return };
        let mut state = self.fairness.lock();
        state.waiting.remove(&self.ticket);
        if !state.levels.give_up(&class.level, self.ticket) {
            let going_on = state.levels.leave(&class.level, self.width);
            state.call(going_on);
        }
    }
}
