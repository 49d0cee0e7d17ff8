//! An immutable, consistent snapshot of everything.

use std::sync::Arc;

use copepod_api::{
    Key, Name, Object, Of, Resource, Revision, Timestamp, Typed, resource::PODS, selector::LabelSelector,
};
use imbl::{OrdMap, OrdSet};

use crate::{
    collection::Collection,
    single::{ADOPTED, Single},
};

/// The whole state at one revision. Cloning shares everything.
#[derive(Clone, Default)]
pub struct View {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Clone, Default)]
pub(crate) struct Inner {
    pub revision: Revision,
    /// When the last transaction was proposed, by the clock of the leader of that time.
    pub at: Timestamp,
    pub collections: OrdMap<Resource, Collection>,
    /// Dependents by the uid of each owner.
    pub by_owner: OrdMap<Arc<str>, OrdSet<Key>>,
    pub pods_by_node: OrdMap<Arc<str>, OrdSet<Name>>,
    /// What a controller could adopt and none has.
    pub single: Single,
    /// The ranges of addresses that nodes have, `spec.podCIDR`.
    pub node_ranges: OrdSet<Box<str>>,
}

impl View {
    pub fn revision(&self) -> Revision {
        self.inner.revision
    }

    pub fn at(&self) -> Timestamp {
        self.inner.at
    }

    pub fn object(&self, key: &Key) -> Option<&Arc<Object>> {
        self.inner.collections.get(&key.resource)?.objects.get(&key.name)
    }

