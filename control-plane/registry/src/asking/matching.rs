//! Which writes somebody wants to be asked about: rules, and selectors for namespaces and objects.

use std::sync::Arc;

use copepod_api::{
    k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta, resource::NAMESPACES, selector::LabelSelector,
};
use serde::Deserialize;
use serde_json::Value;

use super::attempt::{Attempt, Operation};
use crate::{
    Catalog, Row,
    pipeline::World,
    rules::{at, list_at, text_at},
};

/// What is asked about, read from a webhook, or from `matchConstraints` or `matchResources`.
#[derive(Clone, Debug)]
pub struct Constraints {
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    /// Writes through other versions of the same kind count as well.
    is_equivalent: bool,
    namespaces: LabelSelector,
    objects: LabelSelector,
}

#[derive(Clone, Debug)]
struct Rule {
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    operations: Vec<String>,
    names: Vec<String>,
    scope: String,
}

/// What is meant by a name in a list of an attempt: one kind as one of its versions has it.
struct Seen<'a> {
    row: &'a Row,
    attempt: &'a Attempt<'a>,
    object: &'a Value,
}

impl Constraints {
    pub fn of(value: &Value, rules: &str) -> Constraints {
        let read = |field: &str| list_at(value, field).iter().map(Rule::of).collect();
        Constraints {
            rules: read(rules),
            excluded: read("excludeResourceRules"),
            is_equivalent: text_at(value, "matchPolicy") != "Exact",
            namespaces: selector(at(value, "namespaceSelector")),
            objects: selector(at(value, "objectSelector")),
        }
    }

    /// The row of the version in which the asked one wants to see the object, if it wants to be asked.
    ///
    /// `everything`: no rule at all means all writes, as in the bindings of policies.
    pub fn find(&self, world: &World<'_>, attempt: &Attempt<'_>, object: &Value, everything: bool) -> Option<Found> {
        if !self.selects_namespace(world, attempt, object) || !self.selects_object(attempt, object) {
            return None;
        }
        if self.matched(world, &self.excluded, attempt, object).is_some() {
            return None;
        }
        if everything && self.rules.is_empty() {
            return Some(Found::Same);
        }
        self.matched(world, &self.rules, attempt, object)
    }

    fn matched(&self, world: &World<'_>, rules: &[Rule], attempt: &Attempt<'_>, object: &Value) -> Option<Found> {
        let seen = Seen { row: attempt.row, attempt, object };
        if rules.iter().any(|rule| rule.matches(&seen)) {
            return Some(Found::Same);
        }
        if rules.is_empty() || !self.is_equivalent {
            return None;
        }
        let catalog = Catalog::of(&world.view);
        let same = |row: &&Arc<Row>| {
            row.resource() == attempt.row.resource() && row.kind.api_version() != attempt.row.kind.api_version()
        };
        let others: Vec<&Arc<Row>> = catalog.rows().iter().filter(same).collect();
        let is_meant = |rule: &Rule, row: &Row| rule.matches(&Seen { row, attempt, object });
        let found = rules.iter().find_map(|rule| others.iter().find(|row| is_meant(rule, row)));
        found.map(|row| Found::Other(Arc::clone(row)))
    }

    fn selects_namespace(&self, world: &World<'_>, attempt: &Attempt<'_>, object: &Value) -> bool {
        if self.namespaces.is_everything() {
            return true;
        }
        if attempt.is_about_namespace() && [Operation::Create, Operation::Update].contains(&attempt.operation) {
            return self.namespaces.matches(&labels(object));
        }
        let namespace = attempt.namespace(object);
        if namespace.is_empty() {
            return true;
        }
        let found = world.get(&NAMESPACES, "", namespace);
        found.is_some_and(|namespace| self.namespaces.matches(&namespace.meta.labels))
    }

    fn selects_object(&self, attempt: &Attempt<'_>, object: &Value) -> bool {
        let has = |object: &Value| object.get("metadata").is_some() && self.objects.matches(&labels(object));
        self.objects.is_everything() || has(object) || attempt.old.is_some_and(has)
    }
}

/// In which version the object is to be shown.
pub enum Found {
    Same,
    Other(Arc<Row>),
}

impl Found {
    pub fn row<'a>(&'a self, attempt: &Attempt<'a>) -> &'a Row {
        match self {
            Found::Same => attempt.row,
            Found::Other(row) => row,
        }
    }
}

fn labels(object: &Value) -> std::collections::BTreeMap<String, String> {
    let labels = object.pointer("/metadata/labels");
    labels.and_then(|labels| Deserialize::deserialize(labels).ok()).unwrap_or_default()
}

fn selector(value: &Value) -> LabelSelector {
    let typed = meta::LabelSelector::deserialize(value).unwrap_or_default();
    // What cannot be read has not been stored.
    LabelSelector::from_typed(&typed).unwrap_or_else(|_| LabelSelector::nothing())
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

impl Rule {
    fn of(value: &Value) -> Rule {
        let texts = |field: &str| list_at(value, field).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        Rule {
            groups: texts("apiGroups"),
            versions: texts("apiVersions"),
            resources: texts("resources"),
            operations: texts("operations"),
            names: texts("resourceNames"),
            scope: text_at(value, "scope").to_owned(),
        }
    }

    fn matches(&self, seen: &Seen<'_>) -> bool {
        let (kind, attempt) = (&seen.row.kind, seen.attempt);
        let is_scope = match &*self.scope {
            "Namespaced" => kind.is_namespaced(),
            "Cluster" => !kind.is_namespaced(),
            _ => true,
        };
        let is_resource = |resource: &String| {
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            (resource == "*" || resource == kind.plural)
                && (subresource == "*" || subresource == &*attempt.target.subresource)
        };
        is_scope
            && has(&self.groups, &kind.group)
            && has(&self.versions, &kind.version)
            && has(&self.operations, attempt.operation.name())
            && self.resources.iter().any(is_resource)
            && (self.names.is_empty() || self.names.iter().any(|name| name == attempt.name(seen.object)))
    }
}
