//! What all kinds share: the way from a request to a transaction.

mod check;
mod create;
mod delete;
mod managed;
mod node_restriction;
mod patch;
mod scale;
mod statuses;
mod update;
mod versions;
mod world;

use std::borrow::Cow;

use copepod_api::{Action, Reply, Request, Status, StatusResult};
use copepod_store::View;
use serde_json::json;

pub(crate) use check::readmit;
pub(crate) use create::{create_object, random_suffix};
pub(crate) use delete::delete_object;
pub(crate) use scale::scale_of;
pub(crate) use update::store_update;
pub(crate) use world::World;
#[cfg(test)]
pub(crate) use world::n_encoded;

use crate::{
    Catalog, Env, Row, Transaction,
    asking::{self, Attempt, Testimony, Undecided},
};

/// How many requests one transaction may carry. A transaction is one Raft entry and holds up everybody behind it; a
/// directory of manifests has hundreds of objects, a controller's plan for a large deployment a few thousand.
pub const REQUESTS_MAX: usize = 5_000;

/// Names of managers are kept in every object they write to.
const FIELD_MANAGER_BYTES_MAX: usize = 128;

/// The reason of the cause that says which request of several was refused.
const REQUEST_REFUSED: &str = "RequestRefused";

/// Carries requests out on a fork of `view`: all or none. Each sees what those before it did.
///
/// Dry runs change nothing: the transaction is empty, and its view is the one that came in. Requests of one transaction
/// are all dry runs or none is.
///
/// Where one of several is refused, `failed_request` reads its place from the Status. Where there are webhooks, they
/// are taken to give no answer; who can ask them uses `decide`.
pub fn transact(view: &View, requests: &[Request], env: &mut Env<'_>) -> Result<Transaction, Status> {
    let mut known = Testimony::default();
    loop {
        match decide(view, requests, env, known) {
            Ok(transaction) => return Ok(transaction),
            Err(Undecided::Refused(status)) => return Err(status),
            Err(Undecided::Open { testimony, open }) => {
                known = testimony;
                let nobody = "nobody can be asked here";
                open.questions.into_iter().for_each(|question| known.answer(question, Err(nobody.to_owned())));
                open.conversions.iter().for_each(|conversion| known.convert(conversion, Err(nobody.to_owned())));
            }
        }
    }
}

/// Carries requests out, as far as what is known from earlier decisions about the same requests allows.
pub fn decide(
    view: &View,
    requests: &[Request],
    env: &mut Env<'_>,
    testimony: Testimony,
) -> Result<Transaction, Undecided> {
    let mut world = World::fork(view, env, testimony);
    let decided = carry_out_all(&mut world, requests);
    let world = world.settled()?;
    let (is_dry, replies) = decided.map_err(Undecided::Refused)?;
    let (txn, after, events) = world.into_parts();
    Ok(if is_dry {
        Transaction { txn: Default::default(), view: view.clone(), events: Vec::new(), replies }
    } else {
        Transaction { txn, view: after, events, replies }
    })
}

/// The replies, and whether nothing of it is meant to last.
fn carry_out_all(world: &mut World<'_>, requests: &[Request]) -> StatusResult<(bool, Vec<Reply>)> {
    if requests.len() > REQUESTS_MAX {
        let count = requests.len();
        return Err(Status::too_large(format!("{count} requests in one transaction; at most {REQUESTS_MAX} may be")));
    }
    let dry_runs = requests.iter().filter(|request| is_dry_run(request)).count();
    if dry_runs != 0 && dry_runs != requests.len() {
        return Err(Status::bad_request("the requests of one transaction must all be dry runs, or none of them"));
    }

    let mut replies = Vec::with_capacity(requests.len());
    for (index, request) in requests.iter().enumerate() {
        match carry_out(world, request) {
            Ok(reply) => replies.push(reply),
            // What follows may rest on a request that waits for an answer; but its questions can be asked as well.
            Err(_) if !world.open.borrow().is_empty() => {}
            Err(refusal) => return Err(blame(refusal, requests, index)),
        }
    }
    Ok((dry_runs != 0, replies))
}

/// An eviction may say so in its body as well.
fn is_dry_run(request: &Request) -> bool {
    let said = match &request.action {
        Action::Create { object } if &*request.target.subresource == "eviction" => {
            !crate::json::items(object, "/deleteOptions/dryRun").is_empty()
        }
        _ => false,
    };
    said || request.options.dry_run
}

