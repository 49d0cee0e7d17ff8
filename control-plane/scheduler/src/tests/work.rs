//! How much work an event makes: pods that are read, pods that are woken, nodes that are looked at, words that are made.

use copepod_api::{Key, Timestamp, resource};
use serde_json::{Value, json};

use super::World;
use crate::{place::n_searches, refusal::n_worded, wish::n_read};

impl World {
    fn change(&mut self, key: Key, change: impl FnOnce(&mut Value)) {
        let mut object = self.view.object(&key).unwrap().value().clone();
        change(&mut object);
        self.put(key, &object);
    }

    /// Pods woken by what happened since the last call.
    fn woken(&mut self) -> usize {
        let before = self.scheduler.queue.n_woken;
        self.plans();
        self.scheduler.queue.n_woken - before
    }
}

fn pod(name: &str) -> Key {
    Key::new(resource::PODS, "default", name)
}

fn node(name: &str) -> Key {
    Key::new(resource::NODES, "", name)
}

#[test]
fn a_pod_is_read_once_a_revision_however_long_it_waits() {
    let mut world = World::read("node n1 cpu=2 | pods web 20 cpu=1 | pods shy 5 gated");
    let before = n_read();
    let plans = world.plans();
    assert_eq!(n_read() - before, 25);
    // Nothing came of them: the two that fit are decided again, and nobody is read or told again.
    for _ in 0..10 {
        let again: usize = world.plans().iter().map(|plan| plan.requests.len()).sum();
        assert_eq!(again, 2);
    }
    assert_eq!(n_read() - before, 25);
    assert!(plans.iter().map(|plan| plan.requests.len()).sum::<usize>() >= 25);
}

#[test]
fn a_status_of_a_running_pod_has_nobody_read_it() {
    let mut world = World::read("node n1 cpu=2 | pods web 1 cpu=1 on=n1");
    world.change(pod("web-0"), |pod| pod["metadata"]["generation"] = json!(1));
    world.plans();
    let before = n_read();
    world.change(pod("web-0"), |pod| pod["status"] = json!({"phase": "Running", "podIP": "10.0.0.1"}));
    world.plans();
    assert_eq!(n_read() - before, 0);
    world.change(pod("web-0"), |pod| {
        pod["metadata"]["generation"] = json!(2);
        pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("2");
    });
    world.add("pods late 1 cpu=1");
    assert!(world.schedule().starts_with("late-0: 0/1 nodes are available: 1 Insufficient cpu."));
}

#[test]
fn room_wakes_those_that_it_could_be_enough_for() {
    let mut world = World::read("node n1 cpu=4 | node n2 cpu=4 | pods old 4 cpu=1 on=n1 | pods other 4 cpu=1 on=n2");
    world.add("pods large 30 cpu=3 | pods small 5 cpu=1 | pods picky 7 cpu=1 disk=ssd");
    world.schedule();
    assert_eq!(world.woken(), 0, "our own notes wake nobody");
    world.delete("old-0");
    assert_eq!(world.woken(), 5);
    assert_eq!(world.plans().iter().filter(|plan| !plan.requests.is_empty()).count(), 1);
    world.add("node n3 cpu=3 | node n4 cpu=500m");
    assert_eq!(world.woken(), 30 + 4);
    // Whoever was woken and fits waits for its binding; the rest is parked again.
    world.add("node n5 disk=ssd cpu=1");
    assert!(world.woken() >= 7);
}

#[test]
fn less_asked_for_is_room_too() {
    let mut world = World::read("node n1 cpu=2 | pods old 1 cpu=2 on=n1 | pods web 1 cpu=1 | pods large 1 cpu=2");
    world.schedule();
    world.plans();
    let less = |pod: &mut Value| pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("1");
    world.change(pod("old-0"), less);
    assert_eq!(world.schedule(), "n1: web-0");
}

#[test]
fn who_was_kept_away_is_woken_when_the_reason_goes() {
    let mut world = World::read("node n1 | pods web 1 apart on=n1");
    let late = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "late", "namespace": "default", "uid": "l", "labels": {"app": "web"}},
        "spec": {"containers": []},
    });
    world.put(pod("late"), &late);
    assert!(world.schedule().starts_with("late: 0/1 nodes are available: 1 node(s) didn't satisfy existing pods"));
    world.schedule();
    world.delete("web-0");
    assert_eq!(world.schedule(), "n1: late");
}

#[test]
fn a_refusal_by_many_nodes_is_a_few_words() {
    for n_nodes in [3, 300] {
        let nodes: Vec<String> = (0..n_nodes).map(|n| format!("node n{n:03} cpu=1")).collect();
        let mut world = World::read(&nodes.join("|"));
        world.add("pods web 3 cpu=2");
        let before = n_worded();
        let told = world.schedule();
        assert!(told.contains(&format!("{n_nodes} Insufficient cpu. Nearest is n000: needs 2 cpu, 1 free of 1.")));
        assert_eq!(n_worded() - before, 2, "a reason and the detail of one node");
    }
}

#[test]
fn an_image_that_comes_to_a_node_has_no_node_looked_at_again() {
    let mut world = World::read("node n1 | node n2 | node n3 | pods web 1");
    world.change(pod("web-0"), |pod| pod["spec"]["containers"][0]["image"] = json!("web"));
    world.plans();
    let before = n_searches();
    world.change(node("n3"), |node| node["status"]["images"] = json!([{"names": ["web"]}]));
    assert_eq!(world.schedule(), "n3: web-0");
    assert_eq!(n_searches() - before, 0);
    // The same is decided by one who knows nothing of before.
    world.change(pod("web-0"), |pod| pod["spec"]["nodeName"] = Value::Null);
    let plans = crate::Scheduler::new().schedule(&world.view, &[], Timestamp::UNIX_EPOCH);
    assert_eq!(world.plans(), plans);
}
