//! Which node a pod runs on.
//!
//! Pods of one shape (the same asks, rules and owner) are placed as a class: nodes are filtered and scored once, and then
//! every pod takes the best node from a heap and puts it back with its new score (see `contest`).
//!
//! What is kept between two calls is a table of nodes derived from the view, and nothing else: a scheduler that starts
//! afresh decides the same.

mod amounts;
mod candidates;
mod contest;
mod crowds;
mod filters;
mod place;
mod refusal;
mod scores;
mod selectors;
mod shape;
mod shapes;
mod table;
#[cfg(test)]
mod tests;
mod topology;
mod wish;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use copepod_api::{
    Action, Key, Name, Object, Of, Plan, Request, Revision, Timestamp, User,
    k8s_openapi::api::core::v1::{Event as CoreEvent, Namespace, Node, Pod, PodCondition},
    resource, time,
};
use copepod_store::{Event, EventKind, View};
use serde_json::{Value, json};

use crate::{place::Outcome, shape::Shape, shapes::Shapes, table::Table, wish::Wish};

/// How many bindings go into one transaction. Enough to share an fsync among many, few enough that a refused one costs
/// little.
const BINDINGS_PER_PLAN: usize = 256;

/// How many events one look at the world writes. They are for people; a crowd of pods is told by its conditions.
const EVENTS_MAX: usize = 32;

const NAME: &str = "default-scheduler";

/// Places pods on nodes.
#[derive(Default)]
pub struct Scheduler {
    table: Table,
    /// Pods without a node that should be tried.
    waiting: BTreeSet<Name>,
    /// Pods that fit nowhere, until something happens that may help.
    /// With each, whether it minds where other pods are: then a pod that arrives may help, too.
    parked: BTreeMap<Name, bool>,
    shapes: Shapes,
    /// What the table knows.
    seen: Option<Revision>,
}

impl Scheduler {
    pub fn new() -> Self {
        Scheduler::default()
    }

    /// Places every pod that waits. `events` are those since the last call; they keep the table of nodes fresh.
    pub fn schedule(&mut self, view: &View, events: &[Event], now: Timestamp) -> Vec<Plan> {
        if self.seen.is_none() {
            self.rebuild(view);
        } else {
            events.iter().for_each(|event| self.learn(view, event));
        }
        self.seen = Some(view.revision());
        self.catch_up(view);

        let mut output = Output {
            now,
            user: User::system("system:kube-scheduler"),
            bindings: Vec::new(),
            notes: Vec::new(),
            news: Vec::new(),
        };
        let mut bound: Vec<Arc<Object>> = Vec::new();
        for class in self.classes(view, &mut output) {
            let outcomes = place::class(&mut self.table, view, &class.shape, class.pods.len());
            for (pod, outcome) in class.pods.into_iter().zip(outcomes) {
                match outcome {
                    Outcome::On(node) => {
                        output.bind(&pod, &node);
                        self.waiting.remove(&pod.key.name);
                        self.table.add(&pod, &node, &class.shape);
                        bound.push(pod);
                    }
                    Outcome::Nowhere(message) => {
                        output.note(&pod, "Unschedulable", &message);
                        self.waiting.remove(&pod.key.name);
                        self.parked.insert(pod.key.name.clone(), class.shape.minds_others());
                    }
                }
            }
        }
        // The table tells what is, and bindings are only wishes until they come back as events. Until then their pods
        // wait: a binding that is refused is tried again with the next call.
        for pod in &bound {
            self.table.remove(&pod.key.name);
            self.waiting.insert(pod.key.name.clone());
        }
        output.plans(view)
    }

    fn rebuild(&mut self, view: &View) {
        *self = Scheduler::default();
        for node in view.list::<Node>(None) {
            self.table.put_node(&node);
        }
        for pod in view.objects(&resource::PODS, None) {
            self.learn_pod(pod);
        }
    }

