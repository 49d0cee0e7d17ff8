//! The one door, on Raft.
//!
//! On the leader one task takes what was submitted, in order, and decides each on a *speculative* view: the committed
//! state plus everything proposed before it in this term. So a thousand writes wait for one fsync together and still see
//! each other. A client is answered when its transaction is committed, or, where it is refused or changes nothing, when
//! what that rests on is committed and a majority has said that nobody else leads. When a proposal is lost (leadership
//! moved, the disk is full), whatever was decided on top of it is lost with it, and the next decision starts from the
//! committed state again. A write that webhooks must be asked about is put off until they have answered, and then
//! decided again with what they said.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use copepod_api::{Reply, Request, Resource, Revision, Status, Timestamp};
use copepod_apiserver::Webhooks;
use copepod_registry::{Env, Testimony, Transaction, Undecided};
use copepod_replica::{Replica, Role};
use copepod_store::{Cursor, Door, Leader, View, door::Async};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// Submissions that may wait to be decided. Each holds a few kilobytes; beyond this, callers wait.
const SUBMISSIONS_MAX: usize = 4096;

/// Transactions proposed and not yet committed. Bounds what is lost with a lost leadership, and the memory it takes.
const PROPOSALS_MAX: usize = 2048;

/// How long a consistent read may take before the caller is told that no majority answers.
const READ_MAX: Duration = Duration::from_secs(5);

type Answer = oneshot::Sender<Result<Vec<Reply>, Undecided>>;

struct Submission {
    requests: Arc<Vec<Request>>,
    /// What is known from earlier decisions about them.
    testimony: Testimony,
    answer: Answer,
}

/// The door of one server.
pub struct ServerDoor {
    replica: Replica,
    submissions: mpsc::Sender<Submission>,
    webhooks: Webhooks,
}

impl ServerDoor {
    /// Opens the door and starts the task that decides.
    pub fn open(replica: Replica, webhooks: Webhooks) -> Arc<ServerDoor> {
        let (submissions, queue) = mpsc::channel(SUBMISSIONS_MAX);
        tokio::spawn(Decider::new(replica.clone()).run(queue));
        Arc::new(ServerDoor { replica, submissions, webhooks })
    }

    async fn decide(&self, requests: Arc<Vec<Request>>, testimony: Testimony) -> Result<Vec<Reply>, Undecided> {
        let stopping = || Undecided::Refused(Status::unavailable("this server is stopping"));
        let (answer, decided) = oneshot::channel();
        let submission = Submission { requests, testimony, answer };
        self.submissions.send(submission).await.map_err(|_| stopping())?;
        decided.await.unwrap_or_else(|_| Err(stopping()))
    }
}

impl Door for ServerDoor {
    fn view(&self) -> View {
        self.replica.view()
    }

    fn fresh(&self) -> Async<'_, Result<View, Status>> {
        Box::pin(async {
            match tokio::time::timeout(READ_MAX, self.replica.fresh()).await {
                Ok(Ok(view)) => Ok(view),
                Ok(Err(error)) => Err(Status::unavailable(error.to_string())),
                Err(_) => Err(no_majority()),
            }
        })
    }

    fn reached(&self, revision: Revision) -> Async<'_, Result<View, Status>> {
        Box::pin(async move {
            match tokio::time::timeout(READ_MAX, self.replica.reached(revision)).await {
                Ok(Ok(view)) => Ok(view),
                Ok(Err(error)) => Err(Status::unavailable(error.to_string())),
                Err(_) => Err(Status::timeout(format!("Too large resource version: {revision}"))),
            }
        })
    }

    fn submit(&self, requests: Vec<Request>) -> Async<'_, Result<Vec<Reply>, Status>> {
        Box::pin(async move {
            let requests = Arc::new(requests);
            let decide = |testimony| self.decide(requests.clone(), testimony);
            self.webhooks.settle(|| self.replica.view(), decide).await
        })
    }

    fn watch(&self, resource: Option<Resource>, from: Revision) -> Box<dyn Cursor> {
        Box::new(self.replica.watch(resource, from))
    }

    fn leader(&self) -> Leader {
        let role = self.replica.role().borrow().clone();
        match role {
            Role { leading: true, .. } => Leader::Here,
            Role { leader: Some(member), .. } => Leader::At(member.address),
            Role { leader: None, .. } => Leader::Unknown,
        }
    }
}

/// Turns submissions into proposals, in order.
struct Decider {
    replica: Replica,
    /// The state after all proposals of `term`; `None` when it has to be taken up from the committed state.
    ahead: Option<(u64, View)>,
    /// What became of the last proposal that `ahead` contains; `None` as long as that is not known.
    last: Option<watch::Receiver<Option<bool>>>,
    in_flight: Arc<InFlight>,
    dice: StdRng,
}