/// Which request of a transaction was refused; `None` where there was only one.
pub fn failed_request(refusal: &Status) -> Option<usize> {
    let causes = refusal.details()?.causes.as_ref()?;
    let cause = causes.iter().find(|cause| cause.reason.as_deref() == Some(REQUEST_REFUSED))?;
    cause.field.as_deref()?.strip_prefix("requests[")?.strip_suffix(']')?.parse().ok()
}

fn blame(refusal: Status, requests: &[Request], index: usize) -> Status {
    if requests.len() == 1 {
        return refusal;
    }
    let target = &requests[index].target;
    let mut name = target.key().name;
    if let (true, Action::Create { object }) = (name.name.is_empty(), &requests[index].action) {
        name.name = crate::json::text(object, "/metadata/name").unwrap_or_default().into();
    }
    let message = format!("request {} of {}: {} {name}", index + 1, requests.len(), target.resource);
    refusal.with_cause(REQUEST_REFUSED, &format!("requests[{index}]"), message)
}

fn carry_out(world: &mut World<'_>, request: &Request) -> StatusResult<Reply> {
    let target = &request.target;
    let catalog = Catalog::of(&world.view);
    let row = catalog.row(&target.resource, &target.version).ok_or_else(Status::no_such_path)?;
    if row.kind.is_namespaced() == target.namespace.is_empty() {
        return Err(Status::bad_request(match row.kind.is_namespaced() {
            true => format!("{} live in a namespace, and the request names none", target.resource),
            false => format!("{} live in no namespace, and the request names one", target.resource),
        }));
    }
    if !matches!(request.action, Action::Create { .. }) && target.name.is_empty() {
        return Err(Status::bad_request(format!("the request must name one of the {}", target.resource)));
    }
    if request.options.field_manager.len() > FIELD_MANAGER_BYTES_MAX {
        return Err(Status::bad_request(format!("fieldManager: may not be more than {FIELD_MANAGER_BYTES_MAX} bytes")));
    }
    if target.subresource.is_empty() {
        return match &request.action {
            Action::Create { object } => create::create(world, row, request, object),
            Action::Update { object } => update::update(world, row, request, object),
            Action::Patch { patch } => patch::patch(world, row, request, patch),
            Action::Delete { options } => delete::delete(world, row, request, options),
        };
    }
    if let Some((_, handler)) = row.hooks.actions.iter().find(|(name, _)| *name == &*target.subresource) {
        node_restriction::check_action(world, row, request)?;
        let request = admitted(world, row, request)?;
        return handler(world, row, &request);
    }
    match (&*target.subresource, &request.action) {
        (part, Action::Update { object }) if is_of_object(row, part) => update::update(world, row, request, object),
        (part, Action::Patch { patch }) if is_of_object(row, part) => patch::patch(world, row, request, patch),
        ("scale", Action::Update { .. } | Action::Patch { .. }) if row.scale_paths().is_some() => {
            scale::scale(world, row, request)
        }
        _ if row.kind.subresource(&target.subresource).is_some() => Err(not_allowed(row, request)),
        _ => Err(Status::no_such_path()),
    }
}

/// What a subresource of its own meaning is sent, after everybody was asked about it.
fn admitted<'r>(world: &mut World<'_>, row: &Row, request: &'r Request) -> StatusResult<Cow<'r, Request>> {
    let (object, live) = match &request.action {
        Action::Create { object } => (object, None),
        Action::Update { object } => (object, Some(world.find(row, &request.target)?)),
        _ => return Ok(Cow::Borrowed(request)),
    };
    let attempt = Attempt::of(row, request, live.as_ref().map(|live| live.value()));
    let mut changed = object.clone();
    asking::mutate(world, &attempt, &mut changed)?;
    asking::validate(world, &attempt, &changed)?;
    if changed == *object {
        return Ok(Cow::Borrowed(request));
    }
    let action = match request.action {
        Action::Create { .. } => Action::Create { object: changed },
        _ => Action::Update { object: changed },
    };
    Ok(Cow::Owned(Request { action, ..request.clone() }))
}

/// The subresource is some of the object's fields.
fn is_of_object(row: &Row, subresource: &str) -> bool {
    (subresource == "status" && row.has_status())
        || row.part(subresource).is_some()
        || row.opening(subresource).is_some()
}

fn not_allowed(row: &Row, request: &Request) -> Status {
    Status::method_not_allowed(format!(
        "{}/{} cannot be written that way; it allows {}",
        row.kind.plural,
        request.target.subresource,
        row.subresource_verbs(&request.target.subresource).join(", ")
    ))
}

/// The Status that says a request was carried out.
pub(crate) fn success(code: Option<u16>) -> serde_json::Value {
    let mut status = json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Success"});
    if let Some(code) = code {
        status["code"] = code.into();
    }
    status
}