    /// Whether the other is this very view, and not merely one of the same revision: two states that were computed from
    /// different transactions may have come to the same number.
    pub fn is(&self, other: &View) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// The objects of a resource in one namespace, or in all, ordered by namespace and name.
    pub fn objects<'a>(
        &'a self,
        resource: &Resource,
        namespace: Option<&'a str>,
    ) -> Box<dyn Iterator<Item = &'a Arc<Object>> + Send + 'a> {
        let Some(collection) = self.inner.collections.get(resource) else {
            return Box::new(std::iter::empty());
        };
        match namespace {
            Some(namespace) => Box::new(collection.in_namespace(namespace)),
            None => Box::new(collection.objects.values()),
        }
    }

    /// Like `objects`, starting after `after`: the next page of a list.
    pub fn objects_after<'a>(
        &'a self,
        resource: &Resource,
        namespace: Option<&'a str>,
        after: &Name,
    ) -> Box<dyn Iterator<Item = &'a Arc<Object>> + Send + 'a> {
        let Some(collection) = self.inner.collections.get(resource) else {
            return Box::new(std::iter::empty());
        };
        let rest = collection.objects.range((std::ops::Bound::Excluded(after.clone()), std::ops::Bound::Unbounded));
        match namespace {
            Some(namespace) => Box::new(
                rest.skip_while(move |(name, _)| &*name.namespace < namespace)
                    .take_while(move |(name, _)| &*name.namespace == namespace)
                    .map(|(_, object)| object),
            ),
            None => Box::new(rest.map(|(_, object)| object)),
        }
    }

    /// The collection of a resource as a value of its own, for what is derived from it: it tells cheaply whether it is
    /// still the same in a later view.
    pub fn snapshot(&self, resource: &Resource) -> Snapshot {
        let collection = self.inner.collections.get(resource);
        Snapshot { objects: collection.map(|collection| collection.objects.clone()).unwrap_or_default() }
    }

    /// What follows from the objects of a resource, made once for this state of them and shared by all views that have
    /// it. One type a resource; `None` for a resource without objects.
    pub fn derived<T: Send + Sync + 'static>(
        &self,
        resource: &Resource,
        make: impl FnOnce(&mut dyn Iterator<Item = &Arc<Object>>) -> T,
    ) -> Option<Arc<T>> {
        let collection = self.inner.collections.get(resource).filter(|collection| !collection.objects.is_empty())?;
        let derived = collection.derived.get_or_init(|| Arc::new(make(&mut collection.objects.values())));
        derived.clone().downcast::<T>().ok()
    }

    pub fn count(&self, resource: &Resource) -> usize {
        self.count_in(resource, None)
    }

    /// How many objects there are in one namespace, or in all.
    pub fn count_in(&self, resource: &Resource, namespace: Option<&str>) -> usize {
        self.inner.collections.get(resource).map_or(0, |collection| collection.count(namespace))
    }

    /// Every resource that has objects.
    pub fn resources(&self) -> impl Iterator<Item = &Resource> {
        self.inner.collections.iter().filter(|(_, c)| !c.objects.is_empty()).map(|(resource, _)| resource)
    }

    /// One object, decoded. Bytes that do not decode count as absent: the registry lets none in.
    pub fn get<T: Typed>(&self, namespace: &str, name: &str) -> Option<Of<T>> {
        self.object(&Key::new(T::resource(), namespace, name)).and_then(|object| Of::new(object.clone()).ok())
    }

    /// All objects of a type, decoded.
    pub fn list<'a, T: Typed>(&'a self, namespace: Option<&'a str>) -> impl Iterator<Item = Of<T>> + 'a {
        self.objects(&T::resource(), namespace).filter_map(|object| Of::new(object.clone()).ok())
    }

    /// The objects that name `uid` among their owners.
    pub fn dependents<'a>(&'a self, uid: &str) -> impl Iterator<Item = &'a Arc<Object>> + 'a {
        self.inner.by_owner.get(uid).into_iter().flatten().filter_map(|key| self.object(key))
    }

    /// The dependents of a type, decoded.
    pub fn dependents_of<'a, T: Typed>(&'a self, uid: &str) -> impl Iterator<Item = Of<T>> + 'a {
        let resource = T::resource();
        self.dependents(uid).filter(move |o| o.key.resource == resource).filter_map(|o| Of::new(o.clone()).ok())
    }

    /// The objects of a resource in a namespace that no controller manages and a selector matches. Of the [`ADOPTED`] they are
    /// found by their labels, of all others by a search.
    pub fn single<'a>(
        &'a self,
        resource: &'a Resource,
        namespace: &'a str,
        selector: &'a LabelSelector,
    ) -> Box<dyn Iterator<Item = &'a Arc<Object>> + 'a> {
        let matches = |object: &&Arc<Object>| selector.matches(&object.meta.labels);
        if !ADOPTED.contains(resource) {
            let single = self.objects(resource, Some(namespace)).filter(|object| object.meta.controller().is_none());
            return Box::new(single.filter(matches));
        }
        let collection = self.inner.collections.get(resource);
        let candidates = self.inner.single.candidates(resource, namespace, selector);
        Box::new(candidates.filter_map(move |key| collection?.objects.get(&key.name)).filter(matches))
    }

    /// Whether a node has this range of pod addresses, `spec.podCIDR`.
    pub fn has_node_range(&self, range: &str) -> bool {
        self.inner.node_ranges.contains(range)
    }

    /// The pods bound to a node.
    pub fn pods_on<'a>(&'a self, node: &str) -> impl Iterator<Item = &'a Arc<Object>> + 'a {
        let pods = self.inner.collections.get(&PODS);
        self.inner
            .pods_by_node
            .get(node)
            .into_iter()
            .flatten()
            .filter_map(move |name| pods.and_then(|pods| pods.objects.get(name)))
    }
}

/// The objects of one resource at one revision.
#[derive(Clone, Default)]
pub struct Snapshot {
    objects: OrdMap<Name, Arc<Object>>,
}

impl Snapshot {
    /// Whether nothing was written between the two.
    pub fn is(&self, other: &Snapshot) -> bool {
        self.objects.ptr_eq(&other.objects)
    }

    /// Ordered by namespace and name.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.objects.values()
    }
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "View@{}", self.inner.revision)
    }
}
