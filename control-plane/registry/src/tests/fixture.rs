//! A world in memory, changed through the door that everybody uses.

use std::sync::Arc;

use copepod_api::{
    Action, DeleteOptions, Key, Patch, Reply, Request, Resource, Status, Target, Timestamp, User, WriteOptions,
    time::SignedDuration,
};
use copepod_store::View;
use serde_json::{Value, json};

use crate::{Env, Row, Transaction, transact};

pub struct Fixture {
    pub view: View,
    pub now: Timestamp,
    dice: u64,
}

const NAMESPACES: &[&str] = &["default", "kube-node-lease", "kube-public", "kube-system"];

/// What a cluster begins with: its namespaces and the service `kubernetes`.
fn bootstrap() -> Vec<Request> {
    let create = |target: &str, object: Value| request(target, Action::Create { object });
    let namespaces = NAMESPACES.iter().map(|name| create("namespaces", json!({"metadata": {"name": name}})));
    let spec = json!({"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443, "targetPort": 6443}]});
    let service = create("services", json!({"metadata": {"name": "kubernetes"}, "spec": spec}));
    namespaces.chain([service]).collect()
}

/// A resource by its plural: `pods`, `deployments`.
pub fn resource(plural: &str) -> Resource {
    let row = crate::rows().iter().find(|row| row.kind.plural == plural).expect("a known plural");
    row.kind.resource()
}

/// A request about `plural/name`, `plural.group/name` or `plural/name/subresource`, in the namespace `default` where the kind has one.
pub fn request(target: &str, action: Action) -> Request {
    let mut parts = target.split('/');
    let plural = parts.next().unwrap_or_default();
    let (plural, group) = plural.split_once('.').unwrap_or((plural, ""));
    let is_meant = |row: &&Arc<Row>| row.kind.plural == plural && (group.is_empty() || row.kind.group == group);
    let row = crate::rows().iter().find(is_meant).expect("a known plural");
    Request {
        user: User::system("tester"),
        target: Target {
            resource: row.kind.resource(),
            version: row.kind.version.to_string().into(),
            namespace: if row.kind.is_namespaced() { "default" } else { "" }.into(),
            name: parts.next().unwrap_or_default().into(),
            subresource: parts.next().unwrap_or_default().into(),
        },
        action,
        options: WriteOptions { field_manager: "test".to_owned(), ..WriteOptions::default() },
    }
}

impl Fixture {
    /// A cluster as it begins.
    pub fn new() -> Fixture {
        let now = "2026-11-23T10:00:00Z".parse().expect("a time");
        let mut fixture = Fixture { view: View::default(), now, dice: 7 };
        fixture.all(&bootstrap()).expect("a cluster begins");
        fixture
    }

    /// What is decided about requests; nothing of it happens.
    pub fn decide(&mut self, requests: &[Request]) -> Result<Transaction, Status> {
        let seed = &mut self.dice;
        let mut dice = || {
            *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *seed ^ (*seed >> 29)
        };
        transact(&self.view, requests, &mut Env { now: self.now, dice: &mut dice })
    }

    pub fn all(&mut self, requests: &[Request]) -> Result<Vec<Reply>, Status> {
        let done = self.decide(requests)?;
        // What the fork shows must be what the state machine makes of the transaction.
        let (applied, events) = self.view.apply(&done.txn, self.now).expect("a transaction on its own view commits");
        assert_eq!(applied.revision(), done.view.revision());
        assert_eq!(events.len(), done.events.len());
        for event in &events {
            assert_eq!(
                applied.object(&event.object.key).map(|o| o.bytes()),
                done.view.object(&event.object.key).map(|o| o.bytes())
            );
        }
        self.view = applied;
        Ok(done.replies)
    }

    pub fn one(&mut self, request: Request) -> Result<Reply, Status> {
        self.all(&[request]).map(|mut replies| replies.remove(0))
    }

    pub fn create(&mut self, target: &str, object: Value) -> Result<Value, Status> {
        self.one(request(target, Action::Create { object })).map(|reply| body(&reply))
    }

    pub fn update(&mut self, target: &str, object: Value) -> Result<Value, Status> {
        self.one(request(target, Action::Update { object })).map(|reply| body(&reply))
    }

    pub fn merge(&mut self, target: &str, patch: Value) -> Result<Value, Status> {
        self.one(request(target, Action::Patch { patch: Patch::Merge(patch) })).map(|reply| body(&reply))
    }

    pub fn delete(&mut self, target: &str, options: DeleteOptions) -> Result<Value, Status> {
        self.one(request(target, Action::Delete { options })).map(|reply| body(&reply))
    }

    pub fn get(&self, target: &str) -> Option<Value> {
        let request = request(target, Action::Delete { options: DeleteOptions::default() });
        let key = Key::new(request.target.resource, request.target.namespace, request.target.name);
        self.view.object(&key).map(|object| object.value().clone())
    }

    pub fn pass(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }
}

pub fn body(reply: &Reply) -> Value {
    serde_json::from_slice(&reply.body).expect("replies are JSON")
}

pub fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "web:1"}]}})
}

pub fn deployment(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "web"}]}},
    }})
}

pub fn service(name: &str, more: Value) -> Value {
    let mut spec = json!({"selector": {"app": name}, "ports": [{"port": 80}]});
    for (field, value) in more.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    json!({"metadata": {"name": name}, "spec": spec})
}

/// The message of a refusal.
pub fn refusal(result: Result<Value, Status>) -> String {
    match result {
        Ok(value) => panic!("not refused: {value}"),
        Err(status) => format!("{} {}: {}", status.code(), status.reason(), status.message()),
    }
}
