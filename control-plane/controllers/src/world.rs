//! A small world for tests: made from a line, changed by plans, told in a few lines.
//!
//! `settle` plays everybody else as well: plans are carried out by hand (no registry here), pods land on nodes and become
//! ready unless their image is broken, and what is asked to go goes.
//!
//! A fixture is objects separated by `|`, each a kind, a name and some words:
//! `node n1 silent | replicaset web 3 | pod web-a web ready on=n1 | pod stray - app=web`. The second word of a pod is the
//! set that owns it, or `-`.

use std::collections::BTreeSet;

use copepod_api::{
    Action, Body, Expect, Key, Name, Op, Patch, Plan, Request, Resource, Revision, Timestamp, Txn,
    k8s_openapi::api::core::v1::Pod, meta::REPLACE, resource, time as api_time,
};
use copepod_store::{Event, View};
use serde_json::{Value, json};

use crate::{ALL, Controller, pods, time};

pub struct World {
    pub view: View,
    pub now: Timestamp,
    uids: u64,
    bounds: Option<(String, usize, usize)>,
    /// Timers that plans asked for.
    alarms: BTreeSet<Timestamp>,
}

impl World {
    pub fn read(fixture: &str) -> World {
        let mut world = World {
            view: View::default(),
            now: Timestamp::from_second(1_000_000_000).unwrap(),
            uids: 0,
            bounds: None,
            alarms: BTreeSet::new(),
        };
        world.create("", "namespaces", "Namespace", "", "default", json!({}));
        world.add(fixture);
        world
    }

    pub fn add(&mut self, fixture: &str) {
        for line in fixture.split('|') {
            let words: Vec<&str> = line.split_whitespace().collect();
            self.read_object(&words);
        }
    }

    /// Removes an object at once, whatever holds it.
    pub fn delete(&mut self, key: &str) {
        let key = self.key(key);
        self.commit(Op::Delete { key, expect: Expect::Present });
    }

    /// A person deletes a namespace.
    pub fn close(&mut self, name: &str) {
        let now = api_time::rfc3339(self.now);
        self.edit(&format!("namespaces {name}"), |object| {
            object["metadata"]["deletionTimestamp"] = json!(now);
            object["spec"]["finalizers"] = json!(["kubernetes"]);
        });
    }

