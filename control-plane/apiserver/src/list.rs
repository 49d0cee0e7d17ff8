//! Collections, whole or in pages.

use std::{ops::Bound, sync::Arc};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use copepod_api::{Object, Revision, Status, StatusResult, Timestamp};
use copepod_registry::Row;
use copepod_store::View;
use serde_json::{Value, json};

use crate::{
    accept::{Encoding, Shape, Wanted},
    answer,
    continuation::{self, Start},
    front::Front,
    options,
    past::{self, Undone},
    path::Asked,
    query::Query,
    read,
    selection::Selection,
    shape,
};

/// Lists are sent in pieces of about this size, so that a large one is never in memory twice.
const PIECE_BYTES: usize = 128 * 1024;

pub async fn answer(front: &Front, asked: &Asked, query: &Query, wanted: &Wanted) -> StatusResult<Response> {
    options::check(query, false)?;
    let selection = Selection::of(asked, query)?;
    let limit = query.number("limit")?.unwrap_or(0);
    let limit = usize::try_from(limit).map_err(|_| Status::bad_request("limit: must not be negative"))?;
    let now = Timestamp::now();
    let start = Start::of(query, now)?;
    let (view, undone) = snapshot(front, asked, query, start.as_ref()).await?;
    let at = match &start {
        Some(start) => start.at,
        None => exact(query)?,
    };
    let shown = Shown {
        revision: at.unwrap_or(view.revision()),
        since: start.as_ref().filter(|start| start.at.is_some()).map_or(now, |start| start.since),
    };
    let page = Page::of(front, &selection, &view, &undone, start.as_ref(), limit).await?;
    respond(&asked.row, page, &shown, wanted).await
}

/// The view to list, and what of it to undo.
async fn snapshot(front: &Front, asked: &Asked, query: &Query, start: Option<&Start>) -> StatusResult<(View, Undone)> {
    let door = &*front.door;
    let at = match start {
        Some(start) => start.at,
        None => exact(query)?,
    };
    match at {
        Some(at) => {
            let view = read::view(door, Some(at)).await?;
            let undone = past::undone(door, &view, &asked.row.resource(), at).await;
            let undone = undone.map_err(|_| match start {
                Some(start) => start.expired(),
                None => Status::expired("The resourceVersion for the provided list is too old."),
            })?;
            Ok((view, undone))
        }
        // A continuation without a revision takes what is there: the client gave up consistency to go on.
        None => Ok((read::view(door, query.revision()?.filter(|_| start.is_none())).await?, Undone::new())),
    }
}

/// The revision that a list must show, where the client insists on one.
fn exact(query: &Query) -> StatusResult<Option<Revision>> {
    Ok(query.revision()?.filter(|_| options::is_exact(query)))
}

/// The moment that a list shows, and when its first page was made.
struct Shown {
    revision: Revision,
    since: Timestamp,
}

/// What is shown, and what remains.
struct Page {
    objects: Vec<Arc<Object>>,
    has_more: bool,
    /// Unknown where selectors decide.
    remaining: Option<usize>,
}

impl Page {
    async fn of(
        front: &Front,
        selection: &Selection,
        view: &View,
        undone: &Undone,
        start: Option<&Start>,
        limit: usize,
    ) -> StatusResult<Page> {
        let (stored, left) = stored(selection, view, undone, start);
        let (objects, has_more) = match (selection.needs_conversion(), limit) {
            (true, _) => Page::converted(front, selection, view, stored, limit).await?,
            (false, 0) => (stored.filter(|object| selection.matches(object)).collect(), false),
            (false, _) => {
                let mut matching = stored.filter(|object| selection.matches(object));
                let objects: Vec<_> = matching.by_ref().take(limit).collect();
                (objects, matching.next().is_some())
            }
        };
        let remaining = left.filter(|_| has_more && selection.is_everything());
        Ok(Page { remaining: remaining.map(|left| left.saturating_sub(objects.len())), objects, has_more })
    }

    /// The objects, and whether there are more of them, that a webhook converts: what they are in this version decides what
    /// is selected.
    async fn converted(
        front: &Front,
        selection: &Selection,
        view: &View,
        stored: Box<dyn Iterator<Item = Arc<Object>> + Send + '_>,
        limit: usize,
    ) -> StatusResult<(Vec<Arc<Object>>, bool)> {
        let limit = if limit == 0 { usize::MAX } else { limit };
        let mut objects = Vec::new();
        let mut rest = stored.peekable();
        while rest.peek().is_some() && objects.len() < limit {
            let batch = rest.by_ref().take(limit - objects.len()).collect();
            let shown = front.versions.all(view, selection.row(), batch).await?;
            objects.extend(shown.into_iter().filter(|object| selection.matches(object)));
        }
        Ok((objects, rest.peek().is_some()))
    }
}

/// What is there from `start` on, and how many there are. To count them would make a page as dear as the whole list, so of a
/// list that is continued that is known only if the page before has said so: one that goes on as it is now does not know.
fn stored<'a>(
    selection: &'a Selection,
    view: &'a View,
    undone: &'a Undone,
    start: Option<&'a Start>,
) -> (Box<dyn Iterator<Item = Arc<Object>> + Send + 'a>, Option<usize>) {
    let after = start.map(|start| &start.after);
    let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.clone()));
    let undone = undone.range((from, Bound::Unbounded)).filter(|(name, _)| selection.is_in_namespace(name));
    let all = || past::count(selection.count(view), undone.clone(), |name| selection.is_live(view, name));
    let left = start.map_or_else(|| Some(all()), |start| start.remaining);
    // An index knows only the present, but what has changed since is in `undone`, whatever the index says.
    (Box::new(past::merge(selection.candidates(view, after), undone).cloned()), left)
}

