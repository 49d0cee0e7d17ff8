//! Changes of a collection, as they happen.
//!
//! A watch is a cursor into the log of events and the selection of what to show. It has no queue: the next events are
//! taken from the log when the connection can take more bytes, so a client that reads slowly costs nothing but its
//! place.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use copepod_api::{Name, Object, Revision, Status, StatusResult, Timestamp};
use copepod_registry::Row;
use copepod_store::{Compacted, Cursor, Door, Event, EventKind, View};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    accept::{Include, Shape, Wanted},
    answer,
    fanout::{Fanout, Form},
    frames::Frames,
    front::Front,
    metrics::{Labels, Running},
    options,
    path::Asked,
    query::Query,
    read,
    selection::Selection,
    shape,
    versions::Versions,
};

/// Events are sent in pieces of about this size when there are many.
const PIECE_BYTES: usize = 64 * 1024;

/// What stands around an object in the frame of its event, at most.
const FRAME_BYTES: usize = 48;

/// How often a client that wants it hears how far it has seen, when nothing else tells it.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);

/// A watch without a timeout ends after half an hour to an hour, so that clients spread over the servers again.
const TIMEOUT_MIN: Duration = Duration::from_secs(30 * 60);

/// Marks the bookmark after the objects that were there at the beginning.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

pub async fn answer(front: &Front, asked: Asked, query: &Query, wanted: Wanted) -> StatusResult<Response> {
    let frames = Frames::of(&asked, &wanted)?;
    let selection = Selection::of(&asked, query)?;
    let allows_bookmarks = query.flag("allowWatchBookmarks")?;
    let revision = query.revision()?;
    let sends_initial = query.optional_flag("sendInitialEvents")?;
    options::check(query, true)?;
    let timeout = match query.number("timeoutSeconds")? {
        None | Some(0) => TIMEOUT_MIN + TIMEOUT_MIN.mul_f64(jitter()),
        Some(seconds) => Duration::from_secs(
            u64::try_from(seconds).map_err(|_| Status::bad_request("timeoutSeconds: must not be negative"))?,
        )
        .min(2 * TIMEOUT_MIN),
    };

    let door = &*front.door;
    let starts_anywhere = revision.is_none_or(|revision| revision == Revision::ZERO);
    let sends_initial = sends_initial.unwrap_or(starts_anywhere);
    let view = read::view(door, revision).await?;
    let from = match revision {
        Some(revision) if !sends_initial && !starts_anywhere => revision,
        _ => view.revision(),
    };

    let now = Instant::now();
    let counted = front.metrics.running(Labels::of(&asked, "watch", false, false));
    let content_type = frames.content_type();
    let watch = Watch {
        door: front.door.clone(),
        versions: front.versions.clone(),
        fanout: front.fanouts.of(&asked.row),
        cursor: door.watch(Some(asked.row.resource()), from),
        row: asked.row,
        selection,
        shape: wanted.shape,
        frames,
        from,
        initial: sends_initial.then_some(Initial { view, after: None }),
        marks_initial: sends_initial && allows_bookmarks,
        events: VecDeque::new(),
        columns_sent: false,
        bookmark_at: allows_bookmarks.then(|| now + BOOKMARK_INTERVAL.mul_f64(0.75 + jitter() / 4.0)),
        ends_at: now + timeout,
        has_ended: false,
        _counted: counted,
    };
    let stream = futures::stream::unfold(watch, |mut watch| async move {
        let piece = watch.next().await?;
        Some((Ok::<_, Infallible>(piece), watch))
    });
    Ok(answer::typed(200, content_type, Body::from_stream(stream)))
}

/// A number from 0 to 1 that differs from watch to watch.
fn jitter() -> f64 {
    RandomState::new().hash_one(0) as f64 / u64::MAX as f64
}

