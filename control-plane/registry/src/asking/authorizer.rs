//! `authorizer`: expressions may ask what the user of a request may do otherwise.

use std::sync::{Arc, OnceLock};

use copepod_access::{Attributes, Index, Wish, node, service_account_user};
use copepod_api::User;
use copepod_cel::{AUTHORIZATION_COST, Declarations, Fault, Host, Type, Value};
use copepod_store::View;

use super::attempt::Attempt;

const AUTHORIZER: &str = "kubernetes.authorization.Authorizer";
const RESOURCE: &str = "kubernetes.authorization.ResourceCheck";

/// What is being asked, step by step: `authorizer.group('apps').resource('deployments').check('get')`.
#[derive(Clone, Debug)]
struct Asked {
    about: Arc<About>,
    /// Of the steps before.
    path: String,
    group: String,
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
    step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Authorizer,
    Path,
    Group,
    Resource,
}

/// Who asks, of which state.
#[derive(Debug)]
struct About {
    user: User,
    view: Arc<Known>,
}

/// What roles grant, arranged when the first asks.
struct Known {
    view: View,
    index: OnceLock<Index>,
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "roles at {}", self.view.revision())
    }
}

pub fn declare(declared: Declarations) -> Declarations {
    declared.with("authorizer", Type::Named(AUTHORIZER)).with("authorizer.requestResource", Type::Named(RESOURCE))
}

/// The values of `authorizer` and of `authorizer.requestResource`.
pub fn values(view: &View, attempt: &Attempt<'_>, name: &str) -> (Value, Value) {
    let known = Arc::new(Known { view: view.clone(), index: OnceLock::new() });
    let authorizer = Asked {
        about: Arc::new(About { user: attempt.user.clone(), view: known }),
        path: String::new(),
        group: String::new(),
        resource: String::new(),
        subresource: String::new(),
        namespace: String::new(),
        name: String::new(),
        step: Step::Authorizer,
    };
    let kind = &attempt.row.kind;
    let request = Asked {
        group: kind.group.to_string(),
        resource: kind.plural.to_string(),
        subresource: attempt.target.subresource.to_string(),
        namespace: attempt.target.namespace.to_string(),
        name: name.to_owned(),
        step: Step::Resource,
        ..authorizer.clone()
    };
    (Value::Host(Arc::new(authorizer)), Value::Host(Arc::new(request)))
}

/// A service account, as it would ask.
fn account(namespace: &str, name: &str) -> User {
    let own = format!("system:serviceaccounts:{namespace}");
    let groups = vec!["system:serviceaccounts".into(), own.into(), "system:authenticated".into()];
    User { name: service_account_user(namespace, name).into(), groups, ..User::default() }
}

impl Host for Asked {
    fn type_name(&self) -> &'static str {
        match self.step {
            Step::Authorizer => AUTHORIZER,
            Step::Path => "kubernetes.authorization.PathCheck",
            Step::Group => "kubernetes.authorization.GroupCheck",
            Step::Resource => RESOURCE,
        }
    }

    fn cost(&self, name: &str) -> u64 {
        if name == "check" { AUTHORIZATION_COST } else { 0 }
    }

    fn call(&self, name: &str, args: &[Value]) -> Option<Result<Value, Fault>> {
        let text = |place: usize| match args.get(place) {
            Some(Value::String(text)) => Some(text.to_string()),
            _ => None,
        };
        let first = text(0)?;
        let mut next = self.clone();
        match (self.step, name) {
            (Step::Authorizer, "path") => (next.step, next.path) = (Step::Path, first),
            (Step::Authorizer, "group") => (next.step, next.group) = (Step::Group, first),
            (Step::Authorizer, "serviceAccount") => {
                let user = account(&first, &text(1)?);
                next.about = Arc::new(About { user, view: self.about.view.clone() });
            }
            (Step::Group, "resource") => (next.step, next.resource) = (Step::Resource, first),
            (Step::Resource, "subresource") => next.subresource = first,
            (Step::Resource, "namespace") => next.namespace = first,
            (Step::Resource, "name") => next.name = first,
            // Roles do not look at selections.
            (Step::Resource, "fieldSelector" | "labelSelector") => {}
            (Step::Path | Step::Resource, "check") => return Some(Ok(self.decide(&first))),
            _ => return None,
        }
        Some(Ok(Value::Host(Arc::new(next))))
    }
}

impl Asked {
    fn decide(&self, verb: &str) -> Value {
        let wish = match self.step {
            Step::Path => Wish::Path { verb, path: &self.path },
            _ => Wish::Object(Attributes {
                verb,
                group: &self.group,
                resource: &self.resource,
                subresource: &self.subresource,
                namespace: &self.namespace,
                name: &self.name,
                ..Attributes::default()
            }),
        };
        let Known { view, index } = &*self.about.view;
        let user = &self.about.user;
        let as_node = node::name(user).is_some_and(|name| node::allows(view, name, &wish));
        let decision = index.get_or_init(|| Index::of(view)).decide(user, &wish);
        let is_allowed = as_node || decision.is_allowed;
        Value::Host(Arc::new(Decided { is_allowed, reason: decision.reason }))
    }
}

/// The answer.
#[derive(Debug)]
struct Decided {
    is_allowed: bool,
    reason: String,
}

impl Host for Decided {
    fn type_name(&self) -> &'static str {
        "kubernetes.authorization.Decision"
    }

    fn cost(&self, _: &str) -> u64 {
        0
    }

    fn call(&self, name: &str, _: &[Value]) -> Option<Result<Value, Fault>> {
        Some(Ok(match name {
            "allowed" => self.is_allowed.into(),
            "reason" => self.reason.as_str().into(),
            // Roles are looked up in memory, which does not fail.
            "errored" => false.into(),
            "error" => "".into(),
            _ => return None,
        }))
    }
}