    fn learn(&mut self, view: &View, event: &Event) {
        let object = &event.object;
        if object.key.resource == resource::NODES {
            let helps = match (event.kind, Of::<Node>::new(object.clone())) {
                (EventKind::Deleted, _) | (_, Err(_)) => self.table.remove_node(object.key.name()),
                (_, Ok(node)) => {
                    let is_new = !self.table.knows(object.key.name());
                    let changed = self.table.put_node(&node);
                    if is_new {
                        for pod in view.pods_on(object.key.name()) {
                            self.learn_pod(pod);
                        }
                    }
                    // A node that comes again as it was takes the row that it had, and finds nothing changed there.
                    changed || is_new
                }
            };
            if helps {
                self.retry();
            }
        } else if object.key.resource == resource::PODS {
            let was_placed = self.table.remove(&object.key.name);
            self.waiting.remove(&object.key.name);
            let was_parked = self.parked.remove(&object.key.name);
            let mut is_placed = false;
            if event.kind != EventKind::Deleted {
                let same = event.previous.as_deref().is_some_and(|previous| wish::is_same(previous, object));
                is_placed = self.learn_pod(object);
                // Only its status changed, probably by our own note: it stays parked. One that waits goes on waiting, for
                // something has happened since that may help it.
                if let Some(minds_others) = was_parked.filter(|_| same)
                    && self.waiting.remove(&object.key.name)
                {
                    self.parked.insert(object.key.name.clone(), minds_others);
                }
            }
            if was_placed && !is_placed {
                self.retry();
            } else if is_placed && !was_placed {
                // A pod arrived that others may want to be near.
                let (mind, rest) =
                    std::mem::take(&mut self.parked).into_iter().partition(|(_, minds_others)| *minds_others);
                self.parked = rest;
                let mind: BTreeMap<Name, bool> = mind;
                self.waiting.extend(mind.into_keys());
            }
        }
    }

    /// The view may be ahead of the events. What matters of that are bindings that came true: their pods wait no more, and
    /// their room is taken.
    fn catch_up(&mut self, view: &View) {
        let settled: Vec<Name> = self
            .waiting
            .iter()
            .filter(|name| {
                let pod = view.object(&Key { resource: resource::PODS, name: (*name).clone() });
                pod.is_none_or(|pod| pod.node.is_some() || pod.meta.is_leaving())
            })
            .cloned()
            .collect();
        for name in settled {
            self.waiting.remove(&name);
            if let Some(pod) = view.object(&Key { resource: resource::PODS, name }) {
                self.learn_pod(pod);
            }
        }
    }

    fn retry(&mut self) {
        self.waiting.extend(std::mem::take(&mut self.parked).into_keys());
    }

    /// Notes where a pod is, or that it waits. True where it takes room on a node.
    fn learn_pod(&mut self, object: &Arc<Object>) -> bool {
        if object.facts().has_ended() {
            self.table.remove(&object.key.name);
            return false;
        }
        let Some(wish) = Wish::of(object) else { return false };
        match &object.node {
            Some(node) => {
                let Some(shape) = self.shapes.of(&wish, object) else { return false };
                self.table.add(object, node, &shape);
                true
            }
            None => {
                let scheduler = wish.spec.scheduler_name.as_deref().unwrap_or(NAME);
                if !object.meta.is_leaving() && (scheduler == NAME || scheduler.is_empty()) {
                    self.waiting.insert(object.key.name.clone());
                }
                false
            }
        }
    }

    /// The waiting pods, the important and the old first, grouped by shape.
    fn classes(&mut self, view: &View, output: &mut Output) -> Vec<Class> {
        let waiting = self.waiting.iter();
        let pods = waiting.filter_map(|name| view.object(&Key { resource: resource::PODS, name: name.clone() }));
        let mut order: Vec<_> = pods
            .filter_map(|pod| {
                let wish = Wish::of(pod)?;
                let priority = wish.spec.priority.unwrap_or(0);
                Some(((-i64::from(priority), pod.meta.creation_timestamp, &pod.key.name), pod, wish))
            })
            .collect();
        order.sort_by_key(|(key, ..)| *key);
        let mut classes: Vec<Class> = Vec::new();
        let mut known: BTreeMap<(i64, String), usize> = BTreeMap::new();
        for ((priority, ..), pod, wish) in order {
            if wish.is_gated() {
                output.note(pod, "SchedulingGated", "Scheduling is blocked due to non-empty scheduling gates");
                continue;
            }
            let key = wish.key(pod);
            let Some(shape) = self.shapes.of_key(&key, pod) else { continue };
            let class = *known.entry((priority, key)).or_insert_with(|| {
                classes.push(Class { shape, pods: Vec::new() });
                classes.len() - 1
            });
            classes[class].pods.push(pod.clone());
        }
        classes
    }
}

/// Pods that are all the same to the scheduler.
struct Class {
    shape: Shape,
    pods: Vec<Arc<Object>>,
}

/// Requests on their way into plans.
struct Output {
    now: Timestamp,
    user: User,
    bindings: Vec<(Arc<Object>, String)>,
    notes: Vec<Request>,
    news: Vec<(Arc<Object>, String)>,
}

impl Output {
    fn bind(&mut self, pod: &Arc<Object>, node: &str) {
        self.bindings.push((pod.clone(), node.to_owned()));
    }

    fn binding(&self, pod: &Arc<Object>, node: &str) -> Request {
        let object = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": pod.key.name(), "namespace": pod.key.namespace(), "uid": pod.meta.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let create = Action::Create { object };
        Request::of::<Pod>(&self.user, pod.key.namespace(), pod.key.name(), "binding", create)
    }

