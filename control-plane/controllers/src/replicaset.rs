//! Keeps `spec.replicas` pods of a template alive.

mod rank;
mod replace;

use std::cmp::Ordering;

use copepod_api::{
    Action, DeleteOptions, Key, Of, Plan, Request, Timestamp, User,
    k8s_openapi::api::{
        apps::v1::{ReplicaSet, ReplicaSetStatus},
        core::v1::Pod,
    },
    resource,
    selector::LabelSelector,
};
use copepod_store::{Event, View};
use serde_json::{Value, json};

use crate::{
    Controller, hash,
    owned::{self, Claims},
    pods::{self, Fate},
    time, write,
};

pub const CONTROLLER: Controller = Controller { name: "replicaset-controller", wakes, all, reconcile };

/// How many pods one plan creates or deletes. A larger set grows in several transactions, so that no single one holds up
/// everybody else's for long.
const BURST: usize = 500;

/// How many pods one event names.
const NAMES_IN_EVENT: usize = 5;

fn all(view: &View) -> Vec<Key> {
    view.objects(&resource::REPLICA_SETS, None).map(|set| set.key.clone()).collect()
}

fn wakes(view: &View, event: &Event) -> Vec<Key> {
    let key = &event.object.key;
    if key.resource == resource::REPLICA_SETS {
        return vec![key.clone()];
    }
    if key.resource != resource::PODS {
        return Vec::new();
    }
    let mut woken = Vec::new();
    for pod in [Some(&event.object), event.previous.as_ref()].into_iter().flatten() {
        match pod.meta.controller() {
            Some(owner) if owner.kind == "ReplicaSet" => {
                woken.push(Key::new(resource::REPLICA_SETS, key.name.namespace.clone(), owner.name.as_str()));
            }
            Some(_) => {}
            // Nobody's: whoever selects it may adopt it.
            None => woken.extend(
                view.list::<ReplicaSet>(Some(key.namespace()))
                    .filter(|set| selector(set).is_ok_and(|selector| selector.matches(&pod.meta.labels)))
                    .map(|set| set.key().clone()),
            ),
        }
    }
    woken.sort();
    woken.dedup();
    woken
}

fn reconcile(view: &View, key: &Key, now: Timestamp) -> Plan {
    let now = time::whole_seconds(now);
    let Some(set) = view.get::<ReplicaSet>(key.namespace(), key.name()) else {
        return Plan::nothing();
    };
    let mut plan = Plan::nothing();
    let selector = match selector(&set) {
        Ok(selector) => selector,
        Err(error) => {
            plan.because(format!("spec.selector cannot be read: {error}"));
            return plan;
        }
    };
    let user = User::system("system:controller:replicaset-controller");
    let claims = Claims::<Pod>::of(view, &set, &selector);
    let pods = Pods::classify(&set, &claims.own, now);

    if !set.meta().is_leaving() && write::is_open(view, key.namespace()) {
        plan.requests.extend(claims.settle(&user, &set));
        let wanted = replicas(&set);
        match pods.kept.len().cmp(&wanted) {
            Ordering::Less => create_missing(&mut plan, view, &user, &set, wanted - pods.kept.len(), now),
            Ordering::Greater => delete_surplus(&mut plan, view, &user, &set, &pods, wanted, now),
            Ordering::Equal => {}
        }
        let gone = replace::replaced(&pods.replaced, pods.kept_available, wanted);
        plan.requests.extend(gone.iter().map(|pod| write::delete(&user, pod.object(), DeleteOptions::default())));
        if pods.available < wanted {
            plan.because(format!("{} of {wanted} pods are available", pods.available));
        }
    }
    let status = pods.status(&set);
    if set.status.as_ref() != Some(&status) {
        plan.push(write::status(&user, &set, &status));
    }
    plan.look_again_at(pods.next_change);
    plan
}

