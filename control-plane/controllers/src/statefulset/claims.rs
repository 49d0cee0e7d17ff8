//! What the pods of a set ask of storage: a claim for each template and ordinal, which the next pod of that ordinal finds
//! again.
//!
//! Claims outlive their pods, and the set too, unless `persistentVolumeClaimRetentionPolicy` says otherwise. Then they
//! have an owner, and whoever collects garbage takes them: the set for `whenDeleted`; for `whenScaled` the pod, from when
//! its ordinal is to go (KEP-1847 has the table).

use copepod_api::{
    Action, Key, Object, Of, Request, Typed,
    k8s_openapi::api::{apps::v1::StatefulSet, core::v1::PersistentVolumeClaim},
};
use serde_json::{Value, json};

use super::{Work, identity};
use crate::{owned, write};

fn templates(set: &Of<StatefulSet>) -> impl Iterator<Item = (&str, &Value)> {
    let templates = set.object().value()["spec"]["volumeClaimTemplates"].as_array().into_iter().flatten();
    templates.filter_map(|template| Some((template["metadata"]["name"].as_str()?, template)))
}

fn name(template: &str, set: &str, ordinal: i64) -> String {
    format!("{template}-{}", identity::name(set, ordinal))
}

fn key(set: &Of<StatefulSet>, template: &str, ordinal: i64) -> Key {
    let name = name(template, set.key().name(), ordinal);
    Key::new(PersistentVolumeClaim::resource(), set.key().name.namespace.clone(), name)
}

/// Whether a claim of this name would be of the set.
pub fn is_of(set: &Of<StatefulSet>, claim: &str) -> bool {
    let ordinal =
        |template: &str| identity::ordinal(set.key().name(), claim.strip_prefix(template)?.strip_prefix('-')?);
    templates(set).any(|(template, _)| ordinal(template).is_some())
}

/// The volumes of a pod: its claims, and what else its template has. A claim takes the place of a volume of its name.
pub fn volumes(set: &Of<StatefulSet>, ordinal: i64, others: &[Value]) -> Vec<Value> {
    let mut volumes: Vec<Value> = templates(set)
        .map(|(template, _)| {
            let claim = name(template, set.key().name(), ordinal);
            json!({"name": template, "persistentVolumeClaim": {"claimName": claim}})
        })
        .collect();
    let is_claim = |volume: &&Value| templates(set).any(|(template, _)| volume["name"] == template);
    volumes.extend(others.iter().filter(|volume| !is_claim(volume)).cloned());
    volumes
}

/// Why a pod cannot be made yet: a claim of its is on its way out, and the new pod would lose what it is given.
pub fn obstacle(work: &Work<'_>, ordinal: i64) -> Option<String> {
    let pod = identity::name(work.set.key().name(), ordinal);
    templates(work.set).find_map(|(template, _)| {
        let claim = work.view.object(&key(work.set, template, ordinal))?;
        let was_pods = claim.meta.owner_references().iter().any(|owner| owner.kind == "Pod" && owner.name == pod);
        let is_going = claim.meta.is_leaving() || was_pods;
        is_going.then(|| format!("claim {} of the former {pod} has to go first", claim.key.name()))
    })
}

/// Makes the claims that a pod lacks.
pub fn missing(work: &Work<'_>, ordinal: i64) -> Vec<Request> {
    let set = work.set;
    let absent = templates(set).filter(|(template, _)| work.view.object(&key(set, template, ordinal)).is_none());
    let create = |(template, value): (&str, &Value)| {
        let name = name(template, set.key().name(), ordinal);
        let mut metadata = json!({"name": name, "namespace": set.key().namespace()});
        for field in ["labels", "annotations"] {
            if !value["metadata"][field].is_null() {
                metadata[field] = value["metadata"][field].clone();
            }
        }
        for (label, value) in work.spec.selector.match_labels.iter().flatten() {
            metadata["labels"][label] = json!(value);
        }
        if Policy::of(work).goes_with_set(false) {
            metadata["ownerReferences"] = json!([owned::reference(set)]);
        }
        let object = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": value["spec"],
        });
        let create = Action::Create { object };
        Request::of::<PersistentVolumeClaim>(work.user, set.key().namespace(), &name, "", create)
    };
    absent.map(create).collect()
}

/// Gives the claims of a pod the owners that the policy wants. `is_surplus`: the pod's ordinal is to go.
pub fn retain(work: &Work<'_>, ordinal: i64, pod: &Object, is_surplus: bool) -> Vec<Request> {
    let policy = Policy::of(work);
    let claims = templates(work.set).filter_map(|(template, _)| work.view.object(&key(work.set, template, ordinal)));
    let patch = |claim: &std::sync::Arc<Object>| {
        let (set_uid, pod_uid) = (work.set.uid(), &pod.meta.uid);
        if claim.meta.is_leaving() || is_somebodys(claim, work.set, pod) {
            return None;
        }
        let has = |uid: &str| claim.meta.owner_references().iter().any(|owner| owner.uid == uid);
        let (of_set, of_pod) = (policy.goes_with_set(is_surplus), policy.goes_with_pod(is_surplus));
        if has(set_uid) == of_set && has(pod_uid) == of_pod {
            return None;
        }
        let mut owners = owned::references(claim);
        owners.retain(|owner| owner["uid"] != set_uid && owner["uid"] != pod_uid.as_str());
        owners.extend(of_set.then(|| owned::reference(work.set)));
        owners.extend(of_pod.then(|| {
            json!({
                "apiVersion": "v1", "kind": "Pod", "name": pod.key.name(), "uid": pod_uid,
                "controller": true, "blockOwnerDeletion": true,
            })
        }));
        Some(write::patch(work.user, claim, json!({"metadata": {"ownerReferences": owners}})))
    };
    claims.filter_map(patch).collect()
}

/// Somebody else manages the claim, or it was a former set's or pod's of the same name. Nobody here knows better.
fn is_somebodys(claim: &Object, set: &Of<StatefulSet>, pod: &Object) -> bool {
    claim.meta.owner_references().iter().any(|owner| {
        let is_known = owner.uid == set.uid() || owner.uid == pod.meta.uid;
        let is_former = owner.kind == "StatefulSet" && owner.name == set.key().name()
            || owner.kind == "Pod" && owner.name == pod.key.name();
        !is_known && (owner.controller == Some(true) || is_former)
    })
}

/// When claims go: with the set, with the pod that is surplus.
struct Policy {
    when_deleted: bool,
    when_scaled: bool,
}

impl Policy {
    fn of(work: &Work<'_>) -> Policy {
        let policy = work.spec.persistent_volume_claim_retention_policy.as_ref();
        let is_delete = |word: Option<&String>| word.is_some_and(|word| word == "Delete");
        Policy {
            when_deleted: is_delete(policy.and_then(|policy| policy.when_deleted.as_ref())),
            when_scaled: is_delete(policy.and_then(|policy| policy.when_scaled.as_ref())),
        }
    }

    fn goes_with_set(&self, is_surplus: bool) -> bool {
        self.when_deleted && !self.goes_with_pod(is_surplus)
    }

    fn goes_with_pod(&self, is_surplus: bool) -> bool {
        self.when_scaled && is_surplus
    }
}
