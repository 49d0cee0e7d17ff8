//! What whole clusters should reach: a fraction of what Kubernetes 1.36 takes on such a machine (2 cores).

use crate::figures::Goal::{self, AtLeast, AtMost};

/// Figures of `copepod bench`, by name. Beside each: what kube-apiserver, etcd, controller manager, scheduler, kubelet and
/// containerd were measured to take.
const YARDSTICKS: &[(&str, Goal)] = &[
    ("up: 1 server, answering", AtMost(0.1)),               // 1.3 s, the API alone
    ("server RSS, idle", AtMost(40.0)),                     // 520 MB
    ("create ConfigMaps, 64 in flight", AtLeast(10_200.0)), // 2,040/s
    ("create ConfigMaps, 64 in flight, p50", AtMost(5.6)),  // 28 ms
    ("create, one at a time, p50", AtMost(0.8)),            // 1.85 ms
    ("GET, 64 in flight", AtLeast(23_300.0)),               // 4,660/s
    ("LIST of 5 MB, p50", AtMost(10.0)),                    // 102 ms
    ("watch fan-out, 200 watchers, write → delivered, p50", AtMost(2.0)), // 8.3 ms
    ("watch fan-out, 200 watchers, write → delivered, p99", AtMost(5.0)), // 21 ms
    ("create + bind 5000 pods on 1000 nodes", AtLeast(5_000.0)), // 371/s
    ("Deployment of 5000, created → all bound", AtMost(2.0)), // 69.6 s
    ("500 Deployments of 10, created → all bound", AtMost(2.0)), // not measured
    ("server RSS after all that", AtMost(150.0)),           // 1,330 MB
    ("up: 3 servers + 3 nodes, with a Deployment of 3 Ready", AtMost(2.0)), // not measured
    ("agent RSS, one pod", AtMost(20.0)),                   // 121 MiB with containerd
    ("agent RSS, 30 pods", AtMost(25.0)),                   // 155 MiB with containerd
    ("shim PSS, mean of 30", AtMost(1.0)),                  // 3.3 MiB
    ("node off → its pods Ready elsewhere", AtMost(10.0)),  // 340 s
    ("leader off → next write accepted", AtMost(1.0)),      // etcd 1 s, controllers 15 s
    ("pod create → Running, one at a time, p50", AtMost(50.0)), // 277 ms
    ("pod create → Running, one at a time, p99", AtMost(150.0)), // 387 ms
    ("pod create → Running, 8 in flight", AtLeast(50.0)),   // 5.6/s
    ("pod create → Running, 8 in flight, p50", AtMost(150.0)), // 1,375 ms
    ("pod deleted → object gone, p50", AtMost(50.0)),       // 3.2 s
    ("Deployment of 30 on one node, all Ready", AtMost(1.0)), // 5.65 s
    ("Deployment of 60 on one node, all Ready", AtMost(2.0)), // 12.2 s
];

pub fn goal(what: &str) -> Option<Goal> {
    YARDSTICKS.iter().find(|(name, _)| *name == what).map(|(_, goal)| *goal)
}
