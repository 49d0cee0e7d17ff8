//! Every change, whoever asks for it, is a `Request`.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Key, Object, Resource, Revision, Status, Typed};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    pub user: User,
    pub target: Target,
    pub action: Action,
    pub options: WriteOptions,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub name: Arc<str>,
    pub uid: Option<Arc<str>>,
    pub groups: Vec<Arc<str>>,
    /// What else is known of the user: the pod that a token is bound to, for example.
    #[serde(default)]
    pub extra: BTreeMap<Arc<str>, Vec<Arc<str>>>,
}

impl User {
    /// A part of the control plane: `system:controller:replicaset-controller`, `system:kube-scheduler`.
    pub fn system(name: &str) -> User {
        let groups = vec!["system:masters".into(), "system:authenticated".into()];
        User { name: name.into(), groups, ..User::default() }
    }

    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| &**own == group)
    }
}

/// What a request is about. A create may leave the name empty (it is in the object, or generated).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    pub resource: Resource,
    /// The version the client speaks: `v1`.
    pub version: Arc<str>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    /// `status`, `scale`, `binding`, `eviction`; empty for the object itself.
    pub subresource: Arc<str>,
}

impl Target {
    pub fn key(&self) -> Key {
        Key::new(self.resource.clone(), self.namespace.clone(), self.name.clone())
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Action {
    Create {
        object: Value,
    },
    /// Replaces the object; `metadata.resourceVersion`, where given, must match.
    Update {
        object: Value,
    },
    Patch {
        patch: Patch,
    },
    Delete {
        options: DeleteOptions,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Patch {
    /// RFC 6902.
    Json(Value),
    /// RFC 7386.
    Merge(Value),
    /// Kubernetes' strategic merge patch.
    Strategic(Value),
    /// Server-side apply (KEP-555).
    Apply(Value),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteOptions {
    pub grace_period_seconds: Option<i64>,
    pub propagation: Option<Propagation>,
    pub uid: Option<String>,
    pub revision: Option<Revision>,
    /// Why others end this pod; written as its condition DisruptionTarget.
    pub disruption: Option<Disruption>,
}

/// What a pod's condition DisruptionTarget says (KEP-3329), written together with the wish that it goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disruption {
    pub reason: String,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    Orphan,
    Background,
    Foreground,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteOptions {
    pub dry_run: bool,
    pub field_manager: String,
    pub field_validation: FieldValidation,
    /// Server-side apply: take fields over from other managers.
    pub force: bool,
}

/// What happens to unknown and duplicate fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

/// The answer to a request that was carried out.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The object as it stands now (or stood when it was deleted), or a Status: canonical JSON.
    pub body: Bytes,
    pub created: bool,
    pub revision: Revision,
    pub warnings: Vec<String>,
    /// Where the answer is a stored object: that object.
    pub object: Option<Arc<Object>>,
}

pub type ReplyResult = Result<Reply, Status>;

impl Request {
    /// A request about `T`, made by a part of the system itself.
    pub fn of<T: Typed>(user: &User, namespace: &str, name: &str, subresource: &str, action: Action) -> Request {
        Request {
            user: user.clone(),
            target: Target {
                resource: T::resource(),
                version: T::VERSION.into(),
                namespace: namespace.into(),
                name: name.into(),
                subresource: subresource.into(),
            },
            action,
            options: WriteOptions {
                field_manager: user.name.to_string(),
                field_validation: FieldValidation::Ignore,
                ..WriteOptions::default()
            },
        }
    }

    pub fn create<T: Typed>(user: &User, object: &T) -> Request {
        let meta = object.metadata();
        Request::of::<T>(
            user,
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default(),
            "",
            Action::Create { object: to_value(object) },
        )
    }

    /// Replaces the status of an object; refused where the object has changed since `object` was read.
    pub fn update_status<T: Typed>(user: &User, object: &T) -> Request {
        let meta = object.metadata();
        Request::of::<T>(
            user,
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default(),
            "status",
            Action::Update { object: to_value(object) },
        )
    }

    /// A JSON merge patch. Put `metadata.resourceVersion` into it to have it refused where the object has changed.
    pub fn merge<T: Typed>(user: &User, namespace: &str, name: &str, patch: Value) -> Request {
        Request::of::<T>(user, namespace, name, "", Action::Patch { patch: Patch::Merge(patch) })
    }

    pub fn delete<T: Typed>(user: &User, namespace: &str, name: &str, options: DeleteOptions) -> Request {
        Request::of::<T>(user, namespace, name, "", Action::Delete { options })
    }
}

/// A typed object as JSON, with `apiVersion` and `kind`.
pub fn to_value<T: Typed>(object: &T) -> Value {
    serde_json::to_value(object).expect("typed Kubernetes objects always encode: their maps have string keys")
}
