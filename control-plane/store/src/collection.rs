//! The objects of one resource.

use std::{
    any::Any,
    ops::Bound,
    sync::{Arc, OnceLock},
};

use copepod_api::{Name, Object};
use imbl::OrdMap;

/// Ordered by namespace, then name: a namespace is a range.
#[derive(Clone, Default)]
pub(crate) struct Collection {
    pub objects: OrdMap<Name, Arc<Object>>,
    /// How many there are in each namespace: a page of a list tells how many follow it.
    counts: OrdMap<Arc<str>, usize>,
    /// What follows from these objects, shared by all views that have this very state of them.
    pub derived: Arc<OnceLock<Arc<dyn Any + Send + Sync>>>,
}

impl Collection {
    /// Gives the object that was there before.
    pub fn insert(&mut self, object: Arc<Object>) -> Option<Arc<Object>> {
        let name = object.key.name.clone();
        let namespace = name.namespace.clone();
        let previous = self.change().insert(name, object);
        if previous.is_none() {
            *self.counts.entry(namespace).or_default() += 1;
        }
        previous
    }

    pub fn remove(&mut self, name: &Name) -> Option<Arc<Object>> {
        let previous = self.change().remove(name)?;
        if let Some(count) = self.counts.get_mut(&name.namespace) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&name.namespace);
            }
        }
        Some(previous)
    }

    /// The objects, to be changed: nothing follows from them yet.
    fn change(&mut self) -> &mut OrdMap<Name, Arc<Object>> {
        if self.derived.get().is_some() || Arc::strong_count(&self.derived) > 1 {
            self.derived = Arc::default();
        }
        &mut self.objects
    }

    /// In one namespace, or in all.
    pub fn count(&self, namespace: Option<&str>) -> usize {
        namespace.map_or(self.objects.len(), |namespace| self.counts.get(namespace).copied().unwrap_or(0))
    }

    pub fn in_namespace<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<Object>> + 'a {
        let from = Name::new(namespace, "");
        self.objects
            .range((Bound::Included(from), Bound::Unbounded))
            .take_while(move |(name, _)| &*name.namespace == namespace)
            .map(|(_, object)| object)
    }
}
