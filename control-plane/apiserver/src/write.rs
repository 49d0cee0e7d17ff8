//! Creating, changing and deleting: from HTTP to a `Request`, and back from a `Reply`.

use std::time::Duration;

use axum::{extract::Request as HttpRequest, response::Response};
use copepod_api::{
    Action, DeleteOptions, Patch, Reply, Request, Revision, Status, StatusResult, Timestamp, User, WriteOptions,
    k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta,
    request::{FieldValidation, Propagation},
    schema::Schema,
};
use copepod_store::Door;
use http::{HeaderMap, header::USER_AGENT};
use serde::Deserialize;

use crate::{
    accept::Wanted,
    answer,
    body::{self, Decoded},
    forward::{self, ForLeader},
    front::Front,
    list, options as list_options,
    path::Asked,
    query::Query,
    read,
    selection::Selection,
    shape, who,
};

/// How many objects of a collection are deleted in one transaction.
const DELETE_BATCH: usize = 500;

/// How long a change may take to be decided and replicated. Longer than an election, the slowest disk and a webhook that
/// takes all the time it may; a client that hears nothing for longer does not know more by waiting.
const SUBMIT_MAX: Duration = Duration::from_secs(60);

pub async fn answer(
    front: &Front,
    request: HttpRequest,
    user: User,
    asked: &Asked,
    verb: &str,
    query: &Query,
    wanted: &Wanted,
) -> StatusResult<Response> {
    let is_forwarded = who::is_forwarded(&request);
    let (parts, body) = request.into_parts();
    let body = front.bodies.read(&parts.headers, body).await?;
    let for_leader = ForLeader {
        user: &user,
        method: &parts.method,
        uri: &parts.uri,
        headers: &parts.headers,
        body: &body.bytes,
        is_forwarded,
    };
    let forwarder = front.config.forwarder.as_ref();
    if let forward::Place::Done(response) = forward::to_leader(&*front.door, forwarder, &for_leader).await? {
        return Ok(response);
    }

    let mut options = options(&parts.headers, query)?;
    let mut warnings = Vec::new();
    let mut judged = |decoded: Decoded, schema: Option<&Schema>| {
        warnings = body::judge_duplicates(&decoded, schema, options.field_validation)?;
        StatusResult::Ok(decoded.value)
    };
    let whole = Some(&**asked.row.schema());
    let action = match verb {
        "create" => Action::Create { object: judged(body::object(&parts.headers, &body.bytes)?, whole)? },
        "update" => Action::Update { object: judged(body::object(&parts.headers, &body.bytes)?, whole)? },
        "patch" => {
            let patch = patch(&parts.headers, &body.bytes, &mut |decoded| judged(decoded, None))?;
            Action::Patch { patch }
        }
        _ => {
            let (delete, dry_run) = delete_options(&parts.headers, &body.bytes, query)?;
            options.dry_run |= dry_run;
            if verb == "deletecollection" {
                return delete_collection(front, user, asked, query, wanted, delete, options).await;
            }
            Action::Delete { options: delete }
        }
    };
    drop(body);

    let request = Request { user, target: asked.target(), action, options };
    let replies = submit(&*front.door, vec![request]).await?;
    let reply = replies.into_iter().next().ok_or_else(|| Status::internal("a request without a reply"))?;
    let mut response = respond(asked, &reply, wanted);
    answer::warn(&mut response, warnings.iter().chain(&reply.warnings).map(String::as_str));
    Ok(response)
}

async fn submit(door: &dyn Door, requests: Vec<Request>) -> StatusResult<Vec<Reply>> {
    tokio::time::timeout(SUBMIT_MAX, door.submit(requests)).await.unwrap_or_else(|_| {
        Err(Status::timeout(format!(
            "most servers did not confirm the change within {} s: it may or may not have been carried out",
            SUBMIT_MAX.as_secs()
        )))
    })
}

fn respond(asked: &Asked, reply: &Reply, wanted: &Wanted) -> Response {
    let code = if reply.created { 201 } else { 200 };
    match &reply.object {
        Some(object) => {
            let bytes = shape::one(&asked.row, object, wanted.shape, Timestamp::now());
            answer::json(code, bytes, wanted.encoding)
        }
        None => answer::json(code, reply.body.clone(), wanted.encoding),
    }
}

fn options(headers: &HeaderMap, query: &Query) -> StatusResult<WriteOptions> {
    let field_validation = match query.text("fieldValidation") {
        None | Some("Warn") => FieldValidation::Warn,
        Some("Ignore") => FieldValidation::Ignore,
        Some("Strict") => FieldValidation::Strict,
        Some(other) => {
            return Err(Status::bad_request(format!(
                "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
            )));
        }
    };
    Ok(WriteOptions {
        dry_run: dry_run(query.all("dryRun"))?,
        field_manager: query.text("fieldManager").map_or_else(|| agent(headers), str::to_owned),
        field_validation,
        force: query.flag("force")?,
    })
}

fn dry_run<'a>(values: impl Iterator<Item = &'a str>) -> StatusResult<bool> {
    let mut is_dry = false;
    for value in values.filter(|value| !value.is_empty()) {
        if value != "All" {
            return Err(Status::bad_request(format!(
                "dryRun: Unsupported value: {value:?}: supported values: \"All\""
            )));
        }
        is_dry = true;
    }
    Ok(is_dry)
}

