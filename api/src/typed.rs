//! Typed access to stored objects.

use std::{any::Any, fmt, marker::PhantomData, ops::Deref, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Serialize, de::DeserializeOwned};

use crate::{Key, Object, Resource};

/// A Rust type of a kind: `k8s_openapi::api::apps::v1::Deployment` and its siblings.
pub trait Typed:
    k8s_openapi::Resource + k8s_openapi::Metadata<Ty = ObjectMeta> + DeserializeOwned + Serialize + Any + Send + Sync
{
    fn resource() -> Resource {
        Resource::known(Self::GROUP, Self::URL_PATH_SEGMENT)
    }
}

impl<T> Typed for T where
    T: k8s_openapi::Resource
        + k8s_openapi::Metadata<Ty = ObjectMeta>
        + DeserializeOwned
        + Serialize
        + Any
        + Send
        + Sync
{
}

/// A stored object seen as a `T`: derefs to `T`, and still knows its metadata and revision.
pub struct Of<T> {
    object: Arc<Object>,
    kind: PhantomData<fn() -> T>,
}

impl<T: Typed> Of<T> {
    pub fn new(object: Arc<Object>) -> Result<Of<T>, DecodeError> {
        object.typed::<T>()?;
        Ok(Of { object, kind: PhantomData })
    }

    /// The same for whoever looks at many objects once: what is decoded goes with this, and is not kept by the object.
    pub fn apart(object: &Object) -> Result<Of<T>, DecodeError> {
        Of::new(Arc::new(object.apart()).open())
    }
}

impl<T> Of<T> {
    pub fn object(&self) -> &Arc<Object> {
        &self.object
    }

    pub fn key(&self) -> &Key {
        &self.object.key
    }

    pub fn meta(&self) -> &crate::Meta {
        &self.object.meta
    }

    pub fn uid(&self) -> &str {
        &self.object.meta.uid
    }
}

impl<T> Clone for Of<T> {
    fn clone(&self) -> Self {
        Of { object: self.object.clone(), kind: PhantomData }
    }
}

impl<T: Typed> Deref for Of<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.object.typed::<T>().expect("checked by Of::new, and objects do not change")
    }
}

impl<T> fmt::Debug for Of<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.object.fmt(f)
    }
}

/// Stored bytes that are not what their kind promises.
#[derive(Debug, thiserror::Error)]
#[error("{key} cannot be decoded: {reason}")]
pub struct DecodeError {
    key: String,
    reason: String,
}

impl DecodeError {
    pub(crate) fn new(key: &Key, error: serde_json::Error) -> Self {
        DecodeError { key: key.to_string(), reason: error.to_string() }
    }

    pub(crate) fn other_type(key: &Key, wanted: &str) -> Self {
        DecodeError { key: key.to_string(), reason: format!("it was decoded as another type than {wanted} before") }
    }
}
