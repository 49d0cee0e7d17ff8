//! StatefulSets.

use copepod_api::{
    Scope,
    field::{Errors, Path},
};
use k8s_openapi::api::{
    apps::v1::{StatefulSet, StatefulSetSpec},
    core::v1::{PersistentVolumeClaimVolumeSource, PodTemplateSpec, Volume},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{pods_cells, validate_pods};
use crate::{
    Row,
    core::{claim_spec, pod::template_defaults},
    json::{default, each, number, object, text},
    row::{self, AGE, Column, Hooks, NAME, SCALE, STATUS, column, in_all, kind, wide},
    rules::{self, Part, at},
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Ready", "string", "How many of its pods are ready."),
    AGE,
    wide("Containers", "The names of the containers of a pod."),
    wide("Images", "Their images."),
];

/// What of the spec may change; all else names pods and volumes that exist.
const CHANGEABLE: &[&str] = &[
    "minReadySeconds",
    "ordinals",
    "persistentVolumeClaimRetentionPolicy",
    "replicas",
    "revisionHistoryLimit",
    "template",
    "updateStrategy",
];

pub fn row() -> Row {
    Row::new(
        in_all(kind::<StatefulSet>("statefulsets", "statefulset", &["sts"], Scope::Namespaced, &[SCALE, STATUS])),
        Hooks {
            default: defaults,
            validate: |object, errors| {
                let set = StatefulSet::deserialize(object).map_err(|error| error.to_string())?;
                let path = Path::root("spec");
                match &set.spec {
                    Some(spec) => validate_pods(&spec.selector, Some(&template_with_claims(spec)), &path, errors),
                    None => errors.required(path, ""),
                }
                validate(object, errors);
                Ok(())
            },
            validate_update: |new, old, errors| {
                let fixed = |set: &Value| {
                    let mut spec = at(set, "spec").clone();
                    if let Some(fields) = spec.as_object_mut() {
                        fields.retain(|field, _| !CHANGEABLE.contains(&field.as_str()));
                    }
                    spec
                };
                if fixed(new) != fixed(old) {
                    let why = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                        'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                        'minReadySeconds' are forbidden";
                    errors.forbidden("spec", why);
                }
            },
            columns: COLUMNS,
            cells: |object, now| {
                let set = object.value();
                let count = |pointer: &str| number(set, pointer).unwrap_or(0);
                let ready = format!("{}/{}", count("/status/readyReplicas"), count("/spec/replicas"));
                let [names, images, _] = pods_cells(set);
                vec![row::name(object), json!(ready), row::age(object, now), names, images]
            },
            generation: true,
            scale: true,
            ..Hooks::NONE
        },
    )
}

fn defaults(set: &mut Value) {
    let Some(spec) = object(set, "spec") else { return };
    default(spec, "replicas", 1);
    default(spec, "podManagementPolicy", "OrderedReady");
    default(spec, "revisionHistoryLimit", 10);
    if let Some(policy) = object(spec, "persistentVolumeClaimRetentionPolicy") {
        default(policy, "whenDeleted", "Retain");
        default(policy, "whenScaled", "Retain");
    }
    if let Some(strategy) = object(spec, "updateStrategy") {
        // Who states the type alone gets no partition: then pods whose turn has not come keep their revision when they
        // are made anew in the middle of a rollout.
        let is_whole = text(strategy, "/type").is_none() || strategy.get("rollingUpdate").is_some();
        default(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate"
            && is_whole
            && let Some(rolling) = object(strategy, "rollingUpdate")
        {
            default(rolling, "partition", 0);
        }
    }
    for claim in each(spec, "volumeClaimTemplates") {
        default(claim, "apiVersion", "v1");
        default(claim, "kind", "PersistentVolumeClaim");
        if let Some(spec) = object(claim, "spec") {
            default(spec, "volumeMode", "Filesystem");
        }
        if let Some(status) = object(claim, "status") {
            default(status, "phase", "Pending");
        }
    }
    template_defaults(spec);
    if let Some(status) = set.get_mut("status") {
        default(status, "replicas", 0);
        default(status, "availableReplicas", 0);
    }
}

fn validate(set: &Value, errors: &mut Errors) {
    let spec = Part { value: at(set, "spec"), path: "spec" };
    for field in [
        "replicas",
        "minReadySeconds",
        "revisionHistoryLimit",
        "ordinals.start",
        "updateStrategy.rollingUpdate.partition",
    ] {
        spec.at_least(field, 0, errors);
    }
    spec.one_of("podManagementPolicy", &["OrderedReady", "Parallel"], errors);
    spec.one_of("updateStrategy.type", &["OnDelete", "RollingUpdate"], errors);
    if rules::text_at(spec.value, "updateStrategy.type") == "OnDelete" && spec.is_set("updateStrategy.rollingUpdate") {
        errors.invalid("spec.updateStrategy.rollingUpdate", "", "only allowed for updateStrategy 'RollingUpdate'");
    }
    max_unavailable(&spec, errors);
    for field in ["whenDeleted", "whenScaled"] {
        spec.one_of(&format!("persistentVolumeClaimRetentionPolicy.{field}"), &["Delete", "Retain"], errors);
    }
    for (path, claim) in rules::each(set, "spec.volumeClaimTemplates") {
        let path = format!("{path}.spec");
        claim_spec(&Part { value: at(claim, "spec"), path: &path }, errors);
    }
}

/// The template as its pods will be: each has its claims among its volumes, and its containers may mount them.
fn template_with_claims(spec: &StatefulSetSpec) -> PodTemplateSpec {
    let mut template = spec.template.clone();
    if let Some(pod) = &mut template.spec {
        let claims = spec.volume_claim_templates.iter().flatten().filter_map(|claim| claim.metadata.name.clone());
        let volumes = pod.volumes.get_or_insert_default();
        for name in claims {
            if volumes.iter().all(|volume| volume.name != name) {
                let claim = PersistentVolumeClaimVolumeSource { claim_name: name.clone(), ..Default::default() };
                volumes.push(Volume { name, persistent_volume_claim: Some(claim), ..Volume::default() });
            }
        }
    }
    template
}

/// At least one pod, and at most all of them: with less no rollout would ever move.
fn max_unavailable(spec: &Part<'_>, errors: &mut Errors) {
    let field = "updateStrategy.rollingUpdate.maxUnavailable";
    let (value, path) = (at(spec.value, field), spec.path_of(field));
    match value.as_str() {
        None if value.as_i64() == Some(0) => errors.invalid(path, value, "cannot be 0"),
        None => spec.at_least(field, 0, errors),
        Some(text) => {
            let digits = text.strip_suffix('%').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
            match digits.and_then(|digits| digits.parse::<u64>().ok()) {
                None => errors.invalid(
                    path,
                    value,
                    "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%')",
                ),
                Some(0) => errors.invalid(path, value, "cannot be 0"),
                Some(1..=100) => {}
                Some(_) => errors.invalid(path, value, "must not be greater than 100%"),
            }
        }
    }
}
