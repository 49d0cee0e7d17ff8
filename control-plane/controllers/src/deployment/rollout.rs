//! A draft of a deployment's sets as they should be.

use std::{cmp::Reverse, collections::BTreeMap};

use copepod_api::{
    Action, Key, Of, Plan, Request, Timestamp, User,
    k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet},
    resource,
};
use copepod_store::View;
use serde_json::{Value, json};

use super::{
    revision,
    sizes::{self, Sizes},
};
use crate::{owned, pods, write};

/// One set, as it is and as it should be.
pub struct Set {
    /// Absent for a set that this plan creates.
    pub live: Option<Of<ReplicaSet>>,
    pub name: String,
    pub replicas: i32,
    pub annotations: BTreeMap<String, String>,
    min_ready_seconds: i32,
    /// The object to create, without replicas and annotations.
    draft: Value,
    doomed: bool,
}

pub struct Rollout<'a> {
    pub deployment: &'a Of<Deployment>,
    pub spec: DeploymentSpec,
    pub sizes: Sizes,
    /// Oldest first.
    sets: Vec<Set>,
    /// The set of the present template among `sets`.
    new: Option<usize>,
    /// The number the deployment shall carry.
    revision: Option<String>,
    pub collisions: Option<i32>,
}

impl Set {
    fn read(live: &Of<ReplicaSet>) -> Set {
        let spec = live.spec.as_ref();
        Set {
            name: live.key().name().to_owned(),
            replicas: spec.and_then(|spec| spec.replicas).unwrap_or(1),
            annotations: live.meta().annotations.to_map(),
            min_ready_seconds: spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0),
            live: Some(live.clone()),
            draft: Value::Null,
            doomed: false,
        }
    }

    /// The number of pods it has, by its own account.
    pub fn actual(&self) -> i32 {
        self.status().map_or(0, |status| status.replicas)
    }

    pub fn ready(&self) -> i32 {
        self.status().and_then(|status| status.ready_replicas).unwrap_or(0)
    }

    pub fn available(&self) -> i32 {
        self.status().and_then(|status| status.available_replicas).unwrap_or(0)
    }

    pub fn terminating(&self) -> i32 {
        self.status().and_then(|status| status.terminating_replicas).unwrap_or(0)
    }

    fn status(&self) -> Option<&copepod_api::k8s_openapi::api::apps::v1::ReplicaSetStatus> {
        self.live.as_ref().and_then(|live| live.status.as_ref())
    }

    /// The available pods it will still have at its drafted size. It may have promised some of them away already.
    fn lasting(&self) -> i32 {
        self.available().min(self.replicas)
    }

    /// Those of its pods that answer requests, available or not yet. A clock that was set back makes ready pods wait for their
    /// `minReadySeconds` once more, and they are not broken for that.
    fn serving(&self) -> i32 {
        self.ready().max(self.available()).min(self.replicas)
    }

    fn created(&self) -> Timestamp {
        self.live.as_ref().and_then(|live| live.meta().creation_timestamp).unwrap_or(Timestamp::MAX)
    }

    fn annotated_number(&self, annotation: &str) -> Option<i32> {
        self.annotations.get(annotation).and_then(|number| number.parse().ok())
    }
}

