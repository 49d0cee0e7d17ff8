//! The world while a transaction is being made: a fork of the view, and what was done to it.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use copepod_api::{
    Body, Expect, Key, Object, Op, Reply, Resource, Status, StatusResult, Target, Timestamp, Txn, resource,
};
use copepod_store::{Event, Refusal, View};
use serde_json::Value;

use crate::{
    Env, Row,
    asking::{Open, Testimony, Undecided},
};

/// The size of one object. Every server keeps every object in memory and sends it over every watch; what is larger
/// belongs into a volume or a registry. The same bound as elsewhere, so that what fits there fits here.
pub const OBJECT_BYTES_MAX: usize = 1536 * 1024;

/// A fork of a view on which requests are carried out, one after the other.
pub(crate) struct World<'e> {
    pub view: View,
    /// The time of the first decision about these requests.
    pub now: Timestamp,
    pub warnings: Vec<String>,
    /// What allocation derives from whole collections: addresses and ports in use. Forgotten when one of them changes.
    pub taken: BTreeMap<&'static str, BTreeSet<u32>>,
    /// What is known from earlier decisions about the same requests.
    pub testimony: Testimony,
    /// What must be known before there is a decision.
    pub open: RefCell<Open>,
    /// The time of this decision: when it happens in the store.
    at: Timestamp,
    thrown: usize,
    dice: &'e mut dyn FnMut() -> u64,
    ops: Vec<Op>,
    events: Vec<Event>,
    touched: BTreeSet<Key>,
}