/// The program that writes, where it does not name itself: `kubectl/v1.32 (linux)` is `kubectl`.
fn agent(headers: &HeaderMap) -> String {
    const BYTES_MAX: usize = 128;
    let agent = headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    let name = agent.split('/').next().unwrap_or_default();
    let name: String = name.chars().filter(|letter| letter.is_ascii_graphic()).take(BYTES_MAX).collect();
    if name.is_empty() { "unknown".to_owned() } else { name }
}

fn patch(
    headers: &HeaderMap,
    bytes: &[u8],
    decoded: &mut impl FnMut(Decoded) -> StatusResult<serde_json::Value>,
) -> StatusResult<Patch> {
    Ok(match body::media_type(headers).as_str() {
        "application/json-patch+json" => Patch::Json(decoded(body::json(bytes)?)?),
        "application/merge-patch+json" => Patch::Merge(decoded(body::json(bytes)?)?),
        "application/strategic-merge-patch+json" => Patch::Strategic(decoded(body::json(bytes)?)?),
        "application/apply-patch+yaml" => Patch::Apply(decoded(body::yaml(bytes)?)?),
        other => {
            return Err(Status::unsupported_media_type(format!(
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml, \
                 application/strategic-merge-patch+json (not {other})"
            )));
        }
    })
}

/// From the body, or from the query where there is none; and whether it is a dry run.
fn delete_options(headers: &HeaderMap, bytes: &[u8], query: &Query) -> StatusResult<(DeleteOptions, bool)> {
    let sent = if bytes.is_empty() {
        meta::DeleteOptions {
            grace_period_seconds: query.number("gracePeriodSeconds")?,
            propagation_policy: query.text("propagationPolicy").map(str::to_owned),
            orphan_dependents: query.optional_flag("orphanDependents")?,
            ..meta::DeleteOptions::default()
        }
    } else {
        let value = body::object(headers, bytes)?.value;
        meta::DeleteOptions::deserialize(value)
            .map_err(|error| Status::bad_request(format!("the body cannot be read as DeleteOptions: {error}")))?
    };
    let propagation = match (sent.propagation_policy.as_deref(), sent.orphan_dependents) {
        (Some(_), Some(_)) => {
            return Err(Status::bad_request(
                "propagationPolicy: Invalid value: orphanDependents and propagationPolicy cannot both be set",
            ));
        }
        (None, None) => None,
        (None, Some(true)) | (Some("Orphan"), None) => Some(Propagation::Orphan),
        (None, Some(false)) | (Some("Background"), None) => Some(Propagation::Background),
        (Some("Foreground"), None) => Some(Propagation::Foreground),
        (Some(other), None) => {
            return Err(Status::bad_request(format!(
                "propagationPolicy: Unsupported value: {other:?}: supported values: \"Foreground\", \"Background\", \"Orphan\""
            )));
        }
    };
    if sent.grace_period_seconds.is_some_and(|seconds| seconds < 0) {
        return Err(Status::bad_request("gracePeriodSeconds: must not be negative"));
    }
    let preconditions = sent.preconditions.unwrap_or_default();
    let revision = preconditions
        .resource_version
        .map(|text| {
            text.parse()
                .map(Revision)
                .map_err(|_| Status::bad_request("preconditions.resourceVersion: must be a number"))
        })
        .transpose()?;
    let is_dry = dry_run(sent.dry_run.iter().flatten().map(String::as_str))?;
    let options = DeleteOptions {
        grace_period_seconds: sent.grace_period_seconds,
        propagation,
        uid: preconditions.uid,
        revision,
        disruption: None,
    };
    Ok((options, is_dry))
}

/// Deletes what a selection shows, some hundred objects a transaction. An object that somebody else deletes meanwhile
/// is gone as well, which is what was wanted.
async fn delete_collection(
    front: &Front,
    user: User,
    asked: &Asked,
    query: &Query,
    wanted: &Wanted,
    delete: DeleteOptions,
    options: WriteOptions,
) -> StatusResult<Response> {
    list_options::check(query, false)?;
    let selection = Selection::of(asked, query)?;
    let view = read::view(&*front.door, None).await?;
    let objects = selection.all(front, &view).await?;
    for batch in objects.chunks(DELETE_BATCH) {
        let mut requests: Vec<Request> = batch
            .iter()
            .map(|object| {
                let mut target = asked.target();
                target.namespace = object.key.name.namespace.clone();
                target.name = object.key.name.name.clone();
                let action = Action::Delete { options: delete.clone() };
                Request { user: user.clone(), target, action, options: options.clone() }
            })
            .collect();
        while !requests.is_empty() {
            let refusal = match submit(&*front.door, requests.clone()).await {
                Ok(_) => break,
                Err(refusal) if refusal.code() == 404 => refusal,
                Err(refusal) => return Err(refusal),
            };
            let gone = copepod_registry::failed_request(&refusal).unwrap_or(0);
            requests.remove(gone.min(requests.len() - 1));
        }
    }
    list::of(&asked.row, objects, view.revision(), wanted).await
}