/// Proposals that are not committed yet, and whether one was lost since the last fresh start.
#[derive(Default)]
struct InFlight {
    count: AtomicUsize,
    lost: std::sync::atomic::AtomicBool,
    changed: Notify,
}

impl Decider {
    fn new(replica: Replica) -> Decider {
        let dice = StdRng::from_rng(&mut rand::rng());
        Decider { replica, ahead: None, last: None, in_flight: Arc::default(), dice }
    }

    async fn run(mut self, mut queue: mpsc::Receiver<Submission>) {
        while let Some(submission) = queue.recv().await {
            if let Err(status) = self.take_up().await {
                let _ = submission.answer.send(Err(Undecided::Refused(status)));
                continue;
            }
            self.decide(submission);
            if self.in_flight.count.load(Ordering::Acquire) >= PROPOSALS_MAX {
                self.in_flight.falls_below(PROPOSALS_MAX / 2).await;
            }
        }
    }

    /// Makes `ahead` the state to decide on, or says why there is none.
    async fn take_up(&mut self) -> Result<(), Status> {
        let role = self.replica.role().borrow().clone();
        if !role.leading {
            self.ahead = None;
            return Err(match role.leader {
                Some(leader) => Status::unavailable(format!("the leader is {}", leader.name)),
                None => Status::unavailable("no server leads at the moment; try again"),
            });
        }
        let lost = self.in_flight.lost.load(Ordering::Acquire);
        if !lost && self.ahead.as_ref().is_some_and(|(term, _)| *term == role.term) {
            return Ok(());
        }
        // Nothing that was decided on a lost proposal may still be under way when the committed state is taken up.
        self.in_flight.falls_below(1).await;
        self.in_flight.lost.store(false, Ordering::Release);
        let view = self.replica.view();
        self.ahead = Some((role.term, view));
        self.last = None;
        Ok(())
    }

    fn decide(&mut self, Submission { requests, testimony, answer }: Submission) {
        let Some((term, view)) = self.ahead.clone() else { return };
        // The clock of a new leader may be behind that of the last one; time in the store only moves forward.
        let now = Timestamp::now().max(view.at());
        let dice = &mut self.dice;
        let mut env = Env { now, dice: &mut || dice.next_u64() };
        let decided = copepod_registry::decide(&view, &requests, &mut env, testimony);
        let transaction = match decided {
            Ok(transaction) if !transaction.txn.ops.is_empty() => transaction,
            Ok(Transaction { replies, .. }) => return self.confirm(term, Ok(replies), answer),
            Err(Undecided::Refused(status)) => return self.confirm(term, Err(status), answer),
            Err(open) => return drop(answer.send(Err(open))),
        };
        let next = (transaction.view.clone(), transaction.events);
        let (committed, expected) =
            (self.replica.propose(term, transaction.txn, now, &view, next), transaction.view.revision());
        self.ahead = Some((term, transaction.view));
        self.in_flight.count.fetch_add(1, Ordering::AcqRel);
        let in_flight = self.in_flight.clone();
        let (last, known) = watch::channel(None);
        self.last = Some(known);
        tokio::spawn(async move {
            let outcome = match committed.await {
                Ok(Ok(revision)) if revision == expected => Ok(transaction.replies),
                // It was applied to another state than it was decided on, so the replies tell of revisions that are not.
                Ok(Ok(revision)) => Err(Status::unavailable(format!(
                    "the write took place, at revision {revision}, and what it answers to is lost; read again"
                ))),
                Ok(Err(error)) => Err(Status::unavailable(error.to_string())),
                Err(_) => Err(Status::unavailable("this server is stopping; whether the write took place is unknown")),
            };
            if outcome.is_err() {
                in_flight.lost.store(true, Ordering::Release);
            }
            last.send_replace(Some(outcome.is_ok()));
            in_flight.count.fetch_sub(1, Ordering::AcqRel);
            in_flight.changed.notify_one();
            let _ = answer.send(outcome.map_err(Undecided::Refused));
        });
    }
}

impl Decider {
    /// Answers what changes nothing, once it is certain that it was decided on the newest state.
    fn confirm(&self, term: u64, decided: Result<Vec<Reply>, Status>, answer: Answer) {
        let (replica, last) = (self.replica.clone(), self.last.clone());
        tokio::spawn(async move {
            let stands = tokio::time::timeout(READ_MAX, stands(&replica, term, last)).await;
            let outcome = stands.unwrap_or_else(|_| Err(no_majority())).and(decided);
            let _ = answer.send(outcome.map_err(Undecided::Refused));
        });
    }
}

