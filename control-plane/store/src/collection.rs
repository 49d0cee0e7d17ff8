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
    /// What follows from these objects, shared by all views that have this very state of them.
    pub derived: Arc<OnceLock<Arc<dyn Any + Send + Sync>>>,
}

impl Collection {
    /// The objects, to be changed: nothing follows from them yet.
    pub fn change(&mut self) -> &mut OrdMap<Name, Arc<Object>> {
        if self.derived.get().is_some() || Arc::strong_count(&self.derived) > 1 {
            self.derived = Arc::default();
        }
        &mut self.objects
    }

    pub fn in_namespace<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<Object>> + 'a {
        let from = Name::new(namespace, "");
        self.objects
            .range((Bound::Included(from), Bound::Unbounded))
            .take_while(move |(name, _)| &*name.namespace == namespace)
            .map(|(_, object)| object)
    }
}
