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
mod queue;
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

use std::sync::Arc;

use copepod_api::{
    Action, Key, Name, Object, Plan, Request, Revision, Timestamp, User,
    k8s_openapi::api::core::v1::{Event as CoreEvent, Namespace, Pod, PodCondition},
    resource, time,
};
use copepod_store::{Event, EventKind, View};
use serde_json::{Value, json};

use crate::{
    place::Outcome,
    queue::{Entry, Queue},
    shape::Shape,
    shapes::Shapes,
    table::Table,
    wish::Wish,
};

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
    queue: Queue,
    shapes: Shapes,
    /// What the table knows.
    seen: Option<Revision>,
}

impl Scheduler {
    pub fn new() -> Self {
        Scheduler::default()
    }

    /// Takes note of what has happened since the last call of this or of `schedule`, and decides nothing. Before the first
    /// call of `schedule` nothing has to be noted.
    pub fn note(&mut self, view: &View, events: &[Event]) {
        if self.seen.is_some() {
            events.iter().for_each(|event| self.learn(view, event));
        }
    }

    /// Places every pod that waits. `events` are those since the last call; they keep the table of nodes fresh.
    pub fn schedule(&mut self, view: &View, events: &[Event], now: Timestamp) -> Vec<Plan> {
        if self.seen.is_none() {
            self.rebuild(view);
        } else {
            self.note(view, events);
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
        for pod in self.queue.take_gated() {
            output.note(&pod, "SchedulingGated", "Scheduling is blocked due to non-empty scheduling gates");
        }
        let mut bound: Vec<Arc<Object>> = Vec::new();
        for class in self.queue.classes() {
            let outcomes = place::class(&mut self.table, view, &class.shape, class.pods.len());
            for (pod, outcome) in class.pods.into_iter().zip(outcomes) {
                match outcome {
                    Outcome::On(node) => {
                        output.bind(&pod, &node);
                        self.table.add(&pod, &node, &class.shape);
                        bound.push(pod);
                    }
                    Outcome::Nowhere(message) => {
                        output.note(&pod, "Unschedulable", &message);
                        self.queue.park(&pod.key.name);
                    }
                }
            }
        }
        // The table tells what is, and bindings are only wishes until they come back as events. Until then their pods
        // go on waiting: a binding that is refused is tried again with the next call.
        for pod in &bound {
            self.table.remove(&pod.key.name);
        }
        output.plans(view)
    }

    fn rebuild(&mut self, view: &View) {
        *self = Scheduler::default();
        for node in view.objects(&resource::NODES, None) {
            self.table.put_node(node);
        }
        for pod in view.objects(&resource::PODS, None) {
            self.learn_pod(pod);
        }
    }

    fn learn(&mut self, view: &View, event: &Event) {
        match &event.object.key.resource {
            resource if *resource == resource::NODES => self.learn_node(view, event),
            resource if *resource == resource::PODS => self.learn_of_pod(event),
            _ => {}
        }
    }

    fn learn_node(&mut self, view: &View, event: &Event) {
        let name = event.object.key.name();
        let change = match event.kind {
            EventKind::Deleted => None,
            _ => self.table.put_node(&event.object),
        };
        let Some(change) = change else {
            // Its pods kept others away, or were too many in their zone.
            if self.table.remove_node(name) {
                self.queue.wake_all();
            }
            return;
        };
        // A node that comes again as it was takes the row that it had, and finds nothing changed there.
        if change.is_new {
            for pod in view.pods_on(name) {
                self.learn_pod(pod);
            }
        }
        if change.domains && self.table.crowds.keeping_apart().next().is_some() {
            self.queue.wake_all();
        } else if (change.is_new || change.matters)
            && let Some(row) = self.table.row(name)
        {
            self.queue.wake_for(&self.table, row);
        }
    }

    fn learn_of_pod(&mut self, event: &Event) {
        let (name, object) = (&event.object.key.name, &event.object);
        if event.kind != EventKind::Deleted
            && let Some(previous) = &event.previous
            && wish::is_unchanged(previous, object)
            && self.table.renew(object)
        {
            return;
        }
        let left = self.table.remove(name);
        let was_parked = self.queue.remove(name);
        let is_placed = event.kind != EventKind::Deleted && self.learn_pod(object);
        if let Some(before) = was_parked {
            self.queue.park_again(name, &before);
        }
        match left {
            Some(left) if !is_placed => match self.table.row(&left.node) {
                // Whom it kept away may go to any node of its domain.
                _ if !left.shape.apart.is_empty() => self.queue.wake_all(),
                Some(row) => self.queue.wake_for(&self.table, row),
                None => self.queue.wake_minding(),
            },
            // It asks for something else, and that may be less.
            Some(left) => match self.table.row(&left.node) {
                Some(row) if self.table.shape_of(name) != Some(left.shape.id()) => {
                    self.queue.wake_for(&self.table, row);
                }
                _ => {}
            },
            // A pod arrived that others may want to be near.
            None if is_placed => self.queue.wake_minding(),
            None => {}
        }
    }

    /// The view may be ahead of the events. What matters of that are bindings that came true: their pods wait no more, and
    /// their room is taken.
    fn catch_up(&mut self, view: &View) {
        let current = |name: &Name| view.object(&Key { resource: resource::PODS, name: name.clone() });
        let changed: Vec<Name> = self
            .queue
            .waiting()
            .filter(|(name, known)| current(name).is_none_or(|pod| !Arc::ptr_eq(pod, known)))
            .map(|(name, _)| name.clone())
            .collect();
        for name in changed {
            self.queue.remove(&name);
            if let Some(pod) = current(&name) {
                self.learn_pod(pod);
            }
        }
    }

    /// Notes where a pod is, or that it waits. True where it takes room on a node.
    fn learn_pod(&mut self, object: &Arc<Object>) -> bool {
        if object.facts().has_ended() {
            self.table.remove(&object.key.name);
            return false;
        }
        let text = object.bytes();
        let Some(wish) = Wish::of(&text) else { return false };
        let scheduler = wish.spec.scheduler_name.as_deref().unwrap_or(NAME);
        match &object.node {
            Some(node) => {
                let Some(shape) = self.shapes.of(&wish, object) else { return false };
                self.table.add(object, node, &shape);
                true
            }
            None if object.meta.is_leaving() || !(scheduler == NAME || scheduler.is_empty()) => false,
            None if wish.is_gated() => {
                self.queue.put_gated(object);
                false
            }
            None => {
                let priority = wish.spec.priority.unwrap_or(0);
                if let Some(shape) = self.shapes.of(&wish, object) {
                    self.queue.put(Entry { pod: object.clone(), priority, shape });
                }
                false
            }
        }
    }
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
        let mut object: Value = serde_json::from_slice(&pod.bytes()).unwrap_or_default();
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