/// Events as they are in the version that is watched.
async fn converted(
    door: &dyn Door,
    versions: &Versions,
    selection: &Selection,
    events: Vec<Event>,
) -> StatusResult<Vec<Event>> {
    if !selection.needs_conversion() {
        return Ok(events);
    }
    let is_meant = |event: &Event| selection.is_in_namespace(&event.object.key.name);
    let mut events: Vec<Event> = events.into_iter().filter(is_meant).collect();
    let objects = events.iter().map(|event| event.object.clone());
    let previous = events.iter().filter_map(|event| event.previous.clone());
    let all = objects.chain(previous).collect();
    let mut shown = versions.all(&door.view(), selection.row(), all).await?.into_iter();
    let objects: Vec<Arc<Object>> = shown.by_ref().take(events.len()).collect();
    for (event, object) in events.iter_mut().zip(objects) {
        event.object = object;
        if event.previous.is_some() {
            event.previous = shown.next();
        }
    }
    Ok(events)
}

/// The objects with which a watch begins: a place in a view, so that whoever reads slowly costs a pointer however many
/// they are.
struct Initial {
    view: View,
    after: Option<Name>,
}

struct Watch {
    door: Arc<dyn Door>,
    versions: Arc<Versions>,
    fanout: Arc<Fanout>,
    cursor: Box<dyn Cursor>,
    row: Arc<Row>,
    selection: Selection,
    shape: Shape,
    frames: Frames,
    from: Revision,
    /// What was there at `from`, until all of it is sent.
    initial: Option<Initial>,
    /// After the initial objects, a bookmark says so.
    marks_initial: bool,
    /// Taken from the log and still to be sent.
    events: VecDeque<Event>,
    /// The first table of a stream names the columns; the rest do not.
    columns_sent: bool,
    bookmark_at: Option<Instant>,
    ends_at: Instant,
    has_ended: bool,
    _counted: Running,
}

