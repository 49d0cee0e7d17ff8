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

const STATE_BYTES: usize = 1 << 30;
const PAYLOAD_BYTES: usize = 4096;

/// Transactions under way while latencies are measured: a busy server, not a flooded one.
const IN_FLIGHT: usize = 32;

/// How many snapshots are waited for, and how long at most.
const SNAPSHOTS: usize = 3;
const WAIT_MAX: Duration = Duration::from_secs(60);

pub fn measure(tell: &mut dyn FnMut(Figure)) {
    let n_objects = STATE_BYTES / PAYLOAD_BYTES;
    heap::begin();
    let cluster = Cluster::of(1);
    let mut writer = Writer::to(cluster.leader());
    let began = Instant::now();
    (0..n_objects).for_each(|number| writer.write(put(number, PAYLOAD_BYTES)));
    writer.settle();
    tell(Figure::rate("snapshots: writes of 4 KiB up to 1 GiB", n_objects, began.elapsed()));

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
    heap::end();
    let what = "snapshots: writes beside snapshots of 1 GiB";
    tell(Figure::rate(what, number, began.elapsed()));
    tell(Figure::new("snapshots: seen", seen as f64, "").at_least(SNAPSHOTS as f64));
    let mut took = writer.took.take().unwrap_or_default();
    for (name, part) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("the slowest", 1.0)] {
        let figure = Figure::new(format!("{what}, {name}"), quantile(&mut took, part).as_secs_f64() * 1e3, "ms");
        tell(if name == "p99.9" { figure.at_most(50.0) } else { figure });
    }
    let more = heap::peak().saturating_sub(before) as f64 / f64::from(1 << 20);
    tell(Figure::new("snapshots: memory beside them, at its peak", more, "MiB"));
    drop(writer);
    let took = cluster.restart().as_secs_f64();
    tell(Figure::new("snapshots: a server's restart with 1 GiB and its log", took, "s"));
}

/// The name of the newest snapshot in a server's directory.
fn newest(directory: &Path) -> Option<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.ends_with(".snapshot")).max()
}
