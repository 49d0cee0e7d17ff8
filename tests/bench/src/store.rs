//! The state machine: writes into views of growing size.

use std::time::{Duration, Instant};

use copepod_api::{Body, Expect, Key, Op, Timestamp, Txn, resource::CONFIG_MAPS};
use copepod_store::View;
use serde_json::json;

use crate::figures::{Figure, quantile};

/// Sizes of the state that is written to, in objects: what grows with them is a defect.
const SIZES: [usize; 3] = [1_000, 10_000, 100_000];

const WRITES: usize = 20_000;
const PAYLOAD_BYTES: usize = 512;

pub fn measure(tell: &mut dyn FnMut(Figure)) {
    for size in SIZES {
        let mut view = (0..size).fold(View::default(), |view, number| apply(&view, &put(number)));
        let writes: Vec<Txn> = (0..WRITES).map(|number| put(number * 7 % size)).collect();
        let began = Instant::now();
        let mut took: Vec<Duration> = writes
            .iter()
            .map(|txn| {
                let began = Instant::now();
                view = apply(&view, txn);
                began.elapsed()
            })
            .collect();
        let what = format!("store: objects replaced, one a transaction, among {size}");
        tell(Figure::rate(&what, WRITES, began.elapsed()).at_least(50_000.0));
        let slowest = quantile(&mut took, 0.999).as_secs_f64() * 1e3;
        tell(Figure::new(format!("{what}, p99.9"), slowest, "ms").at_most(50.0));
    }
}

fn put(number: usize) -> Txn {
    let name = format!("object-{number}");
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default", "uid": name},
        "data": {"payload": "x".repeat(PAYLOAD_BYTES)},
    });
    let key = Key::new(CONFIG_MAPS, "default", name.as_str());
    Txn { ops: vec![Op::Put { key, body: Body::encode(&object), expect: Expect::Any }] }
}

fn apply(view: &View, txn: &Txn) -> View {
    view.apply(txn, Timestamp::UNIX_EPOCH).expect("nothing is expected of the objects").0
}