impl<'a> Rollout<'a> {
    pub fn read(_view: &View, deployment: &'a Of<Deployment>, own: &[Of<ReplicaSet>]) -> Rollout<'a> {
        let spec = deployment.spec.clone().unwrap_or_default();
        let mut sets: Vec<Set> = own.iter().map(Set::read).collect();
        sets.sort_by_cached_key(|set| (set.created(), set.name.clone()));
        let new = sets.iter().position(|set| {
            let template =
                set.live.as_ref().and_then(|live| live.spec.as_ref()).and_then(|spec| spec.template.as_ref());
            template.is_some_and(|template| revision::is_same_template(template, &spec.template))
        });
        Rollout {
            deployment,
            sizes: Sizes::of(&spec),
            spec,
            sets,
            new,
            revision: None,
            collisions: deployment.status.as_ref().and_then(|status| status.collision_count),
        }
    }

    pub fn new_set(&self) -> Option<&Set> {
        self.new.map(|new| &self.sets[new])
    }

    pub fn sets(&self) -> &[Set] {
        &self.sets
    }

    pub fn created_new_set(&self) -> bool {
        self.new_set().is_some_and(|set| set.live.is_none())
    }

    pub fn is_paused(&self) -> bool {
        self.spec.paused == Some(true)
    }

    pub fn is_recreate(&self) -> bool {
        sizes::is_recreate(&self.spec)
    }

    /// Somebody changed `spec.replicas` since the sets were sized.
    pub fn was_resized(&self) -> bool {
        self.sets.iter().filter(|set| set.replicas > 0).any(|set| {
            set.annotated_number(revision::DESIRED_REPLICAS).is_some_and(|desired| desired != self.sizes.replicas)
        })
    }

    /// The rollout is over: every pod is new and available.
    pub fn is_complete(&self) -> bool {
        let observed = self.deployment.status.as_ref().and_then(|status| status.observed_generation).unwrap_or(0);
        let all: i32 = self.sets.iter().map(Set::actual).sum();
        let available: i32 = self.sets.iter().map(Set::available).sum();
        self.new_set().map_or(0, Set::actual) == self.sizes.replicas
            && all == self.sizes.replicas
            && available == self.sizes.replicas
            && observed >= self.deployment.meta().generation
    }

    fn old(&self) -> impl Iterator<Item = usize> + use<> {
        let new = self.new;
        (0..self.sets.len()).filter(move |index| Some(*index) != new)
    }

    fn total(&self) -> i32 {
        self.sets.iter().map(|set| set.replicas).sum()
    }

    /// Gives the set of the present template its number, where there is such a set.
    pub fn note_revision(&mut self) {
        let Some(new) = self.new else { return };
        let newest_old = self.old().map(|old| revision::number(&self.sets[old].annotations)).max().unwrap_or(0);
        revision::annotate(&mut self.sets[new].annotations, &self.deployment.meta().annotations, newest_old + 1);
        self.sets[new].min_ready_seconds = self.spec.min_ready_seconds.unwrap_or(0);
        self.revision = self.sets[new].annotations.get(revision::REVISION).cloned();
    }

    /// Drafts the set of the present template where there is none.
    pub fn ensure_new_set(&mut self, view: &View) {
        if self.new.is_none() {
            let set = self.draft_new_set(view);
            self.sets.push(set);
            self.new = Some(self.sets.len() - 1);
            let new = self.sets.len() - 1;
            self.stamp(new);
        }
        self.note_revision();
    }

    fn draft_new_set(&mut self, view: &View) -> Set {
        let namespace = self.deployment.key().namespace();
        let spec = &self.deployment.object().value()["spec"];
        let mut template = spec["template"].clone();
        // A set of that name with another template is a collision; the count of collisions goes into the name.
        let (hash, name) = loop {
            let hash = revision::template_hash(&template, self.collisions.unwrap_or(0));
            let name = format!("{}-{hash}", self.deployment.key().name());
            if view.object(&Key::new(resource::REPLICA_SETS, namespace, name.as_str())).is_none() {
                break (hash, name);
            }
            self.collisions = Some(self.collisions.unwrap_or(0) + 1);
        };
        template["metadata"]["labels"][revision::TEMPLATE_HASH] = json!(hash);
        let mut selector = spec["selector"].clone();
        selector["matchLabels"][revision::TEMPLATE_HASH] = json!(hash);
        let draft = json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {
                "name": name, "namespace": namespace, "labels": template["metadata"]["labels"],
                "ownerReferences": [owned::reference(self.deployment)],
            },
            "spec": {"selector": selector, "template": template},
        });
        Set { live: None, name, replicas: 0, annotations: BTreeMap::new(), min_ready_seconds: 0, draft, doomed: false }
    }

    /// Writes down on a set for which size of the deployment it was sized.
    fn stamp(&mut self, index: usize) {
        let annotations = &mut self.sets[index].annotations;
        annotations.insert(revision::DESIRED_REPLICAS.to_owned(), self.sizes.replicas.to_string());
        annotations.insert(revision::MAX_REPLICAS.to_owned(), self.sizes.ceiling().to_string());
    }

    fn resize(&mut self, index: usize, replicas: i32) {
        if self.sets[index].replicas != replicas {
            self.sets[index].replicas = replicas;
            self.stamp(index);
        }
    }

    /// As many new pods as there is room for.
    pub fn grow_new(&mut self) {
        let Some(new) = self.new else { return };
        let present = self.sets[new].replicas;
        let room = if self.is_recreate() { i32::MAX } else { self.sizes.ceiling() - self.total() };
        let wanted = self.sizes.replicas;
        if present > wanted {
            self.resize(new, wanted);
        } else if room > 0 {
            self.resize(new, present + room.min(wanted - present));
        }
    }

    /// As few old pods as the available new ones allow; those that serve nobody go first.
    pub fn shrink_old(&mut self) {
        let Some(new) = self.new else { return };
        let new_unavailable = self.sets[new].replicas - self.sets[new].lasting();
        let mut spare = self.total() - self.sizes.floor() - new_unavailable;
        for old in self.old() {
            let unhealthy = self.sets[old].replicas - self.sets[old].serving();
            let gone = unhealthy.min(spare).max(0);
            self.resize(old, self.sets[old].replicas - gone);
            spare -= gone;
        }
        if spare <= 0 {
            return;
        }
        let available: i32 = self.sets.iter().map(Set::lasting).sum();
        let mut spare = (available - self.sizes.floor()).min(spare);
        for old in self.old() {
            let gone = self.sets[old].replicas.min(spare).max(0);
            self.resize(old, self.sets[old].replicas - gone);
            spare -= gone;
        }
    }

    /// `Recreate`: first everything old ends. True while something old is left.
    pub fn stop_old_pods(&mut self, view: &View) -> bool {
        self.note_revision();
        let mut stopping = false;
        for old in self.old() {
            stopping |= self.sets[old].replicas > 0;
            self.resize(old, 0);
            let uid = self.sets[old].live.as_ref().map_or("", |live| live.uid());
            stopping |=
                view.dependents(uid).any(|object| object.key.resource == resource::PODS && !pods::has_ended(object));
        }
        stopping
    }

    /// `spec.replicas` changed, or changes are to wait: every set gets its share of the change.
    pub fn scale_in_proportion(&mut self) {
        let active: Vec<usize> = (0..self.sets.len()).filter(|set| self.sets[*set].replicas > 0).collect();
        let only = match active.as_slice() {
            [] => self.new.or(self.sets.len().checked_sub(1)),
            [only] => Some(*only),
            _ => None,
        };
        if let Some(only) = only {
            self.resize(only, self.sizes.replicas);
            self.stamp(only);
        } else if self.is_saturated() {
            for old in self.old() {
                self.resize(old, 0);
            }
        } else if !self.is_recreate() {
            self.share_out(active);
        }
    }

    fn is_saturated(&self) -> bool {
        self.new_set().is_some_and(|new| {
            new.replicas == self.sizes.replicas
                && new.annotated_number(revision::DESIRED_REPLICAS) == Some(self.sizes.replicas)
                && new.available() == self.sizes.replicas
        })
    }

    fn share_out(&mut self, mut active: Vec<usize>) {
        let allowed = if self.sizes.replicas > 0 { self.sizes.ceiling() } else { 0 };
        let change = allowed - self.total();
        // The largest first: it takes what rounding leaves over. Among equals growth goes to the newest, and shrinking
        // begins with the oldest.
        active.sort_by_key(|set| {
            let age = if change > 0 { Reverse(*set as i64) } else { Reverse(-(*set as i64)) };
            (Reverse(self.sets[*set].replicas), age)
        });
        let mut done = 0;
        let mut drafted = Vec::new();
        for set in active {
            let share = if change == 0 { 0 } else { self.share(set, change - done) };
            done += share;
            drafted.push((set, self.sets[set].replicas + share));
        }
        if let Some((_, first)) = drafted.first_mut() {
            *first = (*first + change - done).max(0);
        }
        for (set, replicas) in drafted {
            self.resize(set, replicas);
            self.stamp(set);
        }
    }

    /// A set's share of a change, by its part of all pods; never beyond what is `left` of the change.
    fn share(&self, set: usize, left: i32) -> i32 {
        let set = &self.sets[set];
        if left == 0 || set.replicas == 0 {
            return 0;
        }
        let share = if self.sizes.replicas == 0 {
            -set.replicas
        } else {
            let status = self.deployment.status.as_ref().and_then(|status| status.replicas);
            let before = set.annotated_number(revision::MAX_REPLICAS).filter(|max| *max > 0).or(status).unwrap_or(0);
            if before <= 0 {
                return 0;
            }
            let scaled = i64::from(set.replicas) * i64::from(self.sizes.ceiling());
            let before = i64::from(before);
            // To the nearest whole pod.
            let scaled = (2 * scaled + before) / (2 * before);
            i32::try_from(scaled - i64::from(set.replicas)).unwrap_or(0)
        };
        if left > 0 { share.clamp(0, left) } else { share.clamp(left, 0) }
    }

    /// Deletes the oldest empty sets beyond `revisionHistoryLimit`.
    pub fn forget_old_sets(&mut self) {
        let limit = self.spec.revision_history_limit.unwrap_or(10).max(0);
        let mut old: Vec<usize> = self.old().collect();
        old.retain(|set| self.sets[*set].live.as_ref().is_some_and(|live| !live.meta().is_leaving()));
        old.sort_by_key(|set| (revision::number(&self.sets[*set].annotations), *set));
        let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
        for set in old.into_iter().take(surplus) {
            let set = &mut self.sets[set];
            let unsettled = set.live.as_ref().is_none_or(|live| {
                live.status.as_ref().and_then(|status| status.observed_generation).unwrap_or(0) < live.meta().generation
            });
            set.doomed = set.replicas == 0 && set.actual() == 0 && !unsettled;
        }
    }

    /// The requests that make the sets what the draft says.
    pub fn write(&self, plan: &mut Plan, view: &View, user: &User, now: Timestamp) {
        for set in &self.sets {
            let before = set.live.as_ref().map_or(0, |live| Set::read(live).replicas);
            match &set.live {
                None => {
                    let mut object = set.draft.clone();
                    object["metadata"]["annotations"] = json!(set.annotations);
                    object["spec"]["replicas"] = json!(set.replicas);
                    object["spec"]["minReadySeconds"] = json!(set.min_ready_seconds);
                    let namespace = self.deployment.key().namespace();
                    let create = Action::Create { object };
                    plan.push(Request::of::<ReplicaSet>(user, namespace, &set.name, "", create));
                }
                Some(live) if set.doomed => {
                    plan.push(write::delete_unchanged(user, live.object()));
                    continue;
                }
                Some(live) => {
                    if let Some(patch) = difference(&Set::read(live), set) {
                        plan.push(write::patch(user, live.object(), patch));
                    }
                }
            }
            if set.replicas != before {
                let how = if set.replicas > before { "up" } else { "down" };
                let message = format!("Scaled {how} replica set {} from {before} to {}", set.name, set.replicas);
                plan.because(message.clone());
                let news = write::News { kind: "Normal", reason: "ScalingReplicaSet", message };
                write::announce(plan, view, user, self.deployment.object(), news, now);
            }
        }
        let known = self.deployment.meta().annotations.get(revision::REVISION);
        if let Some(revision) = self.revision.as_ref().filter(|revision| Some(revision.as_str()) != known) {
            let annotation = json!({"metadata": {"annotations": {revision::REVISION: revision}}});
            plan.push(write::patch(user, self.deployment.object(), annotation));
        }
    }
}

/// What to change about a set, as a merge patch.
fn difference(is: &Set, should: &Set) -> Option<Value> {
    let mut patch = json!({});
    if is.replicas != should.replicas {
        patch["spec"]["replicas"] = json!(should.replicas);
    }
    if is.min_ready_seconds != should.min_ready_seconds {
        patch["spec"]["minReadySeconds"] = json!(should.min_ready_seconds);
    }
    for (key, value) in &should.annotations {
        if is.annotations.get(key) != Some(value) {
            patch["metadata"]["annotations"][key] = json!(value);
        }
    }
    (patch != json!({})).then_some(patch)
}
