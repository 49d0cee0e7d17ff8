//! How often nodes say that they live, and how long they may be silent.
//!
//! A heartbeat, heard and answered, takes a server 0.10 to 0.14 ms (docs/performance.md); ten thousand a second would keep
//! it busy all the time. So there is a number a second that all nodes share. A machine that dies is
//! noticed as fast in a large cluster all the same, because the kernel asks the other end of every session each second
//! whether it is there (`apiserver/src/serve.rs`); heartbeats are for agents that hang.

use std::time::Duration;

/// Of few nodes.
pub const HEARTBEAT_MIN: Duration = Duration::from_secs(1);

/// Of all nodes together, a second.
const HEARTBEATS: usize = 650;

/// Steps between which the interval moves, in seconds; a new one is said to all nodes, so there are few.
const STEPS: [u64; 12] = [1, 2, 3, 5, 7, 10, 13, 16, 20, 30, 50, 100];

/// How long a node without a session may be silent, in a cluster of few, before its pods are replaced elsewhere. Shorter,
/// and a rebooting switch restarts half the cluster; longer, and users wait for an answer that will not come.
pub const SILENCE_MAX: Duration = Duration::from_secs(4);

/// How long nothing need be heard in a session that is open: its machine is there, and a server or an agent that has much
/// to do must not be taken for one that hangs, or what it has to do becomes more.
const HANG_MAX: Duration = Duration::from_secs(10);

/// How long agents may take, beyond two heartbeats, to notice that their server hangs, and to find the new leader.
const RECONNECT_MAX: Duration = Duration::from_secs(6);

/// The interval for so many nodes.
pub fn heartbeat(n_nodes: usize) -> Duration {
    let wanted = n_nodes.div_ceil(HEARTBEATS) as u64;
    let seconds = STEPS.into_iter().find(|step| *step >= wanted).unwrap_or(STEPS[STEPS.len() - 1]);
    Duration::from_secs(seconds).max(HEARTBEAT_MIN)
}

/// How long nothing may be heard in a session: three heartbeats fit in.
pub fn silence_max(heartbeat: Duration) -> Duration {
    (heartbeat * 3 + Duration::from_secs(1)).max(HANG_MAX)
}

/// How long a node may be without a session that its agent has closed: where there are many, those who come back wait for
/// each other. A machine that is dead is known from the kernel, and waited for by nobody.
pub fn absence_max(heartbeat: Duration) -> Duration {
    SILENCE_MAX.max(heartbeat * 4)
}

/// How long nodes have to come back when another server begins to lead.
pub fn reconnect_max(heartbeat: Duration) -> Duration {
    heartbeat * 2 + RECONNECT_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_hears_no_more_heartbeats_of_many_nodes_than_it_can() {
        let seconds = |n_nodes| heartbeat(n_nodes).as_secs();
        assert_eq!([0, 1, 650, 651, 3_001, 10_000, 90_000].map(seconds), [1, 1, 1, 2, 5, 16, 100]);
        assert_eq!(silence_max(heartbeat(3)), HANG_MAX);
        assert_eq!(silence_max(heartbeat(10_000)).as_secs(), 49);
        assert_eq!([3, 10_000].map(|n_nodes| absence_max(heartbeat(n_nodes)).as_secs()), [4, 64]);
    }
}
