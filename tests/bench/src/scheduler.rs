//! The scheduler alone: waves of pods on clusters of growing size, and how well they lie.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use copepod_api::{
    Action, Body, Expect, Key, Op, Timestamp, Txn,
    resource::{NODES, PODS},
};
use copepod_scheduler::Scheduler;
use copepod_store::{Event, View};
use serde_json::{Value, json};

use crate::figures::Figure;

const ZONES: usize = 10;
const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

pub fn measure(tell: &mut dyn FnMut(Figure)) {
    for n_nodes in [100, 1_000, 10_000, 100_000] {
        let goal = if n_nodes > 10_000 { 10_000.0 } else { 20_000.0 };
        let rate = speed(n_nodes, &identical((n_nodes * 10).min(10_000)), "identical pods");
        tell(rate.at_least(goal));
    }
    for n_nodes in [100, 1_000, 10_000, 100_000] {
        let rate = speed(n_nodes, &different((n_nodes * 10).min(2_000)), "all different pods");
        tell(if n_nodes == 10_000 { rate.at_least(2_000.0) } else { rate });
    }
    for n_nodes in [100, 1_000, 10_000, 100_000] {
        let rate = speed(n_nodes, &ruled((n_nodes / 2).min(5_000)), "pods with anti-affinity and topology spread");
        tell(if n_nodes == 10_000 { rate.at_least(5_000.0) } else { rate });
    }
    waiting(tell);
    let traces = [
        ("identical pods", identical(2_000)),
        ("all different pods", different(2_000)),
        ("pods with rules", ruled(500)),
    ];
    for (name, pods) in traces {
        quality(name, &pods, tell);
    }
}

/// A wave of pods that arrive together, to all of them known as bound.
fn speed(n_nodes: usize, pods: &[Value], name: &str) -> Figure {
    let mut world = World::of(n_nodes);
    let took = world.wave(pods);
    Figure::rate(format!("scheduler: {name}, {} on {n_nodes} nodes", pods.len()), pods.len(), took)
}

/// Small pods end, one at a time, on full nodes for which thousands wait that ask for more, and others are gated.
fn waiting(tell: &mut dyn FnMut(Figure)) {
    const NODES: usize = 1_000;
    const WAITING: usize = 5_000;
    const ENDING: usize = 100;
    let mut world = World::of(NODES);
    let on = |mut pod: Value, node: usize| {
        pod["spec"]["nodeName"] = json!(format!("n{node:06}"));
        pod
    };
    let mut pods: Vec<Value> = (0..NODES).map(|number| on(pod("large", number, 31_500, 128), number)).collect();
    pods.extend((0..ENDING).map(|number| on(pod("small", number, 100, 128), number)));
    pods.extend((0..WAITING).map(|number| pod(&format!("more{}", number % 50), number, 1_000, 128)));
    pods.extend((0..WAITING).map(|number| {
        let mut pod = pod("gated", number, 100, 128);
        pod["spec"]["schedulingGates"] = json!([{"name": "quota"}]);
        pod
    }));
    world.wave(&pods);
    let mut took = Duration::ZERO;
    for number in 0..ENDING {
        let key = Key::new(PODS, "default", format!("small-{number}"));
        let txn = Txn { ops: vec![Op::Delete { key, expect: Expect::Present }] };
        let (view, events) = world.view.apply(&txn, Timestamp::UNIX_EPOCH).expect("a pod");
        world.view = view;
        let began = Instant::now();
        world.scheduler.schedule(&world.view, &events, Timestamp::UNIX_EPOCH);
        took += began.elapsed();
    }
    let what = format!(
        "scheduler: small pods that end on {NODES} full nodes while {WAITING} larger ones wait and {WAITING} are gated"
    );
    tell(Figure::rate(what, ENDING, took));
}

/// The same pods as one wave, and one after the other, each with all nodes looked at for it.
fn quality(name: &str, pods: &[Value], tell: &mut dyn FnMut(Figure)) {
    let (mut together, mut alone) = (World::of(500), World::of(500));
    together.wave(pods);
    pods.iter().for_each(|pod| {
        alone.wave(std::slice::from_ref(pod));
    });
    for (way, world) in [("a wave", together), ("each with a look at all nodes", alone)] {
        let Quality { n_waiting, deviation, skew } = world.quality();
        let figure = |what: &str, value: f64, unit: &str| {
            Figure::new(format!("scheduler: {name} on 500 nodes, {way}: {what}"), value, unit)
        };
        tell(figure("deviation of the nodes' CPU in use", deviation, "points"));
        tell(figure("largest difference between zones, one workload", skew, "pods"));
        tell(figure("without a node", n_waiting as f64, "pods"));
    }
}

struct World {
    view: View,
    scheduler: Scheduler,
    n_nodes: usize,
}

struct Quality {
    n_waiting: usize,
    deviation: f64,
    skew: f64,
}

impl World {
    fn of(n_nodes: usize) -> World {
        let mut world = World { view: View::default(), scheduler: Scheduler::new(), n_nodes };
        let nodes = (0..n_nodes).map(|number| (Key::new(NODES, "", format!("n{number:06}")), node(number)));
        world.put(nodes.collect());
        world.scheduler.schedule(&world.view, &[], Timestamp::UNIX_EPOCH);
        world
    }

    fn put(&mut self, objects: Vec<(Key, Value)>) -> Vec<Event> {
        let mut all = Vec::new();
        // As many at once as a busy server commits together.
        for chunk in objects.chunks(1_000) {
            let put = |(key, object): &(Key, Value)| Op::Put {
                key: key.clone(),
                body: Body::encode(object),
                expect: Expect::Any,
            };
            let txn = Txn { ops: chunk.iter().map(put).collect() };
            let (view, events) = self.view.apply(&txn, Timestamp::UNIX_EPOCH).expect("objects");
            self.view = view;
            all.extend(events);
        }
        all
    }