    fn read_object(&mut self, words: &[&str]) {
        let name = words[1];
        let has = |word: &str| words.contains(&word);
        let all = |prefix: &str| -> Vec<String> {
            words.iter().filter_map(|word| word.strip_prefix(prefix)).map(str::to_owned).collect()
        };
        match words[0] {
            "node" => {
                let status = if has("silent") { "Unknown" } else { "True" };
                let taints: Vec<Value> = all("taint=")
                    .iter()
                    .map(|taint| {
                        let (key, effect) = taint.split_once(':').unwrap();
                        let mut taint = json!({"key": key, "effect": effect});
                        if effect == "NoExecute" {
                            taint["timeAdded"] = json!(api_time::rfc3339(self.now));
                        }
                        taint
                    })
                    .collect();
                let object = json!({
                    "spec": {"taints": taints, "unschedulable": has("cordoned")},
                    "status": {"conditions": [{
                        "type": "Ready", "status": status, "lastTransitionTime": api_time::rfc3339(self.now),
                    }]},
                });
                self.create("", "nodes", "Node", "", name, object);
            }
            "deployment" => {
                let strategy = if has("recreate") { "Recreate" } else { "RollingUpdate" };
                let object = json!({
                    "spec": {
                        "replicas": words[2].parse::<i32>().unwrap(),
                        "selector": {"matchLabels": {"app": name}},
                        "strategy": {"type": strategy},
                        "progressDeadlineSeconds": 600,
                        "template": template(name),
                    },
                });
                self.create("apps", "deployments", "Deployment", "default", name, object);
            }
            "replicaset" => {
                let object = json!({
                    "spec": {
                        "replicas": words[2].parse::<i32>().unwrap(),
                        "selector": {"matchLabels": {"app": name}},
                        "template": template(name),
                    },
                });
                self.create("apps", "replicasets", "ReplicaSet", "default", name, object);
            }
            "statefulset" => {
                let object = json!({
                    "spec": {
                        "replicas": words[2].parse::<i32>().unwrap(),
                        "selector": {"matchLabels": {"app": name}},
                        "serviceName": name,
                        "podManagementPolicy": if has("parallel") { "Parallel" } else { "OrderedReady" },
                        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
                        "template": template(name),
                    },
                });
                self.create("apps", "statefulsets", "StatefulSet", "default", name, object);
            }
            "service" => {
                let target = words[2].parse::<i32>().map_or(json!(words[2]), |port| json!(port));
                let object = json!({
                    "spec": {"selector": {"app": name}, "ports": [{"port": 80, "protocol": "TCP", "targetPort": target}]},
                });
                self.create("", "services", "Service", "default", name, object);
            }
            "pod" => self.read_pod(name, words, &all),
            "budget" => {
                let (field, amount) = words[2].split_once('=').unwrap();
                let amount = amount.parse::<i32>().map_or(json!(amount), |amount| json!(amount));
                let object = json!({"spec": {field: amount, "selector": {"matchLabels": {"app": name}}}});
                let plural = "poddisruptionbudgets";
                self.create("policy", plural, "PodDisruptionBudget", "default", name, object);
            }
            "configmap" => self.create("", "configmaps", "ConfigMap", "default", name, json!({})),
            other => panic!("a fixture has no {other}"),
        }
        for owner in all("owner=") {
            let (resource, rest) = owner.split_once('/').unwrap();
            let owner = self.find(resource, rest);
            let key = self.find_key(words[0], name);
            let value = self.value(&owner);
            self.edit(&key.to_string(), |object| {
                object["metadata"]["ownerReferences"] = json!([{
                    "apiVersion": value["apiVersion"], "kind": value["kind"], "name": owner.name(),
                    "uid": value["metadata"]["uid"], "blockOwnerDeletion": true,
                }]);
            });
        }
        for finalizer in all("finalizer=") {
            let key = self.find_key(words[0], name);
            self.edit(&key.to_string(), |object| object["metadata"]["finalizers"] = json!([finalizer]));
        }
        if has("leaving") && words[0] != "pod" {
            let key = self.find_key(words[0], name);
            let now = api_time::rfc3339(self.now);
            self.edit(&key.to_string(), |object| object["metadata"]["deletionTimestamp"] = json!(now));
        }
    }

    fn find_key(&self, kind: &str, name: &str) -> Key {
        self.find(&format!("{kind}s"), name)
    }

    fn find(&self, plural: &str, name: &str) -> Key {
        let resources: Vec<Resource> = self.view.resources().cloned().collect();
        let resource = resources.into_iter().find(|resource| resource.plural == plural).unwrap();
        let key = Key::new(resource.clone(), "default", name);
        if self.view.object(&key).is_some() { key } else { Key::new(resource, "", name) }
    }

