//! ServiceAccount: who a pod is, and how it learns that: a volume with a token, the authority's certificate and the
//! namespace, in the place where every client library looks.

use copepod_api::{
    StatusResult,
    resource::{PODS, SERVICE_ACCOUNTS},
};
use serde_json::{Value, json};

use super::{NONE, Plugin, Write};
use crate::{
    json::{default, each, items, object, set, text},
    pipeline::{World, random_suffix},
};

pub const PLUGIN: Plugin = Plugin { complete, judge, ..NONE };

const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME: &str = "kube-api-access-";
/// An hour and a little: clients that ask for exactly an hour are told apart from pods, as everywhere.
const TOKEN_SECONDS: i64 = 3607;
const MODE: i64 = 0o644;
const MIRROR: &str = "kubernetes.io/config.mirror";

fn is_mirror(pod: &Value) -> bool {
    pod.pointer("/metadata/annotations").is_some_and(|annotations| annotations.get(MIRROR).is_some())
}

fn complete(world: &mut World<'_>, write: &Write<'_>, pod: &mut Value) -> StatusResult<()> {
    if !write.is_new(&PODS) || is_mirror(pod) {
        return Ok(());
    }
    let namespace = write.namespace();
    let name = text(pod, "/spec/serviceAccountName").unwrap_or("default").to_owned();
    let Some(account) = world.get(&SERVICE_ACCOUNTS, namespace, &name).cloned() else {
        let why = format!("error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found");
        return Err(write.forbidden(pod, why));
    };
    let Some(spec) = object(pod, "spec") else { return Ok(()) };
    set(spec, "serviceAccountName", &*name);
    set(spec, "serviceAccount", name);
    if items(spec, "/imagePullSecrets").is_empty() {
        let secrets = items(account.value(), "/imagePullSecrets");
        if !secrets.is_empty() {
            set(spec, "imagePullSecrets", secrets.to_vec());
        }
    }
    let automount = |value: &Value| value.get("automountServiceAccountToken").and_then(Value::as_bool);
    if automount(spec).or_else(|| automount(account.value())).unwrap_or(true) {
        show_token(world, spec);
    }
    Ok(())
}

fn show_token(world: &mut World<'_>, spec: &mut Value) {
    // A pod that was copied from another brings that one's volume.
    let mut names = items(spec, "/volumes").iter().filter_map(|volume| text(volume, "/name"));
    let brought = names.rfind(|name| name.starts_with(VOLUME)).map(str::to_owned);
    let name = brought.clone().unwrap_or_else(|| format!("{VOLUME}{}", random_suffix(world)));
    let mut is_wanted = false;
    for list in ["initContainers", "containers"] {
        for container in each(spec, list) {
            if items(container, "/volumeMounts").iter().any(|mount| text(mount, "/mountPath") == Some(MOUNT)) {
                continue;
            }
            default(container, "volumeMounts", json!([]));
            if let Some(mounts) = container.get_mut("volumeMounts").and_then(Value::as_array_mut) {
                mounts.push(json!({"name": name, "readOnly": true, "mountPath": MOUNT}));
                is_wanted = true;
            }
        }
    }
    if !is_wanted || brought.is_some() {
        return;
    }
    default(spec, "volumes", json!([]));
    if let Some(volumes) = spec.get_mut("volumes").and_then(Value::as_array_mut) {
        let namespace = json!({"apiVersion": "v1", "fieldPath": "metadata.namespace"});
        volumes.push(json!({"name": name, "projected": {"defaultMode": MODE, "sources": [
            {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": namespace}]}},
        ]}}));
    }
}

/// What a node says that it runs is nobody.
fn judge(_: &mut World<'_>, write: &Write<'_>, pod: &Value) -> StatusResult<()> {
    if !write.is_new(&PODS) || !is_mirror(pod) {
        return Ok(());
    }
    if text(pod, "/spec/serviceAccountName").is_some() {
        return Err(write.forbidden(pod, "a mirror pod may not reference service accounts"));
    }
    let is_secret = |volume: &Value| volume.get("secret").is_some();
    let names_token = |volume: &Value| {
        items(volume, "/projected/sources").iter().any(|source| source.get("serviceAccountToken").is_some())
    };
    let volumes = items(pod, "/spec/volumes");
    if volumes.iter().any(is_secret) {
        return Err(write.forbidden(pod, "a mirror pod may not reference secrets"));
    }
    if volumes.iter().any(names_token) {
        return Err(write.forbidden(pod, "a mirror pod may not use ServiceAccountToken volume projections"));
    }
    Ok(())
}