fn selector(set: &ReplicaSet) -> Result<LabelSelector, String> {
    let spec = set.spec.as_ref().ok_or("it has no spec")?;
    LabelSelector::from_typed(&spec.selector)
}

fn replicas(set: &ReplicaSet) -> usize {
    let replicas = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    usize::try_from(replicas).unwrap_or(0)
}

/// The pods of a set, classified and counted.
struct Pods<'a> {
    /// Those that count: neither leaving nor ended, and not to be replaced.
    kept: Vec<&'a Of<Pod>>,
    kept_available: usize,
    /// Those that stay until others have taken their place.
    replaced: Vec<&'a Of<Pod>>,
    fully_labeled: usize,
    ready: usize,
    available: usize,
    leaving: usize,
    /// When a ready pod will count as available.
    next_change: Option<Timestamp>,
}

impl<'a> Pods<'a> {
    fn classify(set: &ReplicaSet, own: &'a [Of<Pod>], now: Timestamp) -> Pods<'a> {
        let spec = set.spec.as_ref();
        let min_ready = spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
        let template_labels = spec
            .and_then(|spec| spec.template.as_ref())
            .and_then(|template| template.metadata.as_ref())
            .and_then(|meta| meta.labels.clone())
            .unwrap_or_default();
        let mut pods = Pods {
            kept: Vec::new(),
            kept_available: 0,
            replaced: Vec::new(),
            fully_labeled: 0,
            ready: 0,
            available: 0,
            leaving: 0,
            next_change: None,
        };
        for pod in own {
            let fate = pods::fate(pod, pod.meta(), min_ready, now);
            match fate {
                Fate::Ended => continue,
                Fate::Leaving => {
                    pods.leaving += 1;
                    continue;
                }
                Fate::Available => (pods.ready, pods.available) = (pods.ready + 1, pods.available + 1),
                Fate::Ready => {
                    pods.ready += 1;
                    let at = pods::available_at(pod, min_ready);
                    pods.next_change = [pods.next_change, at].into_iter().flatten().min();
                }
                Fate::Starting => {}
            }
            let labels = &pod.meta().labels;
            if template_labels.iter().all(|(key, value)| labels.get(key) == Some(value)) {
                pods.fully_labeled += 1;
            }
            if replace::is_wanted(pod.meta()) {
                pods.replaced.push(pod);
            } else {
                pods.kept_available += usize::from(fate == Fate::Available);
                pods.kept.push(pod);
            }
        }
        pods
    }

    fn status(&self, set: &Of<ReplicaSet>) -> ReplicaSetStatus {
        let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let some = |n: usize| (n > 0).then(|| number(n));
        ReplicaSetStatus {
            replicas: number(self.kept.len() + self.replaced.len()),
            fully_labeled_replicas: some(self.fully_labeled),
            ready_replicas: some(self.ready),
            available_replicas: some(self.available),
            terminating_replicas: Some(number(self.leaving)),
            observed_generation: Some(set.meta().generation),
            conditions: set.status.as_ref().and_then(|status| status.conditions.clone()),
        }
    }
}

fn create_missing(plan: &mut Plan, view: &View, user: &User, set: &Of<ReplicaSet>, missing: usize, now: Timestamp) {
    let object = pod_from_template(set);
    let namespace = set.key().namespace();
    let revision = set.object().revision.to_string();
    let mut names = Vec::new();
    // Taken names are skipped: they are of pods that count already, or are on their way out.
    for index in 0_u64.. {
        if names.len() == missing.min(BURST) {
            break;
        }
        let parts = [set.uid().as_bytes(), revision.as_bytes(), &index.to_be_bytes()];
        let suffix = hash::letters(hash::fnv1a(&parts), 5);
        let name = format!("{}-{suffix}", pod_base_name(set.key().name()));
        if view.object(&Key::new(resource::PODS, namespace, name.as_str())).is_some() || names.contains(&name) {
            continue;
        }
        let mut object = object.clone();
        object["metadata"]["name"] = json!(name);
        plan.push(Request::of::<Pod>(user, namespace, &name, "", Action::Create { object }));
        names.push(name);
    }
    let news = write::News { kind: "Normal", reason: "SuccessfulCreate", message: sentence("Created", &names) };
    write::announce(plan, view, user, set.object(), news, now);
}

/// The pod of a set, without its name.
fn pod_from_template(set: &Of<ReplicaSet>) -> Value {
    let template = &set.object().value()["spec"]["template"];
    let mut metadata = json!({
        "generateName": format!("{}-", set.key().name()),
        "namespace": set.key().namespace(),
        "ownerReferences": [owned::reference(set)],
    });
    for field in ["labels", "annotations", "finalizers"] {
        if !template["metadata"][field].is_null() {
            metadata[field] = template["metadata"][field].clone();
        }
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
}

/// A pod's name also has to serve as its host name: 63 letters with the suffix.
fn pod_base_name(set: &str) -> &str {
    let end = set.char_indices().map(|(at, _)| at).find(|at| *at >= 57).unwrap_or(set.len());
    set[..end].trim_end_matches(['-', '.'])
}

fn delete_surplus(
    plan: &mut Plan,
    view: &View,
    user: &User,
    set: &Of<ReplicaSet>,
    pods: &Pods<'_>,
    wanted: usize,
    now: Timestamp,
) {
    let mut leaving = rank::first_to_go(view, set, &pods.kept, now);
    leaving.truncate((pods.kept.len() - wanted).min(BURST));
    let names: Vec<String> = leaving.iter().map(|pod| pod.key().name().to_owned()).collect();
    plan.requests.extend(leaving.iter().map(|pod| write::delete(user, pod.object(), DeleteOptions::default())));
    let news = write::News { kind: "Normal", reason: "SuccessfulDelete", message: sentence("Deleted", &names) };
    write::announce(plan, view, user, set.object(), news, now);
}

/// One sentence for many pods, so that a large set does not drown the events of others.
fn sentence(what: &str, names: &[String]) -> String {
    match names {
        [name] => format!("{what} pod: {name}"),
        names if names.len() <= NAMES_IN_EVENT => format!("{what} pods: {}", names.join(", ")),
        names => format!(
            "{what} {} pods: {} and {} more",
            names.len(),
            names[..NAMES_IN_EVENT].join(", "),
            names.len() - NAMES_IN_EVENT
        ),
    }
}

#[cfg(test)]
mod tests {
    use crate::world::World;
    use insta::assert_snapshot;

    fn plan(fixture: &str) -> String {
        let world = World::read(fixture);
        world.print(&world.plan(&super::CONTROLLER, "replicasets.apps default/web"))
    }

    #[test]
    fn missing_pods_are_created() {
        assert_snapshot!(plan("replicaset web 2"), @r"
            create pod web-g54v4
            create pod web-hlxjc
            event SuccessfulCreate: Created pods: web-g54v4, web-hlxjc
            status replicaset web {conditions:null,observedGeneration:1,replicas:0,terminatingReplicas:0}
            because 0 of 2 pods are available
        ");
    }

    #[test]
    fn a_failed_pod_is_replaced() {
        assert_snapshot!(plan("replicaset web 3 | pod web-a web ready | pod web-b web ready | pod web-c web failed"), @r"
            create pod web-g54v4
            event SuccessfulCreate: Created pod: web-g54v4
            status replicaset web {availableReplicas:2,conditions:null,fullyLabeledReplicas:2,observedGeneration:1,readyReplicas:2,replicas:2,terminatingReplicas:0}
            because 2 of 3 pods are available
        ");
    }

    #[test]
    fn a_leaving_pod_is_replaced_at_once() {
        assert_snapshot!(plan("replicaset web 1 | pod web-a web ready leaving"), @r"
            create pod web-g54v4
            event SuccessfulCreate: Created pod: web-g54v4
            status replicaset web {conditions:null,observedGeneration:1,replicas:0,terminatingReplicas:1}
            because 0 of 1 pods are available
        ");
    }

    #[test]
    fn surplus_goes_unready_first() {
        assert_snapshot!(
            plan("replicaset web 1 | pod web-a web ready on=n1 | pod web-b web on=n2 | pod web-c web"), @r"
            delete pod web-c
            delete pod web-b
            event SuccessfulDelete: Deleted pods: web-c, web-b
            status replicaset web {availableReplicas:1,conditions:null,fullyLabeledReplicas:3,observedGeneration:1,readyReplicas:1,replicas:3,terminatingReplicas:0}
        ");
    }

    #[test]
    fn of_equal_pods_the_one_with_company_goes() {
        assert_snapshot!(
            plan("replicaset web 2 | pod web-a web ready on=n1 | pod web-b web ready on=n2 | pod web-c web ready on=n2"),
            @r"
            delete pod web-b
            event SuccessfulDelete: Deleted pod: web-b
            status replicaset web {availableReplicas:3,conditions:null,fullyLabeledReplicas:3,observedGeneration:1,readyReplicas:3,replicas:3,terminatingReplicas:0}
        ");
    }

    #[test]
    fn orphans_are_adopted_and_strangers_let_go() {
        assert_snapshot!(plan("replicaset web 1 | pod stray - ready app=web | pod web-a web ready app=other"), @r"
            patch pod stray {metadata:{ownerReferences:[{apiVersion:apps/v1,blockOwnerDeletion:true,controller:true,kind:ReplicaSet,name:web,uid:u2}]}}
            patch pod web-a {metadata:{ownerReferences:[]}}
            status replicaset web {availableReplicas:1,conditions:null,fullyLabeledReplicas:1,observedGeneration:1,readyReplicas:1,replicas:1,terminatingReplicas:0}
        ");
    }

    #[test]
    fn a_pod_to_be_replaced_stays_until_another_is_available() {
        let world = "replicaset web 2 | pod web-a web ready | pod web-b web ready replace";
        assert_snapshot!(plan(world), @r"
            create pod web-g54v4
            event SuccessfulCreate: Created pod: web-g54v4
            status replicaset web {availableReplicas:2,conditions:null,fullyLabeledReplicas:2,observedGeneration:1,readyReplicas:2,replicas:2,terminatingReplicas:0}
        ");
        assert_snapshot!(plan(&format!("{world} | pod web-c web")), @r"
            status replicaset web {availableReplicas:2,conditions:null,fullyLabeledReplicas:3,observedGeneration:1,readyReplicas:2,replicas:3,terminatingReplicas:0}
        ");
        assert_snapshot!(plan(&format!("{world} | pod web-c web ready")), @r"
            delete pod web-b
            status replicaset web {availableReplicas:3,conditions:null,fullyLabeledReplicas:3,observedGeneration:1,readyReplicas:3,replicas:3,terminatingReplicas:0}
        ");
    }

    #[test]
    fn a_pod_to_be_replaced_that_serves_nobody_goes_at_once() {
        assert_snapshot!(plan("replicaset web 2 | pod web-a web ready | pod web-b web replace | pod web-c web"), @r"
            delete pod web-b
            status replicaset web {availableReplicas:1,conditions:null,fullyLabeledReplicas:3,observedGeneration:1,readyReplicas:1,replicas:3,terminatingReplicas:0}
            because 1 of 2 pods are available
        ");
    }

    #[test]
    fn a_set_at_rest_changes_nothing() {
        let mut world = World::read("replicaset web 2 | pod web-a web ready | pod web-b web ready");
        world.settle();
        assert_eq!(world.print(&world.plan(&super::CONTROLLER, "replicasets.apps default/web")), "");
    }
}