    fn read_pod(&mut self, name: &str, words: &[&str], all: &dyn Fn(&str) -> Vec<String>) {
        let has = |word: &str| words.contains(&word);
        let owner = (words[2] != "-").then_some(words[2]);
        let first = |prefix: &str| all(prefix).into_iter().next();
        let app = first("app=").or(owner.map(str::to_owned));
        let phase = if has("failed") {
            "Failed"
        } else if first("on=").is_some() || has("ready") {
            "Running"
        } else {
            "Pending"
        };
        let ready = if has("ready") { "True" } else { "False" };
        let since = api_time::rfc3339(self.now);
        let mut object = json!({
            "metadata": {},
            "spec": {"containers": [{"name": "c", "image": "web:1"}]},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": since}]},
        });
        if let Some(app) = app {
            object["metadata"]["labels"] = json!({"app": app});
        }
        if let Some(set) = owner.and_then(|owner| self.view.object(&Key::new(resource::REPLICA_SETS, "default", owner)))
        {
            object["metadata"]["ownerReferences"] = json!([{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": set.key.name(), "uid": set.meta.uid,
                "controller": true, "blockOwnerDeletion": true,
            }]);
        }
        if let Some(node) = first("on=") {
            object["spec"]["nodeName"] = json!(node);
        }
        if let Some(ip) = first("ip=") {
            object["status"]["podIP"] = json!(ip);
        }
        if let Some(port) = first("port=") {
            let (port_name, number) = port.split_once(':').unwrap();
            object["spec"]["containers"][0]["ports"] =
                json!([{"name": port_name, "containerPort": number.parse::<i32>().unwrap()}]);
        }
        if let Some(seconds) = first("tolerates=") {
            object["spec"]["tolerations"] = json!([{
                "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds.parse::<i64>().unwrap(),
            }]);
        }
        if has("leaving") {
            object["metadata"]["deletionTimestamp"] = json!(since);
        }
        if has("replace") {
            object["metadata"]["annotations"] = json!({REPLACE: "true"});
        }
        self.create("", "pods", "Pod", "default", name, object);
    }

