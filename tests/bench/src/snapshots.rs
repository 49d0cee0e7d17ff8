//! Snapshots of a large state: what writes wait for meanwhile, and what a restart takes.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    figures::{Figure, quantile},
    heap,
    objects::put,
    replica::{Cluster, Writer},
};

const PAYLOAD_BYTES: usize = 4096;

/// Transactions under way while latencies are measured: a busy server, not a flooded one.
const IN_FLIGHT: usize = 32;

/// How many snapshots are waited for, and how long at most.
const SNAPSHOTS: usize = 3;
const WAIT_MAX: Duration = Duration::from_secs(60);

pub fn measure(tell: &mut dyn FnMut(Figure)) {
    beside("1 GiB", 1 << 30, 1, tell);
    // Of the same size, three states would be all that this machine has.
    beside("256 MiB, servers: 3", 256 << 20, 3, tell);
}

fn beside(size: &str, n_bytes: usize, n_servers: u64, tell: &mut dyn FnMut(Figure)) {
    let n_objects = n_bytes / PAYLOAD_BYTES;
    heap::begin();
    let cluster = Cluster::of(n_servers);
    let mut writer = Writer::to(cluster.leader());
    let began = Instant::now();
    (0..n_objects).for_each(|number| writer.write(put(number, PAYLOAD_BYTES)));
    writer.settle();
    tell(Figure::rate(format!("snapshots: writes of 4 KiB up to {size}"), n_objects, began.elapsed()));

    writer.in_flight = IN_FLIGHT;
    writer.took = Some(Vec::new());
    heap::peak();
    let before = heap::held();
    let (mut seen, mut newest, mut number) = (0, newest(&cluster.directory(1)), 0);
    let began = Instant::now();
    while seen < SNAPSHOTS && began.elapsed() < WAIT_MAX {
        writer.write(put(number * 7 % n_objects, PAYLOAD_BYTES));
        number += 1;
        if number.is_multiple_of(1_000) {
            let now = self::newest(&cluster.directory(1));
            seen += usize::from(now != newest);
            newest = now;
        }
    }
    writer.settle();
    let what = format!("snapshots: writes beside snapshots of {size}");
    tell(Figure::rate(&what, number, began.elapsed()));
    tell(Figure::new(format!("snapshots: seen, of {size}"), seen as f64, "").at_least(SNAPSHOTS as f64));
    let mut took = writer.took.take().unwrap_or_default();
    for (name, part) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("the slowest", 1.0)] {
        let figure = Figure::new(format!("{what}, {name}"), quantile(&mut took, part).as_secs_f64() * 1e3, "ms");
        tell(if name == "p99.9" { figure.at_most(50.0) } else { figure });
    }
    let more = heap::peak().saturating_sub(before) as f64 / f64::from(1 << 20);
    tell(Figure::new(format!("snapshots: memory beside them, of {size}, at its peak"), more, "MiB"));
    drop(writer);
    if n_servers == 1 {
        let took = cluster.restart().as_secs_f64();
        tell(Figure::new(format!("snapshots: a server's restart with {size} and its log"), took, "s"));
    }
    // Counting goes on until the cluster is gone, so that the next begins at nothing.
    drop(cluster);
    heap::end();
}

/// The name of the newest snapshot in a server's directory.
fn newest(directory: &Path) -> Option<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.ends_with(".snapshot")).max()
}