    /// An event about a pod, where it can be written and says something new: it must never have a plan refused.
    fn event(&self, view: &View, pod: &Arc<Object>, kind: &str, reason: &str, message: &str) -> Option<Request> {
        let namespace = pod.key.namespace();
        view.get::<Namespace>("", namespace).filter(|namespace| !namespace.meta().is_leaving())?;
        let name = format!("{}.{}.{}", pod.key.name(), reason.to_lowercase(), pod.revision);
        if view.object(&Key::new(resource::EVENTS, namespace, name.as_str())).is_some() {
            return None;
        }
        let at = time::rfc3339(self.now);
        let object = json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": name, "namespace": namespace},
            "involvedObject": {
                "apiVersion": "v1", "kind": "Pod", "name": pod.key.name(), "namespace": namespace, "uid": pod.meta.uid,
            },
            "type": kind, "reason": reason, "message": message, "count": 1, "firstTimestamp": at, "lastTimestamp": at,
            "source": {"component": NAME}, "reportingComponent": NAME, "reportingInstance": "",
        });
        Some(Request::of::<CoreEvent>(&self.user, namespace, &name, "", Action::Create { object }))
    }

    /// Says on the pod why it waits, where that is not said already.
    fn note(&mut self, pod: &Arc<Object>, reason: &str, message: &str) {
        let Ok(decoded) = pod.decoded::<Pod>() else { return };
        let mut conditions = decoded.status.and_then(|status| status.conditions).unwrap_or_default();
        let known = conditions.iter().find(|condition| condition.type_ == "PodScheduled");
        let is_said = known.is_some_and(|known| {
            known.status == "False"
                && known.reason.as_deref() == Some(reason)
                && refusal::gist(known.message.as_deref().unwrap_or_default()) == refusal::gist(message)
        });
        if is_said {
            return;
        }
        let since = known.filter(|known| known.status == "False").and_then(|known| known.last_transition_time.clone());
        conditions.retain(|condition| condition.type_ != "PodScheduled");
        let mut condition = json!(PodCondition {
            type_: "PodScheduled".to_owned(),
            status: "False".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_transition_time: since,
            ..PodCondition::default()
        });
        if condition["lastTransitionTime"].is_null() {
            condition["lastTransitionTime"] = json!(time::rfc3339(self.now));
        }
        let mut object: Value = serde_json::from_slice(pod.bytes()).unwrap_or_default();
        let mut conditions = json!(conditions);
        if let Some(list) = conditions.as_array_mut() {
            list.push(condition);
        }
        object["status"]["conditions"] = conditions;
        let update = Action::Update { object };
        if reason == "Unschedulable" {
            self.news.push((pod.clone(), message.to_owned()));
        }
        self.notes.push(Request::of::<Pod>(&self.user, pod.key.namespace(), pod.key.name(), "status", update));
    }

    fn plans(self, view: &View) -> Vec<Plan> {
        let mut plans = Vec::new();
        for chunk in self.bindings.chunks(BINDINGS_PER_PLAN) {
            let mut plan = Plan::nothing();
            for (pod, node) in chunk {
                plan.push(self.binding(pod, node));
                if self.bindings.len() <= EVENTS_MAX {
                    let message = format!("Successfully assigned {} to {node}", pod.key.name);
                    plan.requests.extend(self.event(view, pod, "Normal", "Scheduled", &message));
                }
            }
            plans.push(plan);
        }
        plans.extend(
            self.notes.chunks(BINDINGS_PER_PLAN).map(|notes| Plan { requests: notes.to_vec(), ..Plan::default() }),
        );
        let news = self.news.iter().take(EVENTS_MAX);
        let news: Vec<Request> =
            news.filter_map(|(pod, message)| self.event(view, pod, "Warning", "FailedScheduling", message)).collect();
        if !news.is_empty() {
            plans.push(Plan { requests: news, ..Plan::default() });
        }
        plans
    }
}

/// Why a pod is where it is, or nowhere: a line for every node.
pub fn explain(view: &View, pod: &Pod, _now: Timestamp) -> Vec<String> {
    let spec = pod.spec.as_ref();
    if let Some(node) = spec.and_then(|spec| spec.node_name.as_deref()).filter(|node| !node.is_empty()) {
        return vec![format!("it is bound to node {node}")];
    }
    let gates: Vec<&str> = spec
        .into_iter()
        .flat_map(|spec| spec.scheduling_gates.iter().flatten())
        .map(|gate| gate.name.as_str())
        .collect();
    if !gates.is_empty() {
        return vec![format!("it waits for its scheduling gates to be removed: {}", gates.join(", "))];
    }
    let mut scheduler = Scheduler::new();
    scheduler.rebuild(view);
    place::explain(&scheduler.table, view, &Shape::of(pod))
}
