//! The replicated log, in process and on a real disk: writes a second, and what one write waits for.
//!
//! Writes go the way of the server's door: each is computed ahead on the state after those before it, and many are under
//! way while one is synchronised.

use std::{
    collections::VecDeque,
    fs::File,
    io::Write,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use copepod_api::{Revision, Timestamp, Txn, resource::CONFIG_MAPS};
use copepod_replica::{Config, Local, Member, ProposeError, Replica};
use copepod_store::{Cursor, View};
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::{
    figures::{Figure, quantile},
    heap,
    objects::{apply, put, stored_bytes},
};

/// Transactions under way at once: as many as the server's door lets through.
const IN_FLIGHT: usize = 2048;

const WRITES: usize = 200_000;
const OBJECTS: usize = 10_000;
const ALONE: usize = 2_000;

/// Fewer than the history keeps: a watch that falls behind is cut off.
const WATCHED: usize = 20_000;

/// Data of the objects whose memory is measured, in bytes.
const PAYLOADS: [usize; 2] = [512, 4096];

pub fn measure(tell: &mut dyn FnMut(Figure)) {
    for payload_bytes in [128, 1024] {
        for (n_servers, goal) in [(1, 50_000.0), (3, 20_000.0)] {
            let cluster = Cluster::of(n_servers);
            let mut writer = Writer::to(cluster.leader());
            let transactions: Vec<Txn> = (0..OBJECTS).map(|number| put(number, payload_bytes)).collect();
            transactions.iter().for_each(|txn| writer.write(txn.clone()));
            writer.settle();
            let began = Instant::now();
            transactions.iter().cycle().take(WRITES).for_each(|txn| writer.write(txn.clone()));
            writer.settle();
            let what = format!("replica: writes of {payload_bytes} B and more, servers: {n_servers}");
            tell(Figure::rate(what, WRITES, began.elapsed()).at_least(goal));
        }
    }
    for n_servers in [1, 3] {
        alone(n_servers, tell);
    }
    for n_watches in [10, 100, 1_000] {
        watched(n_watches, tell);
    }
}

/// Writes of objects that many watch.
fn watched(n_watches: usize, tell: &mut dyn FnMut(Figure)) {
    let cluster = Cluster::of(1);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
    let leader = cluster.leader();
    let watches: Vec<_> = (0..n_watches)
        .map(|_| {
            let mut cursor = leader.watch(Some(CONFIG_MAPS), leader.view().revision());
            runtime.spawn(async move {
                let mut n_seen = 0;
                while n_seen < WATCHED {
                    n_seen += cursor.next().await.expect("the history reaches back so far").len();
                }
            })
        })
        .collect();
    let mut writer = Writer::to(leader);
    let transactions: Vec<Txn> = (0..WATCHED).map(|number| put(number, 128)).collect();
    let began = Instant::now();
    transactions.into_iter().for_each(|txn| writer.write(txn));
    writer.settle();
    tell(Figure::rate(format!("replica: writes that are watched, watches: {n_watches}"), WATCHED, began.elapsed()));
    watches.into_iter().for_each(|watch| runtime.block_on(watch).expect("no watch panics"));
    let n_events = WATCHED * n_watches;
    tell(Figure::rate(format!("replica: events handed out, watches: {n_watches}"), n_events, began.elapsed()));
}

/// One write at a time, beside what the disk takes for as many bytes.
fn alone(n_servers: u64, tell: &mut dyn FnMut(Figure)) {
    let cluster = Cluster::of(n_servers);
    let mut writer = Writer::to(cluster.leader());
    let mut beside = File::create(cluster.path.path().join("beside")).expect("the directory is ours");
    let (mut commits, mut syncs) = (Vec::new(), Vec::new());
    for number in 0..ALONE {
        let txn = put(number, 512);
        let began = Instant::now();
        writer.write(txn);
        writer.settle();
        commits.push(began.elapsed());
        let began = Instant::now();
        beside.write_all(&[b'x'; 1200]).and_then(|()| beside.sync_data()).expect("the disk has room");
        syncs.push(began.elapsed());
    }
    for (name, part) in [("p50", 0.5), ("p99", 0.99)] {
        let (commit, sync) = (quantile(&mut commits, part), quantile(&mut syncs, part));
        let what = format!("replica: one write at a time, {name}, servers: {n_servers}");
        tell(Figure::new(&what, commit.as_secs_f64() * 1e3, "ms"));
        let figure = Figure::new(format!("{what}, to one fdatasync"), commit.as_secs_f64() / sync.as_secs_f64(), "×");
        // The tail is the disk's own, and three servers on one disk wait for each other.
        tell(if n_servers == 1 && part == 0.5 { figure.at_most(1.5) } else { figure });
    }
}

/// Everything a server holds for its objects: state, history of events, log, and what is under way.
pub fn memory(tell: &mut dyn FnMut(Figure)) {
    for payload_bytes in PAYLOADS {
        let n_objects = (256 << 20) / payload_bytes;
        heap::begin();
        let cluster = Cluster::of(1);
        let mut writer = Writer::to(cluster.leader());
        (0..n_objects).for_each(|number| writer.write(put(number, payload_bytes)));
        writer.settle();
        let what = format!("replica: memory for objects of {payload_bytes} B and more");
        let mut show = |when: &str, writer: &Writer| {
            let stored = stored_bytes(&writer.view) as f64;
            tell(Figure::new(format!("{what}, {when}"), heap::held() as f64 / stored, "× bytes").at_most(1.6));
            tell(Figure::new(format!("{what}, {when}, at its peak"), heap::peak() as f64 / stored, "× bytes"));
            // What the first left behind in the allocator would be told of the others.
            if payload_bytes == PAYLOADS[0] {
                tell(Figure::new(format!("{what}, {when}, resident"), heap::resident() as f64 / stored, "× bytes"));
            }
        };
        show("written once", &writer);
        (0..n_objects / 2).for_each(|number| writer.write(put(number * 2, payload_bytes)));
        writer.settle();
        show("half of them again", &writer);
        // Counting goes on until the cluster is gone, so that the next begins at nothing.
        drop((cluster, writer));
        heap::end();
    }
}

/// Proposes as the server's door does.
pub struct Writer {
    replica: Replica,
    term: u64,
    pub view: View,
    under_way: VecDeque<(Instant, oneshot::Receiver<Result<Revision, ProposeError>>)>,
    pub in_flight: usize,
    /// How long each write took, where somebody wants to know.
    pub took: Option<Vec<Duration>>,
}

impl Writer {
    pub fn to(replica: Replica) -> Writer {
        let (term, view) = (replica.role().borrow().term, replica.view());
        Writer { replica, term, view, under_way: VecDeque::new(), in_flight: IN_FLIGHT, took: None }
    }

    pub fn write(&mut self, txn: Txn) {
        let began = Instant::now();
        let next = apply(&self.view, &txn);
        let ahead = next.0.clone();
        let answer = self.replica.propose(self.term, txn, Timestamp::UNIX_EPOCH, &self.view, next);
        self.view = ahead;
        self.under_way.push_back((began, answer));
        if self.under_way.len() >= self.in_flight {
            self.wait_for_one();
        }
    }

    pub fn settle(&mut self) {
        while !self.under_way.is_empty() {
            self.wait_for_one();
        }
    }

    fn wait_for_one(&mut self) {
        let Some((began, answer)) = self.under_way.pop_front() else { return };
        answer.blocking_recv().expect("the replica runs").expect("the write is acknowledged");
        if let Some(took) = &mut self.took {
            took.push(began.elapsed());
        }
    }
}

/// Servers in this process, each with a directory of its own.
pub struct Cluster {
    local: Arc<Local>,
    pub path: TempDir,
    runtime: tokio::runtime::Runtime,
}

impl Cluster {
    pub fn of(n_servers: u64) -> Cluster {
        let path = TempDir::new().expect("there is a directory for temporary files");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let cluster = Cluster { local: Arc::default(), path, runtime };
        cluster.start(1, Vec::new());
        let leader = cluster.leader();
        for id in 2..=n_servers {
            let added = cluster.runtime.block_on(leader.add_member(&format!("s{id}"), &format!("s{id}:1")));
            added.expect("the leader adds members");
            cluster.start(id, leader.members());
            until(|| leader.members().iter().any(|member| member.id == id && !member.learner));
        }
        cluster
    }

    fn start(&self, id: u64, contacts: Vec<Member>) {
        let config = Config {
            id,
            data_dir: self.directory(id),
            name: format!("s{id}"),
            address: format!("s{id}:1"),
            bootstrap: id == 1,
            contacts,
        };
        let replica = Replica::open(config, self.local.wire(id)).expect("the directory is empty");
        self.local.add(id, replica);
    }

    /// Stops the one server and starts it again; says how long it takes until it leads with everything applied.
    pub fn restart(&self) -> Duration {
        let stopped = self.local.remove(1);
        let before = stopped.as_ref().map(Replica::view).map(|view| view.revision());
        stopped.into_iter().for_each(|replica| self.runtime.block_on(replica.shutdown()));
        let began = Instant::now();
        self.start(1, Vec::new());
        let leader = self.leader();
        until(|| Some(leader.view().revision()) >= before);
        began.elapsed()
    }

    pub fn directory(&self, id: u64) -> std::path::PathBuf {
        Path::join(self.path.path(), format!("s{id}"))
    }

    pub fn leader(&self) -> Replica {
        until(|| self.local.leader().is_some());
        self.local.leader().expect("it led a moment ago").1
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for replica in self.local.ids().into_iter().filter_map(|id| self.local.remove(id)) {
            self.runtime.block_on(replica.shutdown());
        }
    }
}

fn until(is_met: impl Fn() -> bool) {
    while !is_met() {
        std::thread::sleep(Duration::from_millis(5));
    }
}
