//! What those are shown who are asked: `AdmissionRequest` of `admission.k8s.io`.

use copepod_api::{
    Action, DeleteOptions, Patch, Request, StatusResult, Target, User, WriteOptions, request::Propagation,
};
use serde_json::{Value, json};

use crate::{Row, json as fields, json::text, pipeline::World};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

impl Operation {
    pub fn name(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

/// A write that is about to happen. The object as it shall be is passed beside it, because it changes on the way.
pub struct Attempt<'a> {
    pub row: &'a Row,
    pub user: &'a User,
    pub target: &'a Target,
    pub operation: Operation,
    pub old: Option<&'a Value>,
    /// What is to be done, and how; connections have neither.
    pub asked: Option<(&'a Action, &'a WriteOptions)>,
}

/// A group, a version and what stands in them: a kind or a resource.
pub type Versioned<'a> = (&'a str, &'a str, &'a str);

impl<'a> Attempt<'a> {
    pub fn of(row: &'a Row, request: &'a Request, old: Option<&'a Value>) -> Attempt<'a> {
        let operation = match (&request.action, old) {
            (Action::Delete { .. }, _) => Operation::Delete,
            (_, None) => Operation::Create,
            _ => Operation::Update,
        };
        Attempt {
            row,
            user: &request.user,
            target: &request.target,
            operation,
            old,
            asked: Some((&request.action, &request.options)),
        }
    }

    /// The kind of the object that travels: a subresource may have one of its own.
    pub fn kind(&self, row: &'a Row) -> Versioned<'a> {
        let subresource = row.kind.subresource(&self.target.subresource);
        let own = (&*row.kind.group, &*row.kind.version, &*row.kind.name);
        subresource.and_then(|subresource| subresource.kind).unwrap_or(own)
    }

    /// Whether the object is one of the kind, and not that of a subresource.
    pub fn is_of_kind(&self) -> bool {
        self.kind(self.row) == (&*self.row.kind.group, &*self.row.kind.version, &*self.row.kind.name)
    }

    /// The name; for a new object that gets one, empty.
    pub fn name<'o>(&self, object: &'o Value) -> &'o str
    where
        'a: 'o,
    {
        match &*self.target.name {
            "" => text(object, "/metadata/name").unwrap_or_default(),
            name => name,
        }
    }

    /// The namespace; a Namespace is in itself.
    pub fn namespace<'o>(&self, object: &'o Value) -> &'o str
    where
        'a: 'o,
    {
        if self.is_about_namespace() { self.name(object) } else { &self.target.namespace }
    }

    pub fn is_about_namespace(&self) -> bool {
        self.row.kind.group.is_empty() && &*self.row.kind.plural == "namespaces"
    }

    /// The request as somebody is shown it who reads the kind as `row` has it. All but its `uid`, which is new each time.
    pub fn review(&self, world: &World<'_>, row: &'a Row, object: &Value) -> StatusResult<Value> {
        let mut review = self.head(row, object);
        fields::set(&mut review, "object", self.seen_by(world, row, object)?);
        fields::set(&mut review, "oldObject", self.old_seen_by(world, row)?);
        Ok(review)
    }

    /// What the request says beside the objects.
    pub fn head(&self, row: &'a Row, object: &Value) -> Value {
        let named = |(group, version, name): Versioned<'_>, field: &str| json!({"group": group, "version": version, field: name});
        let resource = |row: &'a Row| (&*row.kind.group, &*row.kind.version, &*row.kind.plural);
        let mut review = json!({
            "kind": named(self.kind(row), "kind"),
            "resource": named(resource(row), "resource"),
            "requestKind": named(self.kind(self.row), "kind"),
            "requestResource": named(resource(self.row), "resource"),
            "operation": self.operation.name(),
            "userInfo": user_info(self.user),
            "dryRun": self.asked.is_some_and(|(_, options)| options.dry_run),
            "options": self.asked.map_or(Value::Null, |(action, own)| options(action, own)),
        });
        for (field, value) in [("name", self.name(object)), ("namespace", self.namespace(object))] {
            if !value.is_empty() {
                fields::set(&mut review, field, value);
            }
        }
        if !self.target.subresource.is_empty() {
            fields::set(&mut review, "subResource", &*self.target.subresource);
            fields::set(&mut review, "requestSubResource", &*self.target.subresource);
        }
        review
    }

    /// The object in another version of its kind.
    pub fn seen_by(&self, world: &World<'_>, row: &Row, object: &Value) -> StatusResult<Value> {
        let is_other = !std::ptr::eq(row, self.row) && self.is_of_kind() && !object.is_null();
        if is_other { world.converted(self.row, object, row) } else { Ok(object.clone()) }
    }

    pub fn old_seen_by(&self, world: &World<'_>, row: &Row) -> StatusResult<Value> {
        self.old.map_or(Ok(Value::Null), |old| self.seen_by(world, row, old))
    }
}

fn user_info(user: &User) -> Value {
    let mut info = json!({"username": &*user.name, "groups": user.groups});
    if let Some(uid) = &user.uid {
        fields::set(&mut info, "uid", &**uid);
    }
    if !user.extra.is_empty() {
        fields::set(&mut info, "extra", json!(user.extra));
    }
    info
}

fn options(action: &Action, options: &WriteOptions) -> Value {
    let kind = match action {
        Action::Create { .. } => "CreateOptions",
        Action::Update { .. } => "UpdateOptions",
        Action::Patch { .. } => "PatchOptions",
        Action::Delete { .. } => "DeleteOptions",
    };
    let mut value = json!({"apiVersion": "meta.k8s.io/v1", "kind": kind});
    if options.dry_run {
        fields::set(&mut value, "dryRun", json!(["All"]));
    }
    match action {
        Action::Delete { options } => delete_options(&mut value, options),
        _ => fields::set(&mut value, "fieldManager", options.field_manager.as_str()),
    }
    if let (Action::Patch { patch: Patch::Apply(_) }, true) = (action, options.force) {
        fields::set(&mut value, "force", true);
    }
    value
}

fn delete_options(value: &mut Value, options: &DeleteOptions) {
    if let Some(seconds) = options.grace_period_seconds {
        fields::set(value, "gracePeriodSeconds", seconds);
    }
    if let Some(propagation) = options.propagation {
        let name = match propagation {
            Propagation::Orphan => "Orphan",
            Propagation::Background => "Background",
            Propagation::Foreground => "Foreground",
        };
        fields::set(value, "propagationPolicy", name);
    }
    let mut preconditions = json!({});
    if let Some(uid) = &options.uid {
        fields::set(&mut preconditions, "uid", uid.as_str());
    }
    if let Some(revision) = options.revision {
        fields::set(&mut preconditions, "resourceVersion", revision.to_string());
    }
    if preconditions != json!({}) {
        fields::set(value, "preconditions", preconditions);
    }
}