    /// What the scheduler takes for them: to learn of them, to decide, to write its plans, and to learn that they are bound.
    fn wave(&mut self, pods: &[Value]) -> Duration {
        let key = |pod: &Value| Key::new(PODS, "default", pod["metadata"]["name"].as_str().unwrap_or_default());
        let events = self.put(pods.iter().map(|pod| (key(pod), pod.clone())).collect());
        let began = Instant::now();
        let plans = self.scheduler.schedule(&self.view, &events, Timestamp::UNIX_EPOCH);
        let mut took = began.elapsed();
        let mut bound = Vec::new();
        for request in plans.into_iter().flat_map(|plan| plan.requests) {
            let key = request.target.key();
            match request.action {
                Action::Create { object } if object["kind"] == "Binding" => {
                    let mut pod = self.view.object(&key).expect("a pod").value().clone();
                    pod["spec"]["nodeName"] = object["target"]["name"].clone();
                    bound.push((key, pod));
                }
                Action::Update { object } => bound.push((key, object)),
                _ => {}
            }
        }
        let events = self.put(bound);
        let began = Instant::now();
        self.scheduler.schedule(&self.view, &events, Timestamp::UNIX_EPOCH);
        took += began.elapsed();
        took
    }

    fn quality(&self) -> Quality {
        let mut used: BTreeMap<String, f64> = BTreeMap::new();
        let mut zones: BTreeMap<(String, usize), f64> = BTreeMap::new();
        let mut n_waiting = 0;
        for pod in self.view.objects(&PODS, None) {
            let pod = pod.value();
            let Some(node) = pod["spec"]["nodeName"].as_str() else {
                n_waiting += 1;
                continue;
            };
            let asked = pod["spec"]["containers"][0]["resources"]["requests"]["cpu"].as_str().unwrap_or_default();
            *used.entry(node.to_owned()).or_default() += asked.trim_end_matches('m').parse().unwrap_or(0.0);
            let app = pod["metadata"]["labels"]["app"].as_str().unwrap_or_default().to_owned();
            let zone = node.trim_start_matches('n').parse::<usize>().unwrap_or(0) % ZONES;
            *zones.entry((app, zone)).or_default() += 1.0;
        }
        let n_nodes = self.n_nodes as f64;
        let share = |milli: f64| milli / 32_000.0 * 100.0;
        let mean = used.values().map(|milli| share(*milli)).sum::<f64>() / n_nodes;
        let squares = used.values().map(|milli| (share(*milli) - mean).powi(2)).sum::<f64>();
        let idle = (self.n_nodes - used.len()) as f64 * mean.powi(2);
        let apps: Vec<&String> = zones.keys().map(|(app, _)| app).collect();
        let of = |app: &String, zone: usize| zones.get(&(app.clone(), zone)).copied().unwrap_or(0.0);
        let skews = apps.into_iter().map(|app| {
            let all = || (0..ZONES).map(|zone| of(app, zone));
            all().fold(0.0, f64::max) - all().fold(f64::INFINITY, f64::min)
        });
        Quality { n_waiting, deviation: ((squares + idle) / n_nodes).sqrt(), skew: skews.fold(0.0, f64::max) }
    }
}

fn node(number: usize) -> Value {
    let name = format!("n{number:06}");
    let images: Vec<Value> = (0..5).map(|image| json!({"names": [format!("registry/image-{image}")]})).collect();
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {HOSTNAME: name, ZONE: format!("z{}", number % ZONES)}},
        "spec": {},
        "status": {
            "allocatable": {"cpu": "32", "memory": "128Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True"}],
            "images": images,
        },
    })
}

fn pod(app: &str, number: usize, cpu: usize, memory: usize) -> Value {
    let name = format!("{app}-{number}");
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "default", "uid": name, "labels": {"app": app},
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": app, "uid": format!("set-{app}"), "controller": true,
            }],
        },
        "spec": {"containers": [{
            "name": "c", "image": "registry/image-1",
            "resources": {"requests": {"cpu": format!("{cpu}m"), "memory": format!("{memory}Mi")}},
        }]},
    })
}

/// A Deployment's pods.
fn identical(n_pods: usize) -> Vec<Value> {
    (0..n_pods).map(|number| pod("web", number, 100, 128)).collect()
}

/// Each of an owner of its own, and no two ask for the same.
fn different(n_pods: usize) -> Vec<Value> {
    (0..n_pods).map(|number| pod(&format!("job{number}"), 0, 50 + number % 977, 64 + number % 1_013)).collect()
}

/// Ten workloads whose pods keep apart, lie evenly over the zones, and would rather be in the zone of the one before.
fn ruled(n_pods: usize) -> Vec<Value> {
    const WORKLOADS: usize = 10;
    let rules = |number: usize| {
        let app = format!("db{}", number % WORKLOADS);
        let term = |app: &str, key: &str| json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key});
        let mut pod = pod(&app, number / WORKLOADS, 100, 128);
        let before = format!("db{}", (number + WORKLOADS - 1) % WORKLOADS);
        pod["spec"]["affinity"] = json!({
            "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term(&app, HOSTNAME)]},
            "podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 10, "podAffinityTerm": term(&before, ZONE)},
            ]},
        });
        pod["spec"]["topologySpreadConstraints"] = json!([{
            "maxSkew": 1, "topologyKey": ZONE, "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": app}},
        }]);
        pod
    };
    (0..n_pods).map(rules).collect()
}
