//! What can happen.

use bytes::Bytes;
use copepod_replica::{Sent, SnapshotWork};

use crate::{front::Heard, leading::Loop, node::NodeEvent, server::Outcome};

pub enum Event {
    Tick {
        to: u64,
        life: u64,
    },
    Messages {
        to: u64,
        messages: Vec<Bytes>,
    },
    Snapshot {
        from: u64,
        life: u64,
        to: u64,
        message: Bytes,
        data: Vec<u8>,
    },
    SnapshotSent {
        to: u64,
        life: u64,
        about: u64,
        sent: Sent,
    },
    SnapshotWritten {
        to: u64,
        life: u64,
        work: Box<SnapshotWork>,
    },
    Retry {
        to: u64,
        life: u64,
    },
    Start {
        to: u64,
    },
    Enroll {
        id: u64,
    },
    Found,
    Think {
        client: usize,
    },
    Arrive {
        call: u64,
        to: u64,
        hops: u32,
    },
    Answer {
        call: u64,
        outcome: Outcome,
    },
    GiveUp {
        call: u64,
    },
    Look {
        watcher: usize,
    },
    Fault(usize),
    DiskFree {
        to: u64,
    },
    Retired {
        id: u64,
    },
    /// A server that goes on with a disk that has rotted ends.
    Rotted {
        to: u64,
        life: u64,
    },
    /// Somebody puts another server in place of one that has rotted.
    Replace {
        id: u64,
    },
    /// The next one of an upgrade.
    Restart {
        for_: u64,
        is_told: bool,
    },
    /// A loop of a leader looks.
    Loop {
        to: u64,
        life: u64,
        which: Loop,
    },
    /// It wanted to look again.
    Timer {
        to: u64,
        life: u64,
        which: Loop,
        at: u64,
    },
    /// An agent is heard.
    Hear {
        to: u64,
        heard: Heard,
    },
    Node {
        place: usize,
        life: u64,
        boot: u64,
        event: NodeEvent,
    },
    StartNode {
        place: usize,
    },
    Chore,
    Calm,
    Judge,
    /// The cluster has become what it shall be.
    JudgeCluster,
    End,
}
