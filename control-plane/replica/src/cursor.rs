//! Watches: a number in a shared history.

use std::sync::{Arc, PoisonError, RwLock};

use arc_swap::ArcSwap;
use copepod_api::{Resource, Revision};
use copepod_store::{Compacted, Cursor, Event, History, View, door::Async};
use tokio::sync::watch;

/// Events handed out at once; more are had by asking again.
const EVENTS_A_ROUND: usize = 512;

/// What the core publishes and everybody reads.
pub struct Published {
    view: ArcSwap<View>,
    history: RwLock<(History, Revision)>,
    /// Ticks at each change; carries the number of snapshots installed, after which places in the history are void.
    changed: watch::Sender<Revision>,
}

impl Published {
    pub fn new(view: View) -> Arc<Published> {
        let revision = view.revision();
        Arc::new(Published {
            view: ArcSwap::from_pointee(view),
            history: RwLock::new((History::beginning(revision), revision)),
            changed: watch::Sender::new(revision),
        })
    }

    pub fn view(&self) -> View {
        View::clone(&self.view.load())
    }

    /// The view first: whoever hears of an event finds it in the view.
    pub fn publish(&self, view: View, events: Vec<Event>) {
        let revision = view.revision();
        self.view.store(Arc::new(view));
        {
            let mut history = self.history.write().unwrap_or_else(PoisonError::into_inner);
            for event in events {
                history.0.push(event);
            }
            history.1 = revision;
        }
        self.changed.send_replace(revision);
    }

    /// A state that did not come event by event: everybody lists again. Gives the history that ended, which is large.
    pub fn restart(&self, view: View) -> History {
        let revision = view.revision();
        self.view.store(Arc::new(view));
        let beginning = (History::beginning(revision), revision);
        let ended = std::mem::replace(&mut *self.history.write().unwrap_or_else(PoisonError::into_inner), beginning);
        self.changed.send_replace(revision);
        ended.0
    }

    pub fn changes(&self) -> watch::Receiver<Revision> {
        self.changed.subscribe()
    }

    pub fn watch(self: &Arc<Self>, resource: Option<Resource>, from: Revision) -> ReplicaCursor {
        ReplicaCursor { published: self.clone(), resource, position: from, changes: self.changes() }
    }
}

/// A place in the history of one replica.
pub struct ReplicaCursor {
    published: Arc<Published>,
    resource: Option<Resource>,
    position: Revision,
    changes: watch::Receiver<Revision>,
}

impl ReplicaCursor {
    fn take(&mut self) -> Result<Vec<Event>, Compacted> {
        let history = self.published.history.read().unwrap_or_else(PoisonError::into_inner);
        let (history, newest) = (&history.0, history.1);
        let events = match &self.resource {
            Some(resource) => history.after(resource, self.position, EVENTS_A_ROUND)?,
            None => history.after_any(self.position, EVENTS_A_ROUND)?,
        };
        let seen = if events.len() < EVENTS_A_ROUND { newest } else { Revision::ZERO };
        let last = events.last().map_or(Revision::ZERO, |event| event.revision);
        self.position = self.position.max(seen).max(last);
        Ok(events)
    }
}

impl Cursor for ReplicaCursor {
    fn next(&mut self) -> Async<'_, Result<Vec<Event>, Compacted>> {
        Box::pin(async {
            loop {
                self.changes.mark_unchanged();
                let events = self.take()?;
                if !events.is_empty() {
                    return Ok(events);
                }
                if self.changes.changed().await.is_err() {
                    // The replica has stopped; nothing will ever come.
                    std::future::pending::<()>().await;
                }
            }
        })
    }

    fn position(&self) -> Revision {
        self.position
    }
}