    pub fn create(&mut self, group: &str, plural: &str, kind: &str, namespace: &str, name: &str, mut object: Value) {
        object["apiVersion"] = json!(if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") });
        object["kind"] = json!(kind);
        object["metadata"]["name"] = json!(name);
        if !namespace.is_empty() {
            object["metadata"]["namespace"] = json!(namespace);
        }
        let key = Key::new(Resource::new(group, plural), namespace, name);
        self.uids += 1;
        object["metadata"]["uid"] = json!(format!("u{}", self.uids));
        object["metadata"]["generation"] = json!(1);
        object["metadata"]["creationTimestamp"] = json!(api_time::rfc3339(self.now));
        self.put(key, &object, Expect::Absent);
    }

    fn put(&mut self, key: Key, object: &Value, expect: Expect) {
        self.commit(Op::Put { key, body: Body::encode(object), expect });
    }

    fn commit(&mut self, op: Op) -> Vec<Event> {
        let (view, events) =
            self.view.apply(&Txn { ops: vec![op] }, self.now).expect("a request of a test is possible");
        self.view = view;
        events
    }

    pub fn wait(&mut self, seconds: i64) {
        self.now = time::after(self.now, seconds);
    }

    /// From here on the ready pods of an app never fall below `floor`, and all its pods never exceed `ceiling`.
    pub fn bounds(&mut self, app: &str, floor: usize, ceiling: usize) {
        self.bounds = Some((app.to_owned(), floor, ceiling));
    }

    pub fn key(&self, text: &str) -> Key {
        let (resource, name) = text.split_once(' ').unwrap();
        let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
        let name = match name.split_once('/') {
            Some((namespace, name)) => Name::new(namespace, name),
            None => Name::new("", name),
        };
        Key { resource: Resource::new(group, plural), name }
    }

    pub fn value(&self, key: &Key) -> Value {
        self.view.object(key).unwrap_or_else(|| panic!("there is no {key}")).value().clone()
    }

    /// What a person does: `deployments.apps default/web`.
    pub fn edit(&mut self, key: &str, change: impl FnOnce(&mut Value)) {
        let key = self.key(key);
        let mut object = self.value(&key);
        let spec = object["spec"].clone();
        change(&mut object);
        if object["spec"] != spec {
            object["metadata"]["generation"] = json!(object["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
        }
        self.put(key, &object, Expect::Present);
    }

    pub fn plan(&self, controller: &Controller, key: &str) -> Plan {
        (controller.reconcile)(&self.view, &self.key(key), self.now)
    }

    /// Carries a plan out as the registry would, with the preconditions held.
    pub fn apply(&mut self, plan: &Plan) {
        self.alarms.extend(plan.look_again);
        for request in &plan.requests {
            self.carry_out(request);
        }
    }

    fn carry_out(&mut self, request: &Request) {
        let key = request.target.key();
        let live = self.view.object(&key).cloned();
        let check = |claimed: &Value| {
            let live = live.as_ref().unwrap_or_else(|| panic!("there is no {key}"));
            if let Some(revision) = claimed["metadata"]["resourceVersion"].as_str() {
                assert_eq!(Revision(revision.parse().unwrap()), live.revision, "{key} is written with what was read");
            }
            live.value().clone()
        };
        match &request.action {
            Action::Create { object } => {
                let mut object = object.clone();
                self.uids += 1;
                object["metadata"]["uid"] = json!(format!("u{}", self.uids));
                object["metadata"]["generation"] = json!(1);
                object["metadata"]["creationTimestamp"] = json!(api_time::rfc3339(self.now));
                self.put(key, &object, Expect::Absent);
            }
            Action::Update { object } => {
                let mut changed = check(object);
                match &*request.target.subresource {
                    "status" => changed["status"] = object["status"].clone(),
                    "finalize" => changed["spec"]["finalizers"] = object["spec"]["finalizers"].clone(),
                    other => panic!("no controller updates {other:?}"),
                }
                let done = &*request.target.subresource == "finalize"
                    && changed["spec"]["finalizers"].as_array().is_none_or(Vec::is_empty)
                    && !changed["metadata"]["deletionTimestamp"].is_null();
                if done {
                    self.commit(Op::Delete { key, expect: Expect::Present });
                } else {
                    self.put(key, &changed, Expect::Present);
                }
            }
            Action::Patch { patch: Patch::Merge(patch) } => {
                let mut changed = check(patch);
                merge(&mut changed, patch);
                if !patch["spec"].is_null() {
                    changed["metadata"]["generation"] =
                        json!(changed["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
                }
                let finalizers = changed["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
                let kept_for_finalizers = !live.as_ref().is_none_or(|live| live.meta.finalizers().is_empty());
                if !changed["metadata"]["deletionTimestamp"].is_null() && kept_for_finalizers && !finalizers {
                    self.commit(Op::Delete { key, expect: Expect::Present });
                } else {
                    self.put(key, &changed, Expect::Present);
                }
            }
            Action::Patch { patch } => panic!("no controller makes {patch:?}"),
            Action::Delete { options } => {
                let live = live.unwrap_or_else(|| panic!("there is no {key}"));
                if let Some(uid) = &options.uid {
                    assert_eq!(*uid, live.meta.uid, "{key} is the one that was meant");
                }
                let mut object = live.value().clone();
                if options.propagation == Some(copepod_api::request::Propagation::Foreground) {
                    object["metadata"]["finalizers"] = json!(["foregroundDeletion"]);
                }
                let finalizers = object["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
                let graceful = live.node.is_some() && options.grace_period_seconds != Some(0);
                if graceful || finalizers {
                    object["metadata"]["deletionTimestamp"] = json!(api_time::rfc3339(self.now));
                    self.put(key, &object, Expect::Present);
                } else {
                    self.commit(Op::Delete { key, expect: Expect::Present });
                }
            }
        }
    }

    /// Lets everybody act until nothing changes any more.
    pub fn settle(&mut self) {
        for _ in 0..1000 {
            let before = self.view.revision();
            for controller in ALL {
                for key in (controller.all)(&self.view) {
                    let plan = (controller.reconcile)(&self.view, &key, self.now);
                    self.apply(&plan);
                    self.check_bounds();
                }
            }
            self.play_node();
            self.check_bounds();
            if self.view.revision() == before {
                return;
            }
        }
        panic!("the world does not come to rest");
    }

    /// One pod at a time takes a step, so that every order of things is a possible one.
    pub fn play_node(&mut self) {
        let mut steps: Vec<(u8, Key)> = Vec::new();
        for pod in self.view.list::<Pod>(None) {
            let image = pod.spec.as_ref().and_then(|spec| spec.containers[0].image.clone()).unwrap_or_default();
            let broken = image.starts_with("broken");
            if pod.meta().is_leaving() {
                steps.push((0, pod.key().clone()));
            } else if !pods::is_ready(pod.object()) && !pods::has_ended(pod.object()) && !broken {
                steps.push((1, pod.key().clone()));
            }
        }
        steps.sort();
        let Some((step, key)) = steps.into_iter().next() else { return };
        if step == 0 {
            self.commit(Op::Delete { key, expect: Expect::Present });
            return;
        }
        let mut object = self.value(&key);
        if object["spec"]["nodeName"].is_null() {
            object["spec"]["nodeName"] = json!("n1");
        }
        object["status"] = json!({
            "phase": "Running", "podIP": "10.0.0.1",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": api_time::rfc3339(self.now)}],
        });
        self.put(key, &object, Expect::Present);
    }

    fn check_bounds(&self) {
        let Some((app, floor, ceiling)) = &self.bounds else { return };
        let of_app: Vec<_> = self
            .view
            .list::<Pod>(None)
            .filter(|pod| pod.meta().labels.get("app") == Some(app) && !pod.meta().is_leaving())
            .collect();
        let ready = of_app.iter().filter(|pod| pods::is_ready(pod.object())).count();
        assert!(ready >= *floor, "{ready} pods of {app} are ready, fewer than {floor}");
        assert!(of_app.len() <= *ceiling, "{app} has {} pods, more than {ceiling}", of_app.len());
    }

    /// A plan, a line a request. Names that are derived from hashes are told by what they are derived from.
    pub fn print(&self, plan: &Plan) -> String {
        let mut lines: Vec<String> = plan.requests.iter().filter_map(|request| self.tell(request)).collect();
        if let Some(at) = plan.look_again {
            lines.push(format!("look again in {}s", at.duration_since(self.now).as_secs()));
        }
        lines.extend(plan.reasons.iter().map(|reason| format!("because {reason}")));
        lines.join("\n")
    }

    fn tell(&self, request: &Request) -> Option<String> {
        let target = &request.target;
        let what = format!("{} {}", target.resource.plural.trim_end_matches('s'), target.name);
        let line = match &request.action {
            Action::Create { object } if target.resource == resource::EVENTS => {
                format!("event {}: {}", object["reason"].as_str()?, object["message"].as_str()?)
            }
            Action::Create { object } if !object["endpoints"].is_null() => {
                format!("create {what} {}", endpoints(&object["endpoints"], &object["ports"]))
            }
            Action::Create { object } if !object["spec"]["replicas"].is_null() => {
                format!("create {what} replicas={} {}", object["spec"]["replicas"], object["metadata"]["annotations"])
            }
            Action::Create { .. } => format!("create {what}"),
            Action::Update { object } if &*target.subresource == "status" => {
                let mut status = object["status"].clone();
                if let Some(conditions) = status["conditions"].as_array_mut() {
                    for condition in conditions {
                        *condition = json!(format!(
                            "{}={}:{}",
                            condition["type"].as_str().unwrap_or_default(),
                            condition["status"].as_str().unwrap_or_default(),
                            condition["reason"].as_str().unwrap_or_default()
                        ));
                    }
                }
                format!("status {what} {}", plain(&status))
            }
            Action::Update { object } => format!("{} {what} {}", target.subresource, plain(&object["spec"])),
            Action::Patch { patch: Patch::Merge(patch) } => {
                let mut patch = patch.clone();
                if let Some(metadata) = patch["metadata"].as_object_mut() {
                    metadata.remove("resourceVersion");
                    metadata.remove("uid");
                    if metadata.is_empty() {
                        patch.as_object_mut()?.remove("metadata");
                    }
                }
                if patch["endpoints"].is_null() {
                    format!("patch {what} {}", plain(&patch))
                } else {
                    format!("patch {what} {}", endpoints(&patch["endpoints"], &Value::Null))
                }
            }
            Action::Patch { .. } => return None,
            Action::Delete { options } => {
                let now = if options.grace_period_seconds == Some(0) { " now" } else { "" };
                let how = options.propagation.map(|propagation| format!(" {propagation:?}")).unwrap_or_default();
                let why = options.disruption.as_ref().map(|why| format!(" {}", why.reason)).unwrap_or_default();
                format!("delete {what}{now}{how}{why}")
            }
        };
        Some(line)
    }

    /// Deployments, sets and pods, as a person would tell them.
    pub fn summary(&self) -> String {
        let kinds = ["deployments.apps", "replicasets.apps", "pods"];
        let parts: Vec<String> = kinds.iter().map(|kind| self.summary_of(kind)).collect();
        parts.join("\n")
    }

    pub fn summary_of(&self, resource: &str) -> String {
        let resource = self.key(&format!("{resource} x")).resource;
        let mut lines = Vec::new();
        for object in self.view.objects(&resource, None) {
            let value = object.value();
            let revision = object.meta.annotations.get("deployment.kubernetes.io/revision");
            let line = match &*resource.plural {
                "deployments" => {
                    let mut status = value["status"].clone();
                    let conditions = status["conditions"].take();
                    status.as_object_mut().map(|status| status.remove("conditions"));
                    let conditions: Vec<&str> =
                        conditions.as_array().into_iter().flatten().filter_map(|c| c["reason"].as_str()).collect();
                    format!("deployment {} rev {revision:?} {} {conditions:?}", object.key.name(), plain(&status))
                }
                "replicasets" => format!(
                    "set of {} rev {} history {:?}: {} wanted, {} available",
                    value["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap_or_default(),
                    revision.map_or("-", |revision| revision),
                    object.meta.annotations.get("deployment.kubernetes.io/revision-history"),
                    value["spec"]["replicas"],
                    value["status"]["availableReplicas"].as_i64().unwrap_or(0)
                ),
                "pods" => format!("pod of {}", value["spec"]["containers"][0]["image"].as_str().unwrap_or_default()),
                "configmaps" => object.key.name().to_owned(),
                _ => format!("{} endpoints", value["endpoints"].as_array().map_or(0, Vec::len)),
            };
            lines.push(line);
        }
        if matches!(&*resource.plural, "replicasets" | "pods") {
            lines.sort();
        }
        let mut told: Vec<(usize, String)> = Vec::new();
        for line in lines {
            match told.last_mut() {
                Some((n, last)) if *last == line => *n += 1,
                _ => told.push((1, line)),
            }
        }
        let told: Vec<String> =
            told.into_iter().map(|(n, line)| if n == 1 { line } else { format!("{n} × {line}") }).collect();
        told.join("\n")
    }
}

fn template(app: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": app}},
        "spec": {"containers": [{"name": "c", "image": format!("{app}:1")}]},
    })
}

/// JSON without its quotes.
fn plain(value: &Value) -> String {
    value.to_string().replace('"', "")
}

fn endpoints(endpoints: &Value, ports: &Value) -> String {
    let mut text = String::new();
    for endpoint in endpoints.as_array().into_iter().flatten() {
        let conditions = &endpoint["conditions"];
        let mut words = vec![endpoint["addresses"][0].as_str().unwrap_or_default()];
        for word in ["ready", "serving", "terminating"] {
            if conditions[word] == true {
                words.push(word);
            }
        }
        text.push_str(&format!("[{}]", words.join(" ")));
    }
    for port in ports.as_array().into_iter().flatten() {
        text.push_str(&format!(" :{}", port["port"]));
    }
    text
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in fields {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else if key != "resourceVersion" && key != "uid" {
            merge(&mut target[key], value);
        }
    }
}
