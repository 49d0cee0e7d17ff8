//! What a transaction copies: the paths to what it changes, and never the state.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use copepod_api::{Body, Expect, Key, Op, Timestamp, Txn, resource};
use serde_json::json;

use crate::View;

struct Counting;

#[global_allocator]
static HEAP: Counting = Counting;

thread_local! {
    static TAKEN: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system's allocator unchanged; the counter is a plain cell and takes no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        TAKEN.set(TAKEN.get() + layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        TAKEN.set(TAKEN.get() + size);
        unsafe { System.realloc(ptr, layout, size) }
    }
}

fn put(name: &str, payload: usize) -> Op {
    put_on("n1", name, payload)
}

fn put_on(node: &str, name: &str, payload: usize) -> Op {
    let object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "web"}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "x".repeat(payload)}]},
    });
    Op::Put { key: Key::new(resource::PODS, "default", name), body: Body::encode(&object), expect: Expect::Any }
}

fn state(n_objects: usize) -> View {
    let ops = (0..n_objects).map(|number| put(&format!("pod-{number:06}"), 100)).collect();
    View::default().apply(&Txn { ops }, Timestamp::UNIX_EPOCH).unwrap().0
}

/// The bytes that a transaction takes, whatever it gives back.
fn taken(view: &View, ops: Vec<Op>) -> usize {
    let txn = Txn { ops };
    let before = TAKEN.get();
    let done = view.apply(&txn, Timestamp::UNIX_EPOCH).unwrap();
    let taken = TAKEN.get() - before;
    drop(done);
    taken
}

#[test]
fn a_write_copies_a_path_and_not_the_state() {
    let one = |n_objects: usize| taken(&state(n_objects), vec![put("pod-000007", 100)]);
    let (small, large) = (one(100), one(20_000));
    // The map is a tree: two hundred times the state is a level or two.
    assert!(large < 3 * small, "{small} bytes of a hundred objects, {large} of twenty thousand");
}

#[test]
fn a_transaction_costs_its_objects_and_less_than_each_alone() {
    let view = state(20_000);
    let ops = |n: usize| (0..n).map(|number| put(&format!("pod-{:06}", number * 17), 100)).collect::<Vec<_>>();
    let one = taken(&view, ops(1));
    let many = taken(&view, ops(500));
    assert!(many < 500 * one, "{one} bytes for one, {many} for five hundred");
    // What one takes beyond its own bytes does not grow with what else is in the transaction.
    assert!(many / 500 < 2 * taken(&view, ops(50)) / 50);
}

#[test]
fn what_stays_where_it_is_leaves_the_indexes_alone() {
    let view = state(20_000);
    let on = |node| put_on(node, "pod-000007", 100);
    let unbound = view.apply(&Txn { ops: vec![on("")] }, Timestamp::UNIX_EPOCH).unwrap().0;
    let (bound, unbound) = (taken(&view, vec![on("n1")]), taken(&unbound, vec![on("")]));
    // The name of its node is the only difference.
    assert!(bound < unbound + 100, "{bound} bytes of a pod on a node with 20,000, {unbound} of one on none");
}

#[test]
fn the_bytes_of_an_object_are_copied_once() {
    const LARGE: usize = 200_000;
    let view = state(100);
    let (small, large) = (taken(&view, vec![put("new", 0)]), taken(&view, vec![put("new", LARGE)]));
    let copies = (large - small) as f64 / LARGE as f64;
    assert!((1.0..1.1).contains(&copies), "{copies} copies of the bytes");
}

#[test]
fn a_view_is_taken_and_read_without_a_copy() {
    let view = state(1_000);
    let before = TAKEN.get();
    let taken = view.clone();
    assert_eq!(taken.object(&Key::new(resource::PODS, "default", "absent")).map(|object| object.revision), None);
    let key = TAKEN.get() - before;
    assert!(key < 200, "{key} bytes: those of the key");
}
