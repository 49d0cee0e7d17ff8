//! Nobody gives away what they do not hold.
//!
//! Who writes a role, or binds one, must hold every right in it, in the place where it will count, or be allowed to
//! `escalate` the role or to `bind` it. Otherwise the right to write roles would be the right to everything.

use std::collections::{BTreeMap, BTreeSet};

use copepod_api::User;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    Attributes, Index, Rule, Wish,
    index::RoleRef,
    resources::GROUP,
    rule::{is_resource, is_under, names, quoted},
};

/// Why a write is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The user does not hold all that would be given; the sentence says what is missing.
    Exceeds(String),
    /// The role to be bound is not there: its resource and name.
    NoRole(&'static str, String),
}

/// Whether `user` may write this Role or ClusterRole.
pub fn check_role(index: &Index, user: &User, role: &Value) -> Result<(), Refusal> {
    let text = |pointer: &str| role.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
    let resource = if namespace.is_empty() { "clusterroles" } else { "roles" };
    let escalates = Attributes { verb: "escalate", group: GROUP, resource, namespace, name, ..Attributes::default() };
    if index.allows(user, &Wish::Object(escalates)) {
        return Ok(());
    }
    let mut rules: Vec<Rule> = read(role, "/rules");
    if role.get("aggregationRule").is_some_and(|rule| !rule.is_null()) {
        // It gathers whatever matches, later ones included, so it may come to hold anything.
        rules.extend(everything());
    }
    confirm(index, user, namespace, &rules)
}

/// Whether `user` may write this RoleBinding or ClusterRoleBinding.
pub fn check_binding(index: &Index, user: &User, binding: &Value) -> Result<(), Refusal> {
    let namespace = binding.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default();
    let Some(role) = binding.get("roleRef").and_then(|role| RoleRef::deserialize(role).ok()) else { return Ok(()) };
    let resource = if role.kind == "ClusterRole" { "clusterroles" } else { "roles" };
    let binds =
        Attributes { verb: "bind", group: GROUP, resource, namespace, name: &role.name, ..Attributes::default() };
    if index.allows(user, &Wish::Object(binds)) {
        return Ok(());
    }
    match index.rules_of(&role, namespace) {
        Some(rules) => confirm(index, user, namespace, &rules),
        None => Err(Refusal::NoRole(resource, role.name)),
    }
}

fn read(role: &Value, pointer: &str) -> Vec<Rule> {
    let rules = role.pointer(pointer).and_then(Value::as_array);
    rules.into_iter().flatten().filter_map(|rule| Rule::deserialize(rule).ok()).collect()
}

/// The rules among `wanted` that `own` does not contain.
pub(crate) fn missing_from(own: &[Value], wanted: &[Value]) -> Vec<Value> {
    let own: Vec<Rule> = own.iter().filter_map(|rule| Rule::deserialize(rule).ok()).collect();
    let is_held = |rule: &Rule| pieces(rule).iter().all(|piece| own.iter().any(|held| covers(held, piece)));
    let is_missing = |rule: &&Value| !Rule::deserialize(*rule).is_ok_and(|rule| is_held(&rule));
    wanted.iter().filter(is_missing).cloned().collect()
}

fn everything() -> [Rule; 2] {
    let all = || vec!["*".to_owned()];
    [
        Rule { api_groups: all(), resources: all(), verbs: all(), ..Rule::default() },
        Rule { non_resource_urls: all(), verbs: all(), ..Rule::default() },
    ]
}

fn confirm(index: &Index, user: &User, namespace: &str, wanted: &[Rule]) -> Result<(), Refusal> {
    let held = index.rules(user, namespace);
    let missing: Vec<Rule> =
        wanted.iter().flat_map(pieces).filter(|piece| !held.iter().any(|rule| covers(rule, piece))).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let missing: BTreeSet<String> = gathered(missing).iter().map(Rule::brief).collect();
    let missing: Vec<String> = missing.into_iter().collect();
    Err(Refusal::Exceeds(format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        quoted(&user.groups),
        missing.join("\n")
    )))
}

/// A rule as rules of one verb, group, resource and name, each of which some rule must cover by itself.
fn pieces(rule: &Rule) -> Vec<Rule> {
    let one = |word: &String| vec![word.clone()];
    let mut pieces = Vec::new();
    for verb in &rule.verbs {
        for group in &rule.api_groups {
            for resource in &rule.resources {
                let piece =
                    Rule { api_groups: one(group), resources: one(resource), verbs: one(verb), ..Rule::default() };
                if rule.resource_names.is_empty() {
                    pieces.push(piece);
                } else {
                    let named = |name| Rule { resource_names: one(name), ..piece.clone() };
                    pieces.extend(rule.resource_names.iter().map(named));
                }
            }
        }
        let path = |path| Rule { non_resource_urls: one(path), verbs: one(verb), ..Rule::default() };
        pieces.extend(rule.non_resource_urls.iter().map(path));
    }
    pieces
}

/// Whether a held rule contains a piece.
fn covers(held: &Rule, piece: &Rule) -> bool {
    let all = |own: &[String], wanted: &[String]| wanted.iter().all(|word| names(own, word));
    let resource = |wanted: &String| {
        let (resource, part) = wanted.split_once('/').unwrap_or((wanted, ""));
        held.resources.iter().any(|own| own == wanted || is_resource(own, resource, part))
    };
    let path = |wanted: &String| held.non_resource_urls.iter().any(|own| own == wanted || is_under(own, wanted));
    all(&held.verbs, &piece.verbs)
        && all(&held.api_groups, &piece.api_groups)
        && piece.resources.iter().all(resource)
        && piece.non_resource_urls.iter().all(path)
        && (held.resource_names.is_empty()
            || !piece.resource_names.is_empty()
                && piece.resource_names.iter().all(|name| held.resource_names.contains(name)))
}

/// Pieces about the same thing as one rule with all their verbs, so that a refusal can be read.
fn gathered(pieces: Vec<Rule>) -> Vec<Rule> {
    let mut verbs: BTreeMap<Rule, Vec<String>> = BTreeMap::new();
    for piece in pieces {
        let of = Rule { verbs: Vec::new(), ..piece.clone() };
        let known = verbs.entry(of).or_default();
        for verb in piece.verbs {
            if !known.contains(&verb) {
                known.push(verb);
            }
        }
    }
    verbs.into_iter().map(|(of, verbs)| Rule { verbs, ..of }).collect()
}
