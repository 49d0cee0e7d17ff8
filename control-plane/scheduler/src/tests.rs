//! Worlds in a line, bindings in a line.
//!
//! `node n1 cpu=2 zone=a cordoned taint=k:NoSchedule | pods web 3 cpu=500m | pods db 1 on=n1`: `pods` has a name and a
//! number of replicas.

mod contest;
mod work;

use std::collections::BTreeMap;

use copepod_api::{Action, Body, Expect, Key, Op, Plan, Timestamp, Txn, resource};
use copepod_store::{Event, View};
use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::Scheduler;

struct World {
    view: View,
    scheduler: Scheduler,
    events: Vec<Event>,
}

impl World {
    fn read(fixture: &str) -> World {
        let mut world = World { view: View::default(), scheduler: Scheduler::new(), events: Vec::new() };
        world.add(fixture);
        world
    }

    fn add(&mut self, fixture: &str) {
        for line in fixture.split('|') {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[0] {
                "node" => self.node(&words),
                "pods" => self.pods(&words),
                other => panic!("a fixture has no {other}"),
            }
        }
    }

    fn node(&mut self, words: &[&str]) {
        let mut labels = json!({"kubernetes.io/hostname": words[1]});
        let mut allocatable = json!({"cpu": "4", "memory": "8Gi", "pods": "110"});
        let mut spec = json!({});
        let mut ready = "True";
        for word in &words[2..] {
            match word.split_once('=') {
                Some(("zone", zone)) => labels["topology.kubernetes.io/zone"] = json!(zone),
                Some(("taint", taint)) => {
                    let (key, effect) = taint.split_once(':').unwrap();
                    spec["taints"] = json!([{"key": key, "effect": effect}]);
                }
                Some((name @ ("cpu" | "memory" | "pods" | "gpu"), amount)) => allocatable[name] = json!(amount),
                Some((label, value)) => labels[label] = json!(value),
                None if *word == "cordoned" => spec["unschedulable"] = json!(true),
                None if *word == "silent" => ready = "Unknown",
                None => panic!("a node has no {word}"),
            }
        }
        let object = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": words[1], "labels": labels}, "spec": spec,
            "status": {"allocatable": allocatable, "conditions": [{"type": "Ready", "status": ready}]},
        });
        self.put(Key::new(resource::NODES, "", words[1]), &object);
    }

    fn pods(&mut self, words: &[&str]) {
        for n in 0..words[2].parse::<usize>().unwrap() {
            let name = format!("{}-{n}", words[1]);
            let mut object = json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {
                    "name": name, "namespace": "default", "uid": name, "labels": {"app": words[1]},
                    "ownerReferences": [{"uid": format!("set-{}", words[1]), "controller": true}],
                },
                "spec": {"containers": [{"name": "c", "resources": {"requests": {}}}]},
            });
            let mut object_labels = object["metadata"]["labels"].clone();
            let spec = &mut object["spec"];
            let same =
                json!({"labelSelector": {"matchLabels": {"app": words[1]}}, "topologyKey": "kubernetes.io/hostname"});
            for word in &words[3..] {
                match word.split_once('=') {
                    Some(("on", node)) => spec["nodeName"] = json!(node),
                    Some((name @ ("cpu" | "memory" | "gpu"), amount)) => {
                        spec["containers"][0]["resources"]["requests"][name] = json!(amount);
                    }
                    Some(("port", port)) => {
                        let port: i32 = port.parse().unwrap();
                        spec["containers"][0]["ports"] = json!([{"containerPort": port, "hostPort": port}]);
                    }
                    Some(("tolerates", key)) => spec["tolerations"] = json!([{"key": key, "operator": "Exists"}]),
                    Some(("near", app)) => {
                        let mut term = same.clone();
                        term["labelSelector"]["matchLabels"]["app"] = json!(app);
                        spec["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] =
                            json!([term]);
                    }
                    Some(("skew", key)) => {
                        spec["topologySpreadConstraints"] = json!([{
                            "maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule",
                            "labelSelector": same["labelSelector"],
                        }]);
                    }
                    Some(("app", app)) => object_labels = json!({"app": app}),
                    Some(("wish", key)) => {
                        spec["topologySpreadConstraints"] = json!([{
                            "maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "ScheduleAnyway",
                            "labelSelector": same["labelSelector"],
                        }]);
                    }
                    Some(("rather", term)) => {
                        let (app, key) = term.split_once(':').unwrap();
                        let term = json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key});
                        spec["affinity"]["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"] =
                            json!([{"weight": 50, "podAffinityTerm": term}]);
                    }
                    Some(("wants", expression)) => {
                        let (key, rest) = expression.split_once(':').unwrap();
                        let (operator, value) = rest.split_once(':').unwrap();
                        spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] = json!({
                            "nodeSelectorTerms": [{"matchExpressions": [
                                {"key": key, "operator": operator, "values": value.split(',').collect::<Vec<_>>()}
                            ]}],
                        });
                    }
                    Some((label, value)) => spec["nodeSelector"] = json!({label: value}),
                    None if *word == "apart" => {
                        spec["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] =
                            json!([same]);
                    }
                    None if *word == "gated" => spec["schedulingGates"] = json!([{"name": "g"}]),
                    None => panic!("a pod has no {word}"),
                }
            }
            object["metadata"]["labels"] = object_labels;
            self.put(Key::new(resource::PODS, "default", name), &object);
        }
    }

    fn put(&mut self, key: Key, object: &Value) {
        self.commit(Op::Put { key, body: Body::encode(object), expect: Expect::Any });
    }

    fn delete(&mut self, pod: &str) {
        self.commit(Op::Delete { key: Key::new(resource::PODS, "default", pod), expect: Expect::Present });
    }

    fn commit(&mut self, op: Op) {
        let (view, events) = self.view.apply(&Txn { ops: vec![op] }, Timestamp::UNIX_EPOCH).unwrap();
        self.view = view;
        self.events.extend(events);
    }

    fn plans(&mut self) -> Vec<Plan> {
        let events = std::mem::take(&mut self.events);
        self.scheduler.schedule(&self.view, &events, Timestamp::UNIX_EPOCH)
    }

    /// Schedules, carries the plans out and tells what happened: nodes with their pods, and what waits.
    fn schedule(&mut self) -> String {
        let mut nodes: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut waiting: Vec<String> = Vec::new();
        for request in self.plans().into_iter().flat_map(|plan| plan.requests) {
            let key = request.target.key();
            let mut pod = self.view.object(&key).unwrap().value().clone();
            match request.action {
                Action::Create { object } => {
                    let node = object["target"]["name"].as_str().unwrap().to_owned();
                    pod["spec"]["nodeName"] = json!(node);
                    self.put(key.clone(), &pod);
                    nodes.entry(node).or_default().push(key.name().to_owned());
                }
                Action::Update { object } => {
                    pod["status"] = object["status"].clone();
                    let condition = &object["status"]["conditions"][0];
                    waiting.push(format!("{}: {}", key.name(), condition["message"].as_str().unwrap()));
                    self.put(key, &pod);
                }
                other => panic!("the scheduler does not {other:?}"),
            }
        }
        let mut lines: Vec<String> = nodes.iter().map(|(node, pods)| format!("{node}: {}", pods.join(" "))).collect();
        lines.extend(waiting);
        lines.join("\n")
    }
}

