//! What is written is encoded once, whatever becomes of it on its way; what changes nothing is not encoded.

use copepod_api::{Action, DeleteOptions, Patch};
use serde_json::json;

use super::fixture::{Fixture, deployment, pod, request};
use crate::pipeline::n_encoded;

/// How often something is encoded while a request is carried out.
fn encodings(world: &mut Fixture, target: &str, action: Action) -> usize {
    let before = n_encoded();
    world.one(request(target, action)).unwrap();
    n_encoded() - before
}

#[test]
fn each_write_is_one_encoding() {
    let mut world = Fixture::new();
    let mut of = |target: &str, action: Action| (target.to_owned(), encodings(&mut world, target, action));
    let merge = |patch| Action::Patch { patch: Patch::Merge(patch) };
    let mut named = pod("");
    named["metadata"] = json!({"generateName": "web-"});
    let counted = [
        of("pods/a", Action::Create { object: pod("a") }),
        of("pods", Action::Create { object: named }),
        of("deployments/web", Action::Create { object: deployment("web") }),
        of("pods/a/binding", Action::Create { object: json!({"target": {"name": "n1"}}) }),
        of("pods/a", merge(json!({"metadata": {"labels": {"color": "red"}}}))),
        of("pods/a/status", merge(json!({"status": {"phase": "Running"}}))),
        of("deployments/web/scale", merge(json!({"spec": {"replicas": 3}}))),
        of("pods/a", Action::Delete { options: DeleteOptions::default() }),
        of("pods/b", Action::Create { object: pod("b") }),
        of("pods/b/binding", Action::Create { object: json!({"target": {"name": "n1"}}) }),
        of("pods/b/eviction", Action::Create { object: json!({"metadata": {"name": "b"}}) }),
    ];
    assert!(counted.iter().all(|(_, n)| *n == 1), "{counted:?}");
}

#[test]
fn what_changes_nothing_and_what_goes_is_not_encoded() {
    let mut world = Fixture::new();
    world.create("pods", pod("a")).unwrap();
    let same = Action::Patch { patch: Patch::Merge(json!({"metadata": {"labels": {"app": "web"}}})) };
    assert_eq!(encodings(&mut world, "pods/a", same), 0);
    let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
    assert_eq!(encodings(&mut world, "pods/a", Action::Delete { options: now }), 0);
}
