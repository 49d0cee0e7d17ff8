//! Everything that roles and bindings grant, arranged by who holds it.

use std::{collections::BTreeMap, sync::Arc};

use copepod_api::{Name, Object, User};
use copepod_store::{Snapshot, View};
use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, ROLE_BINDINGS, ROLES, Rule, Wish,
    subject::{Holder, Subject},
};

/// May do everything, so that nobody is locked out by a mistake in a role.
const MASTERS: &str = "system:masters";

/// What was decided about a wish. Nothing denies: what no rule allows is not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub is_allowed: bool,
    /// Which binding allows it; empty where none does.
    pub reason: String,
}

/// What a view grants. Cloning is cheap enough to share it behind a pointer only.
#[derive(Default)]
pub struct Index {
    roles: Table<Role>,
    cluster_roles: Table<Role>,
    bindings: Table<Binding>,
    cluster_bindings: Table<Binding>,
    /// By namespace (empty for the whole cluster), then by holder.
    grants: BTreeMap<Arc<str>, BTreeMap<Holder, Vec<Grant>>>,
}

/// One binding as one of its subjects sees it.
struct Grant {
    name: Name,
    role: RoleRef,
    /// Empty where the role is not there.
    rules: Arc<[Rule]>,
}

#[derive(Deserialize)]
struct Role {
    #[serde(default)]
    rules: Option<Arc<[Rule]>>,
}

#[derive(Deserialize)]
struct Binding {
    #[serde(default)]
    subjects: Option<Vec<Subject>>,
    #[serde(rename = "roleRef")]
    role: RoleRef,
}

/// Which role a binding gives.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct RoleRef {
    pub kind: String,
    pub name: String,
}

/// A collection and what it means. What did not change is not decoded again.
struct Table<T> {
    snapshot: Snapshot,
    rows: BTreeMap<Name, (Arc<Object>, Arc<T>)>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table { snapshot: Snapshot::default(), rows: BTreeMap::new() }
    }
}

impl<T: DeserializeOwned> Table<T> {
    fn of(snapshot: Snapshot, before: &Table<T>) -> Table<T> {
        let mut rows = BTreeMap::new();
        for object in snapshot.objects() {
            let known = before.rows.get(&object.key.name).filter(|(known, _)| Arc::ptr_eq(known, object));
            let row = match known {
                Some((_, row)) => row.clone(),
                // The registry lets in only what decodes; what does not grants nothing.
                None => match serde_json::from_slice(&object.bytes()) {
                    Ok(row) => Arc::new(row),
                    Err(_) => continue,
                },
            };
            rows.insert(object.key.name.clone(), (object.clone(), row));
        }
        Table { snapshot, rows }
    }
}

impl Index {
    /// What `view` grants.
    pub fn of(view: &View) -> Index {
        Index::default().updated(view)
    }

    /// Whether it still says what `view` grants.
    pub fn is_of(&self, view: &View) -> bool {
        self.roles.snapshot.is(&view.snapshot(&ROLES))
            && self.cluster_roles.snapshot.is(&view.snapshot(&CLUSTER_ROLES))
            && self.bindings.snapshot.is(&view.snapshot(&ROLE_BINDINGS))
            && self.cluster_bindings.snapshot.is(&view.snapshot(&CLUSTER_ROLE_BINDINGS))
    }

    /// The index of another view, usually a later one.
    pub fn updated(&self, view: &View) -> Index {
        let mut index = Index {
            roles: Table::of(view.snapshot(&ROLES), &self.roles),
            cluster_roles: Table::of(view.snapshot(&CLUSTER_ROLES), &self.cluster_roles),
            bindings: Table::of(view.snapshot(&ROLE_BINDINGS), &self.bindings),
            cluster_bindings: Table::of(view.snapshot(&CLUSTER_ROLE_BINDINGS), &self.cluster_bindings),
            grants: BTreeMap::new(),
        };
        let mut grants: BTreeMap<Arc<str>, BTreeMap<Holder, Vec<Grant>>> = BTreeMap::new();
        for (name, (_, binding)) in index.cluster_bindings.rows.iter().chain(&index.bindings.rows) {
            let place: &str = &name.namespace;
            let rules = index.rules_of(&binding.role, place).unwrap_or_default();
            for holder in binding.subjects.iter().flatten().filter_map(|subject| subject.holder(place)) {
                let grant = Grant { name: name.clone(), role: binding.role.clone(), rules: rules.clone() };
                grants.entry(place.into()).or_default().entry(holder).or_default().push(grant);
            }
        }
        index.grants = grants;
        index
    }

    /// The rules of the role that a binding in `namespace` (empty: of the cluster) names; `None` where there is none.
    pub(crate) fn rules_of(&self, role: &RoleRef, namespace: &str) -> Option<Arc<[Rule]>> {
        let rows = match role.kind.as_str() {
            "ClusterRole" => self.cluster_roles.rows.get(&Name::new("", role.name.as_str())),
            "Role" => self.roles.rows.get(&Name::new(namespace, role.name.as_str())),
            _ => None,
        };
        rows.map(|(_, role)| role.rules.clone().unwrap_or_default())
    }

    pub fn decide(&self, user: &User, wish: &Wish<'_>) -> Decision {
        if user.is_in(MASTERS) {
            return Decision { is_allowed: true, reason: String::new() };
        }
        let allowing =
            self.grants_to(user, wish.namespace()).find(|(_, grant)| grant.rules.iter().any(|rule| rule.allows(wish)));
        match allowing {
            None => Decision { is_allowed: false, reason: String::new() },
            Some((holder, grant)) => Decision { is_allowed: true, reason: grant.reason(&holder) },
        }
    }

    pub fn allows(&self, user: &User, wish: &Wish<'_>) -> bool {
        self.decide(user, wish).is_allowed
    }

    /// All that a user holds in a namespace, the grants of the whole cluster first. Administrators hold everything without
    /// a rule, except where a binding says so.
    pub fn rules(&self, user: &User, namespace: &str) -> Vec<Rule> {
        self.grants_to(user, namespace).flat_map(|(_, grant)| grant.rules.iter().cloned()).collect()
    }

    fn grants_to<'a>(&'a self, user: &'a User, namespace: &'a str) -> impl Iterator<Item = (Holder, &'a Grant)> {
        let places = std::iter::once("").chain((!namespace.is_empty()).then_some(namespace));
        places.filter_map(|place| self.grants.get(place)).flat_map(move |held| {
            Holder::of(user).flat_map(move |holder| {
                let grants = held.get(&holder).into_iter().flatten();
                grants.map(move |grant| (holder.clone(), grant))
            })
        })
    }
}

impl Grant {
    fn reason(&self, holder: &Holder) -> String {
        let binding = match &*self.name.namespace {
            "" => format!("ClusterRoleBinding {:?}", self.name.name),
            namespace => format!("RoleBinding \"{}/{namespace}\"", self.name.name),
        };
        format!("RBAC: allowed by {binding} of {} {:?} to {holder}", self.role.kind, self.role.name)
    }
}