/// Whether what was decided in a term, on top of a proposal, still is what the cluster would say.
async fn stands(replica: &Replica, term: u64, last: Option<watch::Receiver<Option<bool>>>) -> Result<(), Status> {
    replica.fresh().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let moved = || Status::unavailable("leadership moved meanwhile; try again");
    {
        let role = replica.role();
        let role = role.borrow();
        if !role.leading || role.term != term {
            return Err(moved());
        }
    }
    let Some(mut last) = last else { return Ok(()) };
    match last.wait_for(Option::is_some).await.is_ok_and(|committed| *committed == Some(true)) {
        true => Ok(()),
        false => Err(Status::unavailable("a write that this rests on was lost; try again")),
    }
}

impl InFlight {
    async fn falls_below(&self, limit: usize) {
        while self.count.load(Ordering::Acquire) >= limit {
            self.changed.notified().await;
        }
    }
}

fn no_majority() -> Status {
    Status::timeout("no majority of the servers answers; nothing can be read consistently or written until one does")
}

#[cfg(test)]
mod tests {
    use copepod_api::{
        Action, User,
        k8s_openapi::api::core::v1::{ConfigMap, Namespace},
    };
    use copepod_replica::{Config, Local, Member};
    use serde_json::{Value, json};

    use super::*;

    fn start(local: &Arc<Local>, id: u64, dir: &std::path::Path, contacts: Vec<Member>) -> Replica {
        let (name, address) = (format!("s{id}"), format!("s{id}:1"));
        let data_dir = dir.join(&name);
        std::fs::create_dir(&data_dir).unwrap();
        let config = Config { id, data_dir, name, address, bootstrap: id == 1, contacts };
        let replica = Replica::open(config, local.wire(id)).unwrap();
        local.add(id, replica.clone());
        replica
    }

    type Decided = oneshot::Receiver<Result<Vec<Reply>, Undecided>>;

    async fn create<T: copepod_api::Typed>(door: &mpsc::Sender<Submission>, namespace: &str, object: Value) -> Decided {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let request = Request::of::<T>(&User::system("test"), namespace, &name, "", Action::Create { object });
        let (answer, decided) = oneshot::channel();
        let requests = Arc::new(vec![request]);
        door.send(Submission { requests, testimony: Testimony::default(), answer }).await.unwrap();
        decided
    }

    async fn config_map(door: &mpsc::Sender<Submission>, name: &str) -> Decided {
        let object =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}});
        create::<ConfigMap>(door, "default", object).await
    }

    async fn code(decided: Decided) -> u16 {
        match decided.await.unwrap() {
            Ok(_) => 200,
            Err(Undecided::Refused(status)) => status.code(),
            Err(Undecided::Open { .. }) => panic!("nobody is to be asked"),
        }
    }

    #[tokio::test]
    async fn a_refusal_is_told_only_while_what_it_rests_on_stands() {
        let dir = tempfile::tempdir().unwrap();
        let local = Arc::new(Local::default());
        let one = start(&local, 1, dir.path(), Vec::new());
        one.role().wait_for(|role| role.leading).await.unwrap();
        let (door, queue) = mpsc::channel(8);
        tokio::spawn(Decider::new(one.clone()).run(queue));
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}});
        assert_eq!(code(create::<Namespace>(&door, "", namespace).await).await, 200);
        assert_eq!(code(config_map(&door, "a").await).await, 200);

        one.add_member("s2", "s2:1").await.unwrap();
        let two = start(&local, 2, dir.path(), one.members());
        let voting = |members: &Arc<Vec<Member>>| members.iter().filter(|member| !member.learner).count() == 2;
        one.membership().wait_for(voting).await.unwrap();
        // A write and what is refused because of it, at once; and what was there before.
        let decided = [config_map(&door, "b").await, config_map(&door, "b").await, config_map(&door, "a").await];
        let [b, again, a] = decided;
        assert_eq!([code(b).await, code(again).await, code(a).await], [200, 409, 409]);

        local.cut(2);
        let decided = [config_map(&door, "a").await, config_map(&door, "c").await, config_map(&door, "c").await];
        one.role().wait_for(|role| !role.leading).await.unwrap();
        local.heal(2);
        for (decided, what) in decided.into_iter().zip(["a is there", "c, which is lost", "c, which may be"]) {
            assert_eq!(code(decided).await, 503, "{what}: nobody has said that this server still leads");
        }
        for replica in [one, two] {
            replica.shutdown().await;
        }
    }
}