async fn respond(row: &Arc<Row>, page: Page, shown: &Shown, wanted: &Wanted) -> StatusResult<Response> {
    let mut metadata = json!({"resourceVersion": shown.revision.to_string()});
    if let (true, Some(last)) = (page.has_more, page.objects.last()) {
        metadata["continue"] =
            continuation::token(Some(shown.revision), &last.key.name, shown.since, page.remaining).into();
        if let Some(remaining) = page.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
    }
    if wanted.encoding == Encoding::Protobuf {
        return in_protobuf(row, page.objects, metadata, wanted.shape).await;
    }
    let pieces = Pieces {
        row: row.clone(),
        shape: wanted.shape,
        now: Timestamp::now(),
        objects: page.objects,
        next: 0,
        head: Some(head(row, &metadata.to_string(), wanted.shape)),
    };
    let size: usize = pieces.objects.iter().map(|object| object.size()).sum();
    if wanted.encoding != Encoding::Json || size <= PIECE_BYTES {
        let whole: Vec<u8> = pieces.flatten().collect();
        return Ok(answer::json(200, whole, wanted.encoding));
    }
    let stream = futures::stream::iter(pieces.map(Ok::<Bytes, std::convert::Infallible>));
    Ok(answer::long("application/json", Body::from_stream(stream)))
}

/// A list in protobuf. How long it is stands at its beginning, so it is made whole, by a thread that may take its time.
async fn in_protobuf(
    row: &Arc<Row>,
    objects: Vec<Arc<Object>>,
    metadata: Value,
    shape: Shape,
) -> StatusResult<Response> {
    let item = match shape {
        Shape::Metadata => copepod_protobuf::known("meta.k8s.io/v1", "PartialObjectMetadata"),
        _ => copepod_protobuf::known(&row.kind.api_version(), &row.kind.name),
    };
    let item = item.ok_or_else(|| Status::not_acceptable(format!("{} have no protobuf messages", row.kind.plural)))?;
    let row = row.clone();
    let make = move || {
        let mut parts = copepod_protobuf::ListParts::new(item);
        for object in objects {
            parts.push(&serde_json::from_slice(&row.show(&object).bytes()).unwrap_or_default());
        }
        copepod_protobuf::list(parts, &metadata)
    };
    let pieces = tokio::task::spawn_blocking(make).await.map_err(Status::internal)?;
    let is_long = pieces.iter().map(Bytes::len).sum::<usize>() > PIECE_BYTES;
    let body = Body::from_stream(futures::stream::iter(pieces.map(Ok::<Bytes, std::convert::Infallible>)));
    Ok(match is_long {
        true => answer::long(copepod_protobuf::MEDIA_TYPE, body),
        false => answer::typed(200, copepod_protobuf::MEDIA_TYPE, body),
    })
}

/// A list up to its items.
fn head(row: &Row, metadata: &str, shape: Shape) -> Vec<u8> {
    let mut out = Vec::with_capacity(PIECE_BYTES);
    let (kind, version) = match shape {
        Shape::Table(_) => {
            shape::write_table_head(&mut out, row, metadata, true);
            return out;
        }
        Shape::Metadata => ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1".to_owned()),
        Shape::Whole => (format!("{}List", row.kind.name), row.kind.api_version()),
    };
    out.extend_from_slice(
        format!(r#"{{"kind":"{kind}","apiVersion":"{version}","metadata":{metadata},"items":["#).as_bytes(),
    );
    out
}

/// The pieces of a list's body.
struct Pieces {
    row: Arc<Row>,
    shape: Shape,
    now: Timestamp,
    objects: Vec<Arc<Object>>,
    next: usize,
    /// What stands before the first item, until it is written.
    head: Option<Vec<u8>>,
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.next > self.objects.len() {
            return None;
        }
        let mut out = self.head.take().unwrap_or_else(|| Vec::with_capacity(PIECE_BYTES + PIECE_BYTES / 4));
        while out.len() < PIECE_BYTES {
            let Some(object) = self.objects.get(self.next) else {
                out.extend_from_slice(b"]}");
                self.next += 1;
                break;
            };
            if self.next > 0 {
                out.push(b',');
            }
            let object = &self.row.show(object);
            match self.shape {
                Shape::Whole => out.extend_from_slice(&object.bytes()),
                Shape::Metadata => shape::write_metadata(&mut out, &object.bytes()),
                Shape::Table(include) => shape::write_row(&mut out, &self.row, object, include, self.now),
            }
            self.next += 1;
        }
        Some(out.into())
    }
}

/// A list of these objects, whole.
pub async fn of(
    row: &Arc<Row>,
    objects: Vec<Arc<Object>>,
    revision: Revision,
    wanted: &Wanted,
) -> StatusResult<Response> {
    let shown = Shown { revision, since: Timestamp::now() };
    respond(row, Page { objects, has_more: false, remaining: None }, &shown, wanted).await
}
