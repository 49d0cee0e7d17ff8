//! One object.

use std::time::Duration;

use axum::response::Response;
use copepod_api::{Key, Revision, Status, StatusResult, Timestamp};
use copepod_store::{Door, View};

use crate::{accept::Wanted, answer, front::Front, path::Asked, query::Query, shape};

/// How long a read waits for a revision that this server has not seen: a follower is rarely later than that, and a
/// client that asks for a number from another cluster should hear of it soon.
const REVISION_WAIT_MAX: Duration = Duration::from_secs(3);

/// How long a read waits for the leader to confirm what is newest: longer than an election takes.
const FRESH_WAIT_MAX: Duration = Duration::from_secs(10);

pub async fn answer(front: &Front, asked: &Asked, query: &Query, wanted: &Wanted) -> StatusResult<Response> {
    let view = view(&*front.door, query.revision()?).await?;
    let resource = asked.row.resource();
    let key = Key::new(resource, asked.namespace.as_str(), asked.name.as_str());
    let object = view.object(&key).ok_or_else(|| Status::not_found(&asked.row.kind.resource(), &asked.name))?;
    let object = &front.versions.one(&view, &asked.row, object).await?;
    if &*asked.subresource == "scale" {
        let scale = asked.row.scale(object).ok_or_else(Status::no_such_path)?;
        return Ok(answer::value(200, &scale, wanted.encoding));
    }
    Ok(answer::json(200, shape::one(&asked.row, object, wanted.shape, Timestamp::now()), wanted.encoding))
}

/// The view that a read at `revision` is answered from: without one what is newest, 0 for whatever is at hand.
pub async fn view(door: &dyn Door, revision: Option<Revision>) -> StatusResult<View> {
    match revision {
        None => match tokio::time::timeout(FRESH_WAIT_MAX, door.fresh()).await {
            Ok(view) => view,
            Err(_) => Err(Status::timeout("the servers have no leader that could say what is newest; ask again later")),
        },
        Some(Revision::ZERO) => Ok(door.view()),
        Some(revision) => {
            let view = door.view();
            if view.revision() >= revision {
                return Ok(view);
            }
            let reached = tokio::time::timeout(REVISION_WAIT_MAX, door.reached(revision)).await;
            reached.unwrap_or_else(|_| Err(too_large(revision, door.view().revision())))
        }
    }
}

fn too_large(asked: Revision, current: Revision) -> Status {
    let mut status = Status::timeout(format!("Too large resource version: {asked}, current: {current}")).with_cause(
        "ResourceVersionTooLarge",
        "",
        "Too large resource version",
    );
    status.details_mut().retry_after_seconds = Some(1);
    status
}
