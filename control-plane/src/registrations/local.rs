//! What this cluster serves itself is registered by itself, and that cannot be changed for long.

use std::collections::BTreeMap;

use copepod_api::{
    Action, DeleteOptions, Key, Patch, Plan, Request, Resource, Timestamp, User,
    k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService,
};
use copepod_apiserver::API_SERVICES;
use copepod_registry::Catalog;
use copepod_store::{Event, View};
use serde_json::{Value, json};

use super::status;
use crate::driver::Job;

/// Marks what is kept here: `onstart` for what every cluster serves, `true` for what a definition adds.
const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";

const DEFINITIONS: Resource = Resource::known("apiextensions.k8s.io", "customresourcedefinitions");

/// How much clients prefer the groups, the highest first, and of a group its versions. Kubernetes' own numbers.
const PRIORITIES: &[(&str, i64)] = &[
    ("", 18_000),
    ("apiregistration.k8s.io", 18_000),
    ("resource.k8s.io", 17_900),
    ("apps", 17_800),
    ("events.k8s.io", 17_750),
    ("authentication.k8s.io", 17_700),
    ("authorization.k8s.io", 17_600),
    ("autoscaling", 17_500),
    ("batch", 17_400),
    ("certificates.k8s.io", 17_300),
    ("networking.k8s.io", 17_200),
    ("policy", 17_100),
    ("rbac.authorization.k8s.io", 17_000),
    ("storage.k8s.io", 16_800),
    ("apiextensions.k8s.io", 16_700),
    ("admissionregistration.k8s.io", 16_700),
    ("scheduling.k8s.io", 16_600),
    ("coordination.k8s.io", 16_500),
    ("node.k8s.io", 16_300),
    ("discovery.k8s.io", 16_200),
    ("flowcontrol.apiserver.k8s.io", 16_100),
];
const VERSION: i64 = 15;
/// What users define comes last.
const CUSTOM: (i64, i64) = (1_000, 100);

/// The groups of questions that are answered and never stored; they have no rows.
const REVIEWS: [(&str, &str); 2] = [("authentication.k8s.io", "v1"), ("authorization.k8s.io", "v1")];

/// Keeps the registrations of what this cluster serves itself.
pub struct Local;

impl Job for Local {
    fn name(&self) -> &'static str {
        "autoregister"
    }

    fn wakes(&self, view: &View, event: &Event) -> Vec<Key> {
        let resource = &event.object.key.resource;
        if *resource == DEFINITIONS || *resource == API_SERVICES { self.all(view) } else { Vec::new() }
    }

    /// One key for all of them: they are few, and which there are follows from all definitions together.
    fn all(&self, _: &View) -> Vec<Key> {
        vec![Key::new(API_SERVICES, "", "")]
    }

    fn reconcile(&self, view: &View, _: &Key, now: Timestamp) -> Plan {
        let user = User::system("system:kube-aggregator");
        let mut plan = Plan::nothing();
        let wanted = wanted(view);
        for (name, spec) in &wanted {
            let stands = view.object(&Key::new(API_SERVICES, "", name.as_str()));
            let Some(stands) = stands else {
                let is_custom = spec["groupPriorityMinimum"] == CUSTOM.0;
                let object = json!({
                    "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
                    "metadata": {"name": name, "labels": {MANAGED: if is_custom { "true" } else { "onstart" }}},
                    "spec": spec,
                });
                plan.push(Request::of::<APIService>(&user, "", name, "", Action::Create { object }));
                plan.requests.extend(status(&user, name, &Value::Null, LOCAL, now));
                continue;
            };
            // Who points a service elsewhere and takes the label away means it.
            if stands.meta.is_leaving() || !stands.meta.labels.contains_key(MANAGED) {
                continue;
            }
            let value: Value = serde_json::from_slice(&stands.bytes()).unwrap_or_default();
            if value["spec"] != *spec {
                let nulls =
                    value["spec"].as_object().into_iter().flatten().map(|(field, _)| (field.clone(), Value::Null));
                let mut whole: Value = nulls.collect::<serde_json::Map<_, _>>().into();
                for (field, value) in spec.as_object().into_iter().flatten() {
                    whole[field] = value.clone();
                }
                let patch = Patch::Merge(json!({"spec": whole}));
                plan.push(Request::of::<APIService>(&user, "", name, "", Action::Patch { patch }));
            }
            plan.requests.extend(status(&user, name, &value, LOCAL, now));
        }
        let left = view.objects(&API_SERVICES, None).filter(|service| {
            service.meta.labels.contains_key(MANAGED)
                && !service.meta.is_leaving()
                && !wanted.contains_key(service.key.name())
        });
        for service in left {
            plan.push(Request::delete::<APIService>(&user, "", service.key.name(), DeleteOptions::default()));
        }
        plan
    }
}

