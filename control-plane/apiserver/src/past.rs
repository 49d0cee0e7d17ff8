//! A collection as it stood at an earlier revision.
//!
//! A client that reads a collection in pages wants one consistent answer, so all pages must show the revision of the
//! first. Keeping a snapshot a client would cost memory for as long as it might come back, and would be known to one
//! server only. But every event carries what was before it, so the past is the present with the events since undone: it
//! costs nothing until it is asked for, and any server can do it, as long as its log of events reaches back that far.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use copepod_api::{Name, Object, Resource, Revision};
use copepod_store::{Compacted, Door, View};

/// How long the log is listened to for events that a view already contains. They are there before the view is, so this
/// only bounds what a broken door could do to us.
const LISTEN_MAX: Duration = Duration::from_millis(200);

/// What has to be put over a view to see it as it was; objects that did not exist are `None`.
pub type Undone = BTreeMap<Name, Option<Arc<Object>>>;

/// What undoes everything that happened to a resource after `at`, up to `view`.
pub async fn undone(door: &dyn Door, view: &View, resource: &Resource, at: Revision) -> Result<Undone, Compacted> {
    let mut undone = Undone::new();
    let now = view.revision();
    if at >= now {
        return Ok(undone);
    }
    let mut cursor = door.watch(Some(resource.clone()), at);
    loop {
        let Ok(events) = tokio::time::timeout(LISTEN_MAX, cursor.next()).await else { return Ok(undone) };
        for event in events? {
            if event.revision > now {
                return Ok(undone);
            }
            undone.entry(event.object.key.name.clone()).or_insert(event.previous);
        }
        if cursor.position() >= now {
            return Ok(undone);
        }
    }
}

/// How many there were, of `live` objects that there are.
pub fn count<'a>(
    live: usize,
    undone: impl Iterator<Item = (&'a Name, &'a Option<Arc<Object>>)>,
    is_live: impl Fn(&Name) -> bool,
) -> usize {
    let (mut gone, mut new) = (0, 0);
    for (name, was) in undone {
        gone += usize::from(was.is_some() && !is_live(name));
        new += usize::from(was.is_none() && is_live(name));
    }
    (live + gone).saturating_sub(new)
}

/// Merges what was over what is, in order.
pub fn merge<'a>(
    live: impl Iterator<Item = &'a Arc<Object>>,
    undone: impl Iterator<Item = (&'a Name, &'a Option<Arc<Object>>)>,
) -> impl Iterator<Item = &'a Arc<Object>> {
    let (mut live, mut undone) = (live.peekable(), undone.peekable());
    std::iter::from_fn(move || {
        loop {
            let Some((name, _)) = undone.peek() else { return live.next() };
            match live.peek() {
                Some(object) if object.key.name < **name => return live.next(),
                Some(object) if object.key.name == **name => drop(live.next()),
                _ => {}
            }
            if let Some((_, Some(object))) = undone.next() {
                return Some(object);
            }
        }
    })
}
