//! The objects of one resource.

use std::{ops::Bound, sync::Arc};

use copepod_api::{Name, Object};
use imbl::OrdMap;

/// Ordered by namespace, then name: a namespace is a range.
#[derive(Clone, Default)]
pub(crate) struct Collection {
    pub objects: OrdMap<Name, Arc<Object>>,
}

impl Collection {
    pub fn in_namespace<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<Object>> + 'a {
        let from = Name::new(namespace, "");
        self.objects
            .range((Bound::Included(from), Bound::Unbounded))
            .take_while(move |(name, _)| &*name.namespace == namespace)
            .map(|(_, object)| object)
    }
}