const LOCAL: (bool, &str, &str) = (true, "Local", "Local APIServices are always available");

/// The specs of all that there shall be, by name.
fn wanted(view: &View) -> BTreeMap<String, Value> {
    let catalog = Catalog::of(view);
    let of_rows = catalog.rows().iter().map(|row| (row.kind.group.to_string(), row.kind.version.to_string()));
    let of_reviews = REVIEWS.iter().map(|(group, version)| ((*group).to_owned(), (*version).to_owned()));
    // The order of a group's versions is that of discovery.
    let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (group, version) in of_rows.chain(of_reviews) {
        let versions = seen.entry(group).or_default();
        if !versions.contains(&version) {
            versions.push(version);
        }
    }
    let mut wanted = BTreeMap::new();
    for (group, versions) in seen {
        let known = PRIORITIES.iter().find(|(known, _)| *known == group);
        let (priority, first) = known.map_or(CUSTOM, |(_, priority)| (*priority, VERSION));
        for (place, version) in versions.iter().rev().enumerate() {
            let order = first + i64::try_from(place).unwrap_or(0);
            let mut spec = json!({"version": version, "groupPriorityMinimum": priority, "versionPriority": order});
            if !group.is_empty() {
                spec["group"] = json!(group);
            }
            wanted.insert(format!("{version}.{group}"), spec);
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use copepod_registry::{Env, transact};

    use super::*;

    fn settle(view: View) -> View {
        let (now, mut dice) = (Timestamp::UNIX_EPOCH, 0);
        let mut throw = || {
            dice += 1;
            dice
        };
        let plan = Local.reconcile(&view, &Key::new(API_SERVICES, "", ""), now);
        transact(&view, &plan.requests, &mut Env { now, dice: &mut throw }).unwrap().view
    }

    #[test]
    fn every_group_and_version_is_registered_once_and_for_good() {
        let view = settle(View::default());
        let count = view.count(&API_SERVICES);
        assert!(count > 20, "{count}");
        let core: Value =
            serde_json::from_slice(&view.object(&Key::new(API_SERVICES, "", "v1.")).unwrap().bytes()).unwrap();
        assert_eq!(core["spec"]["groupPriorityMinimum"], 18_000);
        assert_eq!(core["status"]["conditions"][0]["reason"], "Local");
        let key = Key::new(API_SERVICES, "", "");
        let again = Local.reconcile(&view, &key, Timestamp::UNIX_EPOCH).requests;
        assert!(again.is_empty(), "{again:?}");
    }

    #[test]
    fn what_is_changed_is_put_back_and_what_is_not_served_goes() {
        let view = settle(View::default());
        let user = User::system("somebody");
        let change = json!({"spec": {"versionPriority": 1}});
        let gone = json!({
            "metadata": {"name": "v9.gone.example.com", "labels": {MANAGED: "true"}},
            "spec": {"group": "gone.example.com", "version": "v9", "groupPriorityMinimum": 1, "versionPriority": 1},
        });
        let requests = [
            Request::merge::<APIService>(&user, "", "v1.apps", change),
            Request::of::<APIService>(&user, "", "v9.gone.example.com", "", Action::Create { object: gone }),
        ];
        let mut dice = || 7;
        let view = transact(&view, &requests, &mut Env { now: Timestamp::UNIX_EPOCH, dice: &mut dice }).unwrap().view;
        let view = settle(view);
        let apps = view.object(&Key::new(API_SERVICES, "", "v1.apps")).unwrap();
        let apps: Value = serde_json::from_slice(&apps.bytes()).unwrap();
        assert_eq!(apps["spec"]["versionPriority"], VERSION);
        assert!(view.object(&Key::new(API_SERVICES, "", "v9.gone.example.com")).is_none());
    }
}
