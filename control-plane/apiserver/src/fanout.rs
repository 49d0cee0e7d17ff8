//! One event, written once for all who watch.
//!
//! What a watcher is sent of an event depends on the event, on how it is shown and encoded, and on nothing else of the
//! watcher. So the first who needs it in some form writes it, and the others send the same bytes. What was written is
//! remembered for as long as watchers that keep up need it, and not with the object, which lives longer than that. A
//! watcher that comes late writes for itself again.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
};

#[cfg(test)]
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use copepod_api::{Object, Revision};
use copepod_registry::Row;

use crate::accept::Shape;

/// How much is remembered of one version of a kind that is watched: a round of events of ordinary size, so that watchers
/// that take the same round one after the other find all of it.
const REMEMBERED_BYTES_MAX: usize = 2 * 1024 * 1024;

/// What it costs to remember, beside the object's bytes.
const PLACE_BYTES: usize = 256;

/// What makes one watcher's bytes differ from another's.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Form {
    pub event: &'static str,
    pub revision: Revision,
    pub shape: Shape,
    pub is_protobuf: bool,
    /// The first table of a stream names its columns.
    pub with_columns: bool,
    /// Of a table, which says how old things are; of all else zero.
    pub second: i64,
}

/// Everything that is watched on this server.
#[derive(Default)]
pub struct Fanouts {
    kinds: Mutex<Vec<Weak<Fanout>>>,
}

impl Fanouts {
    /// What the watchers of this row share. It ends with the last of them.
    pub fn of(&self, row: &Arc<Row>) -> Arc<Fanout> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = kinds.iter().filter_map(Weak::upgrade).find(|known| Arc::ptr_eq(&known.row, row)) {
            return known;
        }
        kinds.retain(|known| known.strong_count() > 0);
        let fanout = Arc::new(Fanout {
            row: row.clone(),
            remembered: Mutex::default(),
            #[cfg(test)]
            n_written: AtomicUsize::default(),
        });
        kinds.push(Arc::downgrade(&fanout));
        fanout
    }
}

pub struct Fanout {
    row: Arc<Row>,
    remembered: Mutex<Remembered>,
    /// How often an event was written into bytes, by whomever.
    #[cfg(test)]
    n_written: AtomicUsize,
}

#[derive(Default)]
struct Remembered {
    places: HashMap<Id, Arc<Place>>,
    /// The oldest first.
    order: VecDeque<Id>,
    bytes: usize,
}

/// An object by its address, which is no other's as long as the place holds the object.
type Id = (usize, Form);

struct Place {
    object: Arc<Object>,
    written: OnceLock<Bytes>,
}

impl Place {
    fn cost(&self) -> usize {
        self.object.size() + PLACE_BYTES
    }
}

impl Fanout {
    /// What is sent of an event of `object` in this form; `write` writes it if nobody has.
    pub fn written(self: &Arc<Self>, object: &Arc<Object>, form: Form, write: impl FnOnce() -> Bytes) -> Bytes {
        let write = || {
            #[cfg(test)]
            self.n_written.fetch_add(1, Ordering::Relaxed);
            write()
        };
        if Arc::strong_count(self) == 1 {
            return write();
        }
        // Whoever comes while it is being written waits for it here, and not for what others write.
        self.place(object, form).written.get_or_init(write).clone()
    }

    fn place(&self, object: &Arc<Object>, form: Form) -> Arc<Place> {
        let id = (Arc::as_ptr(object) as usize, form);
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = remembered.places.get(&id) {
            return place.clone();
        }
        let place = Arc::new(Place { object: object.clone(), written: OnceLock::new() });
        remembered.bytes += place.cost();
        remembered.places.insert(id, place.clone());
        remembered.order.push_back(id);
        while remembered.bytes > REMEMBERED_BYTES_MAX
            && let Some(oldest) = remembered.order.pop_front()
        {
            let gone = remembered.places.remove(&oldest).map_or(0, |place| place.cost());
            remembered.bytes -= gone;
        }
        place
    }

    #[cfg(test)]
    pub fn n_written(&self) -> usize {
        self.n_written.load(Ordering::Relaxed)
    }
}
