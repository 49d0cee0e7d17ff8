//! What is going to happen in a run: chosen from the seed beforehand, so that a failing run can be tried again with less.

use crate::{Mutation, dice::Dice, disk::Rot};

/// A microsecond of simulated time.
pub const MS: u64 = 1000;
pub const SECOND: u64 = 1000 * MS;

/// Long enough for an election with bad luck, and for a write after it.
const FAULTS_BEGIN: u64 = 15 * SECOND;

#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub n_servers: u64,
    pub n_clients: usize,
    /// Nodes; where there are none, no controllers run either.
    pub n_nodes: u64,
    /// Between two calls of one client, at most.
    pub think: u64,
    pub faults: Vec<(u64, Fault)>,
    /// From here on everything works.
    pub calm_from: u64,
    /// How long the calm lasts that is looked at afterwards.
    pub calm: u64,
    pub mutation: Option<Mutation>,
}

/// What goes wrong, to which servers (by number, from zero on), and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process ends; the power goes with it or not. It starts again.
    Crash {
        server: u64,
        loses_power: bool,
        for_: u64,
    },
    /// All at once.
    Blackout {
        for_: u64,
    },
    /// The write or sync after so many more fails, or is torn.
    BadDisk {
        server: u64,
        after: u64,
    },
    FullDisk {
        server: u64,
        for_: u64,
    },
    /// Bytes flip on a disk, of a server that is down or that goes on for a while; then it starts again. Only one at a
    /// time: a majority is whole.
    Rot {
        server: u64,
        what: Rot,
        is_down: bool,
        for_: u64,
    },
    SlowDisk {
        server: u64,
        sync: u64,
        for_: u64,
    },
    /// Nothing arrives that one sends the other; back it may.
    Cut {
        from: u64,
        to: u64,
        for_: u64,
    },
    /// Nothing arrives at it, and nothing from it.
    Isolate {
        server: u64,
        for_: u64,
    },
    /// Messages between servers are lost, doubled and late.
    Storm {
        lost: u64,
        doubled: u64,
        late: u64,
        for_: u64,
    },
    /// Its clock goes so many seconds forward, or back.
    Clock {
        server: u64,
        by: i64,
    },
    /// Leadership moves.
    Transfer,
    /// A server that is not a member yet joins.
    Join,
    /// A member leaves for good.
    Leave {
        server: u64,
    },
    /// An agent's process ends, and starts again.
    AgentCrash {
        node: u64,
        for_: u64,
    },
    /// A machine loses its power, and comes back.
    NodeOff {
        node: u64,
        for_: u64,
    },
    /// A machine is gone for good.
    NodeDead {
        node: u64,
    },
    /// Nothing arrives at a node, and nothing from it.
    NodeCut {
        node: u64,
        for_: u64,
    },
    /// A node's clock goes so many seconds forward, or back.
    NodeClock {
        node: u64,
        by: i64,
    },
    /// All servers get another version, and then all agents, one after the other; each is away for so long.
    Upgrade {
        for_: u64,
    },
}

impl Plan {
    pub fn of(seed: u64, calm: u64, mutation: Option<Mutation>) -> Plan {
        let mut dice = Dice::of(seed, 1);
        let n_servers = if dice.chance(700) { 3 } else { 5 };
        let mut size = Dice::of(seed, 6);
        let n_nodes = match (mutation.map(Mutation::is_about_nodes), size.below(100)) {
            (Some(false), _) | (None, 0..50) => 0,
            (None, 98..) => size.between(20, 50),
            (_, _) => size.between(3, 8),
        };
        let calm_from = FAULTS_BEGIN + dice.between(20, 60) * SECOND;
        // Some runs are a few hard blows, others a hail of small ones.
        let pause = dice.between(400, 6000) * MS;
        let mut at = FAULTS_BEGIN;
        let mut faults = Vec::new();
        while at < calm_from {
            let fault =
                if n_nodes > 0 && dice.chance(500) { of_node(&mut dice, n_nodes) } else { any(&mut dice, n_servers) };
            faults.push((at, fault));
            at += dice.between(pause / 4, pause * 2);
        }
        let think = dice.between(20, 2000) * MS;
        let n_clients = dice.between(2, 6) as usize;
        Plan { seed, n_servers, n_clients, n_nodes, think, faults, calm_from, calm, mutation }
    }

    /// The same with less, in ever smaller steps, for as long as it fails.
    pub fn minimised(&self, fails: &mut dyn FnMut(&Plan) -> bool) -> Plan {
        let mut best = self.clone();
        best.calm = 0;
        if !fails(&best) {
            best.calm = self.calm;
        }
        let mut size = best.faults.len().div_ceil(2);
        while size > 0 {
            let mut from = 0;
            while from < best.faults.len() {
                let mut less = best.clone();
                less.faults.drain(from..(from + size).min(less.faults.len()));
                if fails(&less) {
                    best = less;
                } else {
                    from += size;
                }
            }
            size /= 2;
        }
        while best.n_clients > 1 {
            let fewer = Plan { n_clients: best.n_clients - 1, ..best.clone() };
            if !fails(&fewer) {
                break;
            }
            best = fewer;
        }
        best
    }
}

fn any(dice: &mut Dice, n_servers: u64) -> Fault {
    let server = dice.below(n_servers);
    let other = (server + dice.between(1, n_servers - 1)) % n_servers;
    let for_ = dice.between(200, 8000) * MS;
    match dice.below(16) {
        0..=2 => Fault::Crash { server, loses_power: dice.chance(700), for_: for_ / 2 },
        3 => Fault::Blackout { for_: for_ / 4 },
        4 => Fault::BadDisk { server, after: dice.below(12) },
        5 => Fault::FullDisk { server, for_ },
        6 => Fault::SlowDisk { server, sync: dice.between(5, 400) * MS, for_ },
        7 => Fault::Cut { from: server, to: other, for_ },
        8 | 9 => Fault::Isolate { server, for_ },
        10 => Fault::Storm { lost: dice.below(300), doubled: dice.below(200), late: dice.between(1, 400) * MS, for_ },
        11 => Fault::Clock { server, by: dice.below(120) as i64 - 60 },
        12 => Fault::Transfer,
        13 => {
            let what = [Rot::LastFrame, Rot::LastFrame, Rot::Log, Rot::Snapshot][dice.below(4) as usize];
            Fault::Rot { server, what, is_down: dice.chance(500), for_: for_ / 2 }
        }
        14 => Fault::Upgrade { for_: for_ / 4 },
        _ if dice.chance(500) => Fault::Join,
        _ => Fault::Leave { server },
    }
}

fn of_node(dice: &mut Dice, n_nodes: u64) -> Fault {
    let node = dice.below(n_nodes);
    let for_ = dice.between(200, 20_000) * MS;
    match dice.below(11) {
        0..=2 => Fault::AgentCrash { node, for_: for_ / 4 },
        3 | 4 => Fault::NodeOff { node, for_ },
        5 => Fault::NodeDead { node },
        6 => Fault::NodeClock { node, by: dice.below(120) as i64 - 60 },
        _ => Fault::NodeCut { node, for_ },
    }
}