impl Watch {
    /// The next piece of the stream; waits for events.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.has_ended {
                return None;
            }
            let mut out = Vec::new();
            if let Err(status) = self.write_initial(&mut out).await {
                return Some(self.end(out, &status));
            }
            if !out.is_empty() {
                return Some(out.into());
            }
            if let Some(piece) = self.events_piece() {
                return Some(piece);
            }
            if self.initial.is_some() {
                continue;
            }
            let wake_at = self.bookmark_at.map_or(self.ends_at, |at| at.min(self.ends_at));
            let taken = tokio::select! {
                taken = self.cursor.next() => Some(taken),
                () = tokio::time::sleep_until(wake_at) => None,
            };
            match taken {
                Some(Ok(events)) => match converted(&*self.door, &self.versions, &self.selection, events).await {
                    Ok(events) => self.events = events.into(),
                    Err(status) => return Some(self.end(out, &status)),
                },
                Some(Err(Compacted { asked, oldest })) => {
                    let status = Status::expired(format!("too old resource version: {asked} ({oldest})"));
                    return Some(self.end(out, &status));
                }
                None => {
                    self.has_ended = Instant::now() >= self.ends_at;
                    if let Some(at) = &mut self.bookmark_at {
                        *at = Instant::now() + BOOKMARK_INTERVAL;
                        let seen = self.cursor.position().max(self.from);
                        return Some(self.bookmark(seen, false));
                    }
                }
            }
        }
    }

    /// The last words of a watch that cannot go on.
    fn end(&mut self, mut out: Vec<u8>, status: &Status) -> Bytes {
        self.has_ended = true;
        self.frames.write_status(&mut out, status);
        out.into()
    }

    async fn write_initial(&mut self, out: &mut Vec<u8>) -> StatusResult<()> {
        let Some(Initial { view, after }) = self.initial.take() else { return Ok(()) };
        let mut last = None;
        let mut batch = Vec::new();
        let mut bytes = 0;
        let is_known = !self.selection.needs_conversion();
        let candidates = self.selection.candidates(&view, after.as_ref());
        for object in candidates.filter(|object| !is_known || self.selection.matches(object)) {
            bytes += object.size();
            batch.push(object.clone());
            if bytes >= PIECE_BYTES {
                last = Some(object.key.name.clone());
                break;
            }
        }
        for object in self.versions.all(&view, &self.row, batch).await? {
            if is_known || self.selection.matches(&object) {
                self.write(out, "ADDED", &object);
            }
        }
        if last.is_some() {
            self.initial = Some(Initial { view, after: last });
        } else if std::mem::take(&mut self.marks_initial) {
            let bookmark = self.bookmark(self.from, true);
            out.extend_from_slice(&bookmark);
        }
        Ok(())
    }

    /// The next events: one as it was written for all, more in one piece, which is dearer to copy and cheaper to send.
    fn events_piece(&mut self) -> Option<Bytes> {
        let mut first = None;
        let mut more = Vec::new();
        while self.initial.is_none()
            && more.len() < PIECE_BYTES
            && let Some(event) = self.events.pop_front()
        {
            let Some(written) = self.event(&event) else { continue };
            match &first {
                None => first = Some(written),
                Some(first) => {
                    if more.is_empty() {
                        more.extend_from_slice(first);
                    }
                    more.extend_from_slice(&written);
                }
            }
        }
        if more.is_empty() { first } else { Some(more.into()) }
    }

    /// An object that begins to match is new to this watcher, and one that ceases to match is gone.
    fn event(&mut self, event: &Event) -> Option<Bytes> {
        if !self.selection.is_in_namespace(&event.object.key.name) {
            return None;
        }
        let is_in = event.kind != EventKind::Deleted && self.selection.matches(&event.object);
        let was_in = match (&event.previous, event.kind) {
            (Some(previous), _) => self.selection.matches(previous),
            (None, EventKind::Deleted) => self.selection.matches(&event.object),
            (None, _) => false,
        };
        match (was_in, is_in) {
            (false, false) => None,
            (false, true) => Some(self.shared("ADDED", &event.object, event.object.revision)),
            (true, true) => Some(self.shared("MODIFIED", &event.object, event.object.revision)),
            (true, false) => Some(match (&event.previous, event.kind) {
                // What it was when it last matched, at the revision at which it ceased to.
                (Some(previous), EventKind::Added | EventKind::Modified) => {
                    self.shared("DELETED", previous, event.revision)
                }
                _ => self.shared("DELETED", &event.object, event.object.revision),
            }),
        }
    }

    /// An event of `object` at `revision`, written by whoever needs it first.
    fn shared(&mut self, kind: &'static str, object: &Arc<Object>, revision: Revision) -> Bytes {
        let now = Timestamp::now();
        let is_table = matches!(self.shape, Shape::Table(_));
        let form = Form {
            event: kind,
            revision,
            shape: self.shape,
            is_protobuf: matches!(self.frames, Frames::Protobuf(_)),
            with_columns: is_table && !std::mem::replace(&mut self.columns_sent, true),
            second: if is_table { now.as_second() } else { 0 },
        };
        self.fanout.written(object, form, || {
            let object = if object.revision == revision { object.clone() } else { Arc::new(object.at(revision)) };
            let object = self.row.show(&object);
            let mut out = Vec::with_capacity(object.size() + FRAME_BYTES);
            let shown = |out: &mut Vec<u8>| shape::write(out, &self.row, &object, form.shape, now, form.with_columns);
            self.frames.write(&mut out, kind, shown);
            out.into()
        })
    }

    fn write(&mut self, out: &mut Vec<u8>, kind: &str, object: &Arc<Object>) {
        let object = &self.row.show(object);
        let with_columns = !std::mem::replace(&mut self.columns_sent, true);
        self.frames
            .write(out, kind, |out| shape::write(out, &self.row, object, self.shape, Timestamp::now(), with_columns));
    }

    fn bookmark(&self, seen: Revision, ends_initial: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": seen.to_string(), "creationTimestamp": null});
        if ends_initial {
            metadata["annotations"] = json!(BTreeMap::from([(INITIAL_EVENTS_END, "true")]));
        }
        let whole =
            || json!({"kind": self.row.kind.name, "apiVersion": self.row.kind.api_version(), "metadata": metadata});
        let partial = || json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata});
        let object = match self.shape {
            Shape::Whole => whole(),
            Shape::Metadata => partial(),
            // A row without words, whose object carries what there is to say.
            Shape::Table(include) => json!({
                "kind": "Table", "apiVersion": "meta.k8s.io/v1", "columnDefinitions": null,
                "metadata": {"resourceVersion": seen.to_string()},
                "rows": [{
                    "cells": vec![""; self.row.table_columns().len()],
                    "object": match include {
                        Include::Nothing => Value::Null,
                        Include::Metadata => partial(),
                        Include::Object => whole(),
                    },
                }],
            }),
        };
        let mut out = Vec::new();
        self.frames.write(&mut out, "BOOKMARK", |out| out.extend_from_slice(object.to_string().as_bytes()));
        out.into()
    }
}
