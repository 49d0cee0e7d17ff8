//! Stored objects in the version that a client asks for, where only a webhook can make it.
//!
//! Most kinds need nothing of this: their rows show an object in any version. Of those that do, an object is converted
//! once a version and revision and server: a thousand watchers of it wait for one answer.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use copepod_api::{Name, Object, Revision, StatusResult};
use copepod_registry::{Converter, Row};
use copepod_store::View;
use serde_json::Value;

use crate::webhooks::Webhooks;

/// How much of one version's objects is remembered: what its watchers are told of in any short time.
const KNOWN_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How much one question may carry. A webhook answers with as much again, and more where the new version says more.
const QUESTION_BYTES_MAX: usize = 1024 * 1024;

/// Shows objects.
pub struct Versions {
    webhooks: Webhooks,
    /// By API version and plural name.
    kinds: Mutex<BTreeMap<(String, String), Arc<Memory>>>,
}

impl Versions {
    pub fn new(webhooks: Webhooks) -> Versions {
        Versions { webhooks, kinds: Mutex::default() }
    }

    /// One object as the row shows it.
    pub async fn one(&self, view: &View, row: &Row, object: &Arc<Object>) -> StatusResult<Arc<Object>> {
        let shown = self.all(view, row, vec![object.clone()]).await?;
        Ok(row.show(shown.first().unwrap_or(object)))
    }

    /// The objects, converted where a webhook must do it. Whatever the row can do alone is left to it.
    pub async fn all(&self, view: &View, row: &Row, mut objects: Vec<Arc<Object>>) -> StatusResult<Vec<Arc<Object>>> {
        let Some(converter) = row.converter() else { return Ok(objects) };
        let mut missing: Vec<usize> =
            (0..objects.len()).filter(|index| row.converter_for(&objects[*index]).is_some()).collect();
        let memory = self.memory(row, converter);
        memory.recall(&mut objects, &mut missing);
        if missing.is_empty() {
            return Ok(objects);
        }
        // Whoever had to wait may find the work done.
        let _turn = memory.turn.lock().await;
        memory.recall(&mut objects, &mut missing);
        let mut rest = &missing[..];
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |index: &&usize| {
                bytes += objects[**index].bytes().len();
                bytes <= QUESTION_BYTES_MAX
            };
            let (batch, later) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            rest = later;
            let stored = batch.iter().map(|index| read(&objects[*index])).collect();
            let question = converter.question(stored, &row.kind.api_version());
            let converted = question.concluded(self.webhooks.convert(view, &question).await)?;
            for (index, converted) in batch.iter().zip(converted) {
                let shown = row.adopt(&objects[*index], converted)?;
                memory.remember(&shown);
                objects[*index] = shown;
            }
        }
        Ok(objects)
    }

    fn memory(&self, row: &Row, converter: &Converter) -> Arc<Memory> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (row.kind.api_version(), row.kind.plural.to_string());
        let known = kinds.get(&key).filter(|memory| memory.identity == converter.identity);
        let memory = known.cloned().unwrap_or_else(|| Arc::new(Memory::of(converter)));
        kinds.insert(key, memory.clone());
        memory
    }
}

fn read(object: &Object) -> Value {
    serde_json::from_slice(&object.bytes()).unwrap_or_default()
}

/// What was converted into one version, by one state of its definition.
struct Memory {
    identity: String,
    turn: tokio::sync::Mutex<()>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    objects: HashMap<(Name, Revision), Arc<Object>>,
    /// The oldest first.
    order: VecDeque<(Name, Revision)>,
    bytes: usize,
}

impl Memory {
    fn of(converter: &Converter) -> Memory {
        Memory { identity: converter.identity.clone(), turn: tokio::sync::Mutex::default(), known: Mutex::default() }
    }

    /// Puts what is known into its places; `missing` is what remains.
    fn recall(&self, objects: &mut [Arc<Object>], missing: &mut Vec<usize>) {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        missing.retain(|index| {
            let object = &mut objects[*index];
            let found = known.objects.get(&(object.key.name.clone(), object.revision));
            if let Some(found) = found {
                *object = found.clone();
            }
            found.is_none()
        });
    }

    fn remember(&self, object: &Arc<Object>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (object.key.name.clone(), object.revision);
        known.bytes += object.size();
        if let Some(before) = known.objects.insert(key.clone(), object.clone()) {
            known.bytes -= before.bytes().len();
        } else {
            known.order.push_back(key);
        }
        while known.bytes > KNOWN_BYTES_MAX
            && let Some(oldest) = known.order.pop_front()
        {
            let gone = known.objects.remove(&oldest).map_or(0, |object| object.size());
            known.bytes -= gone;
        }
    }
}
