//! The state machine: writes into views of growing size, and what lists and watches of them cost.

use std::time::{Duration, Instant};

use copepod_api::{Revision, Txn, resource::CONFIG_MAPS};
use copepod_store::{History, View};

use crate::{
    figures::{Figure, quantile},
    heap,
    objects::{apply, put, stored_bytes},
};

/// Sizes of the state that is written to, in objects: what grows with them is a defect.
const SIZES: [usize; 4] = [1_000, 10_000, 100_000, 1_000_000];

const WRITES: usize = 20_000;
const PAYLOAD_BYTES: usize = 512;
const CURSORS: usize = 1_000;

/// A page of a list, as clients ask for it.
const PAGE: usize = 500;

pub fn measure(tell: &mut dyn FnMut(Figure)) {
    for size in SIZES {
        growth(size, tell);
    }
    for payload_bytes in [512, 1024, 4096] {
        memory(payload_bytes, tell);
    }
}

fn growth(size: usize, tell: &mut dyn FnMut(Figure)) {
    let payload_bytes = if size > 100_000 { 16 } else { PAYLOAD_BYTES };
    let mut view = state(size, payload_bytes);
    let mut history = History::beginning(view.revision());
    let start = view.revision();
    let writes: Vec<Txn> = (0..WRITES).map(|number| put(number * 7 % size, payload_bytes)).collect();
    let began = Instant::now();
    let mut took: Vec<Duration> = writes
        .iter()
        .map(|txn| {
            let began = Instant::now();
            let (next, events) = apply(&view, txn);
            view = next;
            events.into_iter().for_each(|event| history.push(event));
            began.elapsed()
        })
        .collect();
    let what = format!("store: objects replaced, one a transaction, among {size}");
    tell(Figure::rate(&what, WRITES, began.elapsed()).at_least(50_000.0));
    let slowest = quantile(&mut took, 0.999).as_secs_f64() * 1e3;
    tell(Figure::new(format!("{what}, p99.9"), slowest, "ms").at_most(50.0));

    let began = Instant::now();
    let views: Vec<View> = (0..WRITES).map(|_| view.clone()).collect();
    tell(Figure::rate(format!("store: views taken, of {size}"), views.len(), began.elapsed()));

    let began = Instant::now();
    let listed: usize = view.objects(&CONFIG_MAPS, None).map(|object| object.size()).sum();
    std::hint::black_box(listed);
    tell(Figure::rate(format!("store: objects listed, all of {size}"), size, began.elapsed()));

    let began = Instant::now();
    let mut rounds = 0;
    while rounds < 1_000 {
        let after = crate::objects::key(rounds * 31 % size).name;
        std::hint::black_box(view.objects_after(&CONFIG_MAPS, None, &after).take(PAGE).count());
        rounds += 1;
    }
    tell(Figure::rate(format!("store: pages of {PAGE} listed, of {size}"), rounds, began.elapsed()));

    // Everybody is a write behind, as after each commit.
    let behind = Revision(view.revision().0 - 1);
    assert!(behind >= start);
    let began = Instant::now();
    for _ in 0..CURSORS {
        std::hint::black_box(history.after(&CONFIG_MAPS, behind, 512).map(|events| events.len())).ok();
    }
    tell(Figure::rate(format!("store: watches served one event, {WRITES} kept, of {size}"), CURSORS, began.elapsed()));
    let began = Instant::now();
    for _ in 0..CURSORS {
        std::hint::black_box(history.after_any(behind, 512).map(|events| events.len())).ok();
    }
    tell(Figure::rate(format!("store: watches of everything served one event, of {size}"), CURSORS, began.elapsed()));
}

/// 128 MiB of objects, and what the heap holds for them.
fn memory(payload_bytes: usize, tell: &mut dyn FnMut(Figure)) {
    let n_objects = (128 << 20) / payload_bytes;
    heap::begin();
    let view = state(n_objects, payload_bytes);
    heap::end();
    let ratio = heap::held() as f64 / stored_bytes(&view) as f64;
    let per_object = (heap::held() - stored_bytes(&view)) / n_objects;
    tell(
        Figure::new(format!("store: memory for objects of {payload_bytes} B and more"), ratio, "× bytes").at_most(1.6),
    );
    tell(Figure::new(format!("store: memory beside the bytes, objects of {payload_bytes} B"), per_object as f64, "B"));
}

fn state(n_objects: usize, payload_bytes: usize) -> View {
    (0..n_objects).fold(View::default(), |view, number| apply(&view, &put(number, payload_bytes)).0)
}