#[cfg(test)]
thread_local! {
    static ENCODED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// How many objects this thread has encoded.
#[cfg(test)]
pub fn n_encoded() -> usize {
    ENCODED.get()
}

fn encode(object: &Value) -> Body {
    #[cfg(test)]
    ENCODED.set(ENCODED.get() + 1);
    Body::encode(object)
}

impl<'e> World<'e> {
    pub fn fork(view: &View, env: &'e mut Env<'_>, mut testimony: Testimony) -> World<'e> {
        World {
            view: view.clone(),
            now: *testimony.since.get_or_insert(env.now),
            warnings: Vec::new(),
            taken: BTreeMap::new(),
            testimony,
            open: RefCell::default(),
            at: env.now,
            thrown: 0,
            dice: &mut *env.dice,
            ops: Vec::new(),
            events: Vec::new(),
            touched: BTreeSet::new(),
        }
    }

    /// The world, unless something must be known first.
    pub fn settled(self) -> Result<World<'e>, Undecided> {
        if self.open.borrow().is_empty() {
            return Ok(self);
        }
        Err(Undecided::Open { testimony: self.testimony, open: Box::new(self.open.into_inner()) })
    }

    pub fn into_parts(self) -> (Txn, View, Vec<Event>) {
        (Txn { ops: self.ops }, self.view, self.events)
    }

    pub fn random(&mut self) -> u64 {
        if self.thrown == self.testimony.throws.len() {
            self.testimony.throws.push((self.dice)());
        }
        self.thrown += 1;
        self.testimony.throws[self.thrown - 1]
    }

    pub fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Option<&Arc<Object>> {
        self.view.object(&Key::new(resource.clone(), namespace, name))
    }

    /// The object, or the refusal that says it is not there.
    ///
    /// It is a copy of our own: what is decoded of it goes with the request. Decoded in place, every object ever written
    /// to would carry its decoded form as long as a view or the history of events knows it, at ten times its size.
    pub fn find(&self, row: &Row, target: &Target) -> StatusResult<Arc<Object>> {
        match self.view.object(&row.key(target)) {
            Some(object) => self.show(row, &Arc::new(object.apart())),
            None => Err(Status::not_found(&row.kind.resource(), &target.name)),
        }
    }

    pub fn create(&mut self, row: &Row, namespace: &str, name: &str, value: &Value) -> StatusResult<Arc<Object>> {
        self.put(row, Key::new(row.resource(), namespace, name), value, Expect::Absent)
    }

    pub fn replace(&mut self, row: &Row, live: &Object, value: &Value) -> StatusResult<Arc<Object>> {
        self.put(row, live.key.clone(), value, Expect::At(live.revision))
    }

    /// Stores an object as its row says; gives it as its row shows it.
    fn put(&mut self, row: &Row, key: Key, value: &Value, expect: Expect) -> StatusResult<Arc<Object>> {
        let body = encode(&*self.stored(row, value)?);
        if body.bytes.len() > OBJECT_BYTES_MAX {
            return Err(Status::too_large(format!(
                "{} \"{}\" is too large: {} bytes, and an object may have {OBJECT_BYTES_MAX}",
                key.resource,
                key.name(),
                body.bytes.len()
            )));
        }
        self.apply(Op::Put { key: key.clone(), body, expect })?;
        match self.view.object(&key) {
            Some(stored) => self.show(row, stored),
            None => Err(Status::internal(format!("{key} is gone as soon as it is stored"))),
        }
    }

    /// Removes an object; gives it as it was shown, with the revision of its deletion.
    pub fn remove(&mut self, live: &Object) -> StatusResult<Arc<Object>> {
        self.apply(Op::Delete { key: live.key.clone(), expect: Expect::At(live.revision) })?;
        match self.events.last() {
            Some(event) if event.object.key == live.key => Ok(Arc::new(live.at(event.revision))),
            _ => Err(Status::not_found(&live.key.resource, live.key.name())),
        }
    }

    /// What is being decided holds only as long as this object stays as it is.
    pub fn rests_on(&mut self, object: &Object) {
        // What this transaction has written itself rests on something already.
        if self.touched.insert(object.key.clone()) {
            self.ops.push(Op::Check { key: object.key.clone(), expect: Expect::At(object.revision) });
        }
    }

    fn apply(&mut self, op: Op) -> StatusResult<()> {
        if op.key().resource == resource::SERVICES {
            self.taken.clear();
        }
        let one = Txn { ops: vec![op] };
        let (view, events) = self.view.apply(&one, self.at).map_err(|refusal| explain(&refusal))?;
        self.view = view;
        self.events.extend(events);
        // The whole transaction is checked against the world before its first change, so only the first operation on
        // an object can state what it rests on; those that follow rest on that one.
        for op in one.ops {
            let first = self.touched.insert(op.key().clone());
            self.ops.push(if first { op } else { unconditional(op) });
        }
        Ok(())
    }

    pub fn warn(&mut self, warning: impl Into<String>) {
        self.warnings.push(warning.into());
    }

    /// The answer that shows a stored object.
    pub fn reply(&mut self, object: Arc<Object>, created: bool) -> Reply {
        Reply {
            body: object.bytes(),
            created,
            revision: object.revision,
            warnings: std::mem::take(&mut self.warnings),
            object: Some(object),
        }
    }

    /// An answer that is no stored object: a Status or a Scale.
    pub fn reply_value(&mut self, value: &Value, created: bool) -> Reply {
        Reply {
            body: Bytes::from(value.to_string()),
            created,
            revision: self.view.revision(),
            warnings: std::mem::take(&mut self.warnings),
            object: None,
        }
    }
}

fn unconditional(op: Op) -> Op {
    match op {
        Op::Put { key, body, .. } => Op::Put { key, body, expect: Expect::Any },
        Op::Delete { key, .. } => Op::Delete { key, expect: Expect::Any },
        check @ Op::Check { .. } => check,
    }
}

fn explain(refusal: &Refusal) -> Status {
    match refusal {
        Refusal::Exists(key) => Status::already_exists(&key.resource, key.name()),
        Refusal::Absent(key) => Status::not_found(&key.resource, key.name()),
        Refusal::Changed { key, .. } => Status::changed_meanwhile(&key.resource, key.name()),
        Refusal::Malformed { key, reason } => Status::bad_request(format!("{key} is not an object: {reason}")),
    }
}