fn schedule(fixture: &str) -> String {
    World::read(fixture).schedule()
}

#[test]
fn replicas_lie_apart() {
    assert_snapshot!(schedule("node n1 | node n2 | node n3 | pods web 6"), @r"
        n1: web-0 web-3
        n2: web-1 web-4
        n3: web-2 web-5
    ");
}

#[test]
fn replicas_lie_over_zones_first() {
    assert_snapshot!(schedule("node n1 zone=a | node n2 zone=a | node n3 zone=a | node n4 zone=b | pods web 4"), @r"
        n1: web-0
        n2: web-2
        n3: web-3
        n4: web-1
    ");
}

#[test]
fn a_full_node_takes_nobody() {
    assert_snapshot!(schedule("node n1 cpu=1 | node n2 cpu=2 | pods web 4 cpu=700m"), @r"
        n1: web-1
        n2: web-0 web-2
        web-3: 0/2 nodes are available: 2 Insufficient cpu. Nearest is n1: needs 700m cpu, 300m free of 1.
    ");
}

#[test]
fn every_refusal_has_a_reason() {
    assert_snapshot!(
        schedule("node n1 cordoned | node n2 taint=gpu:NoSchedule | node n3 disk=hdd | node n4 disk=ssd cpu=1 | node n5 silent \
                  | pods web 1 cpu=2 disk=ssd"),
        @"web-0: 0/5 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable, 3 node(s) didn't match Pod's node affinity/selector. Nearest is n1: it is cordoned.");
}

#[test]
fn tolerated_taints_do_not_matter() {
    assert_snapshot!(schedule("node n1 taint=gpu:NoSchedule | pods web 1 tolerates=gpu"), @"n1: web-0");
}

#[test]
fn a_soft_taint_is_a_last_resort() {
    assert_snapshot!(schedule("node n1 taint=old:PreferNoSchedule | node n2 cpu=1 | pods web 2 cpu=800m"), @r"
        n1: web-1
        n2: web-0
    ");
}

#[test]
fn node_affinity_has_operators() {
    assert_snapshot!(
        schedule("node n1 cores=4 | node n2 cores=16 | node n3 | pods a 1 wants=cores:Gt:8 | pods b 1 wants=cores:DoesNotExist: \
                  | pods c 1 wants=cores:In:2,4"),
        @r"
        n1: c-0
        n2: a-0
        n3: b-0
    ");
}

#[test]
fn pods_that_keep_apart_do() {
    assert_snapshot!(schedule("node n1 | node n2 | pods web 3 apart"), @r"
        n1: web-0
        n2: web-1
        web-2: 0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules.
    ");
}

#[test]
fn who_keeps_others_away_is_respected() {
    let mut world = World::read("node n1 | node n2 | pods web 1 apart on=n1");
    world.add("pods web2 0 | pods web 1 on=n1 apart");
    let same = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "late", "namespace": "default", "uid": "l", "labels": {"app": "web"}},
        "spec": {"containers": []},
    });
    world.put(Key::new(resource::PODS, "default", "late"), &same);
    assert_snapshot!(world.schedule(), @"n2: late");
}

#[test]
fn pods_that_want_company_get_it() {
    assert_snapshot!(schedule("node n1 | node n2 | pods db 1 on=n2 | pods web 2 near=db | pods lost 1 near=nobody"), @r"
        n2: web-0 web-1
        lost-0: 0/2 nodes are available: 2 node(s) didn't match pod affinity rules.
    ");
}

#[test]
fn the_first_of_a_company_may_go_anywhere() {
    assert_snapshot!(schedule("node n1 | node n2 | pods web 3 near=web"), @"n1: web-0 web-1 web-2");
}

#[test]
fn skew_is_bounded() {
    assert_snapshot!(
        schedule("node n1 zone=a | node n2 zone=b cpu=1 | pods web 4 cpu=600m skew=topology.kubernetes.io/zone"), @r"
        n1: web-0 web-2
        n2: web-1
        web-3: 0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match pod topology spread constraints. Nearest is n2: needs 600m cpu, 400m free of 1.
    ");
}

#[test]
fn a_port_has_one_user() {
    assert_snapshot!(schedule("node n1 | pods web 2 port=80"), @r"
        n1: web-0
        web-1: 0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. Nearest is n1: its port 80/TCP is in use.
    ");
}

#[test]
fn other_resources_count_too() {
    assert_snapshot!(schedule("node n1 gpu=1 | node n2 | pods ml 2 gpu=1"), @r"
        n1: ml-0
        ml-1: 0/2 nodes are available: 2 Insufficient gpu. Nearest is n1: needs 1 gpu, 0 free of 1.
    ");
}

#[test]
fn gated_pods_wait() {
    assert_snapshot!(schedule("node n1 | pods web 1 gated"), @"web-0: Scheduling is blocked due to non-empty scheduling gates");
}

#[test]
fn without_nodes_nothing_fits() {
    assert_snapshot!(schedule("pods web 1"), @"web-0: no nodes available to schedule pods");
}

#[test]
fn a_parked_pod_is_tried_again_when_room_is_made() {
    let mut world = World::read("node n1 cpu=1 | pods old 1 cpu=1 on=n1 | pods web 1 cpu=1");
    assert_snapshot!(world.schedule(), @"web-0: 0/1 nodes are available: 1 Insufficient cpu. Nearest is n1: needs 1 cpu, 0 free of 1.");
    assert_eq!(world.schedule(), "", "nothing is said twice");
    world.delete("old-0");
    assert_snapshot!(world.schedule(), @"n1: web-0");
    assert_eq!(world.schedule(), "");
}

#[test]
fn a_node_that_comes_again_as_it_was_is_tried() {
    let mut world = World::read("node n1 | pods web 1");
    let node = world.view.object(&Key::new(resource::NODES, "", "n1")).unwrap().value().clone();
    world.plans();
    world.commit(Op::Delete { key: Key::new(resource::NODES, "", "n1"), expect: Expect::Present });
    assert_eq!(world.schedule(), "web-0: no nodes available to schedule pods");
    world.schedule();
    world.put(Key::new(resource::NODES, "", "n1"), &node);
    assert_eq!(world.schedule(), "n1: web-0");
}

#[test]
fn a_note_that_comes_late_does_not_park_a_pod_again() {
    let mut world = World::read("pods web 1");
    assert_eq!(world.schedule(), "web-0: no nodes available to schedule pods");
    let note = std::mem::take(&mut world.events);
    world.add("node n1");
    world.events.extend(note);
    assert_eq!(world.schedule(), "n1: web-0");
}

#[test]
fn a_refused_binding_is_decided_again() {
    let mut world = World::read("node n1 | pods web 1");
    let first = world.plans();
    assert_eq!(first, world.plans());
}

#[test]
fn a_view_ahead_of_the_events_is_believed() {
    let mut world = World::read("node n1 cpu=1 | pods web 1 cpu=1");
    assert_eq!(world.schedule(), "n1: web-0");
    let late = std::mem::take(&mut world.events);
    world.add("pods db 1 cpu=1");
    assert_snapshot!(world.schedule(), @"db-0: 0/1 nodes are available: 1 Insufficient cpu. Nearest is n1: needs 1 cpu, 0 free of 1.");
    world.events.splice(0..0, late);
    assert_eq!(world.schedule(), "");
}

#[test]
fn a_table_kept_by_events_equals_one_made_afresh() {
    let mut world = World::read("node n1 cpu=1 | node n2 | pods web 3 cpu=500m");
    world.schedule();
    world.add("node n3 | node n1 cpu=2 cordoned | pods db 2 cpu=1");
    world.delete("web-1");
    let kept = world.plans();
    assert_eq!(kept, Scheduler::new().schedule(&world.view, &[], Timestamp::UNIX_EPOCH));
}

#[test]
fn explain_tells_about_every_node() {
    let world = World::read("node n1 cordoned | node n2 cpu=1 | node n3 | pods web 1 cpu=2");
    let pod = world.view.get("default", "web-0").unwrap();
    assert_snapshot!(super::explain(&world.view, &pod, Timestamp::UNIX_EPOCH).join("\n"), @r"
        1 of 3 nodes fit
        n1: it is cordoned
        n2: needs 2 cpu, 1 free of 1
        n3: fits, score 148
    ");
}
