//! Namespaces. One ends in two steps: it closes for new objects, and goes when the namespace controller has emptied it
//! and has taken its finalizer away through `/finalize`.

use copepod_api::{Action, Object, Reply, Request, Scope, Status, StatusResult, Subresource, User, names};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Row, json as fields,
    json::{items, text},
    pipeline::{World, create_object, store_update},
    row::{self, AGE, Column, Hooks, NAME, STATUS, column, field_text, kind},
};

/// What the controllers' own objects live in.
const PERMANENT: &[&str] = &["default", "kube-system", "kube-public"];

const FINALIZE: Subresource = Subresource { name: "finalize", kind: None, verbs: &["update"] };

const VERBS: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];

const COLUMNS: &[Column] = &[NAME, column("Status", "string", "Active or Terminating."), AGE];

pub fn row() -> Row {
    let kind = kind::<Namespace>("namespaces", "namespace", &["ns"], Scope::Cluster, &[FINALIZE, STATUS]);
    let hooks = Hooks {
        default,
        admit: |_, object| {
            if let Some(spec) = fields::object(object, "spec") {
                fields::set(spec, "finalizers", json!(["kubernetes"]));
            }
            fields::set(object, "status", json!({"phase": "Active"}));
            Ok(())
        },
        // Only `/finalize` lets go.
        admit_update: |_, object, old| {
            if let Some(spec) = fields::object(object, "spec") {
                fields::take_over(spec, "finalizers", old.value().get("spec").unwrap_or(&Value::Null));
            }
            Ok(())
        },
        validate: |object, _| Namespace::deserialize(object).map(|_| ()).map_err(|error| error.to_string()),
        created,
        admit_delete: |_, live| match PERMANENT.contains(&live.key.name()) {
            true => Err(Status::forbidden(&live.key.resource, live.key.name(), "this namespace may not be deleted")),
            false => Ok(()),
        },
        leaving: |object, _, _| {
            if let Some(status) = fields::object(object, "status") {
                fields::set(status, "phase", "Terminating");
            }
        },
        is_held: |object| !items(object, "/spec/finalizers").is_empty(),
        actions: &[("finalize", finalize)],
        fields: &[("status.phase", |object| field_text(object, "/status/phase"))],
        columns: COLUMNS,
        cells: |object, now| {
            let phase = text(object.value(), "/status/phase").unwrap_or_default();
            vec![row::name(object), json!(phase), row::age(object, now)]
        },
        name_rule: names::dns_label,
        ..Hooks::NONE
    };
    Row::new(kind, hooks).with_verbs(VERBS)
}

/// Selectors of namespaces by name need a label that is always there.
fn default(object: &mut Value) {
    let name = text(object, "/metadata/name").unwrap_or_default().to_owned();
    if let Some(labels) = fields::object(object, "metadata").and_then(|metadata| fields::object(metadata, "labels")) {
        fields::set(labels, "kubernetes.io/metadata.name", name);
    }
}

/// Every namespace has a service account for pods that name none.
fn created(world: &mut World<'_>, namespace: &Object) -> StatusResult<()> {
    let name = namespace.key.name();
    let Some(row) = crate::row(&copepod_api::resource::SERVICE_ACCOUNTS, "v1") else { return Ok(()) };
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name},
    });
    let user = User::system("system:serviceaccount-controller");
    let request = Request::of::<ServiceAccount>(&user, name, "default", "", Action::Create { object: account.clone() });
    create_object(world, row, &request, &account).map(|_| ())
}

/// Replaces `spec.finalizers`, and nothing else.
fn finalize(world: &mut World<'_>, row: &Row, request: &Request) -> StatusResult<Reply> {
    let Action::Update { object } = &request.action else {
        return Err(Status::method_not_allowed("namespaces/finalize allows update"));
    };
    let live = world.find(row, &request.target)?;
    if let Some(uid) = text(object, "/metadata/uid").filter(|uid| *uid != live.meta.uid) {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", live.meta.uid);
        return Err(Status::conflict(&live.key.resource, live.key.name(), why));
    }
    if text(object, "/metadata/resourceVersion").is_some_and(|revision| revision != live.revision.to_string()) {
        return Err(Status::changed_meanwhile(&live.key.resource, live.key.name()));
    }
    let mut new = live.value().clone();
    if let Some(spec) = fields::object(&mut new, "spec") {
        fields::take_over(spec, "finalizers", object.get("spec").unwrap_or(&Value::Null));
    }
    let stored = store_update(world, row, &live, &new)?;
    Ok(world.reply(stored, false))
}
