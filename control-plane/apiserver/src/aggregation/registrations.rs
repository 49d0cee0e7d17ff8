//! Who serves which group and version, as the APIServices of a view say.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use copepod_api::{Object, Resource};
use copepod_store::View;
use serde_json::Value;

pub const API_SERVICES: Resource = Resource::known("apiregistration.k8s.io", "apiservices");

const HTTPS: u16 = 443;

/// The program behind a service that serves a group and version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remote {
    pub namespace: String,
    pub service: String,
    pub port: u16,
    /// Whom to trust, PEM in base64; without it whoever the cluster's authority vouches for.
    pub bundle: Option<String>,
    pub trusts_all: bool,
    pub is_available: bool,
}

#[derive(Clone, Debug, Default)]
struct Registration {
    group_priority: i64,
    version_priority: i64,
    remote: Option<Remote>,
}

/// All of a view, by group and version.
#[derive(Clone, Debug, Default)]
pub struct Registrations {
    known: BTreeMap<(String, String), Registration>,
}

impl Registrations {
    /// Made once for each state of the APIServices.
    pub fn of(view: &View) -> Arc<Registrations> {
        let make = |objects: &mut dyn Iterator<Item = &Arc<Object>>| Registrations {
            known: objects.filter_map(read).collect(),
        };
        view.derived(&API_SERVICES, make).unwrap_or_default()
    }

    /// The program that serves a group and version, where it is not this cluster itself.
    pub fn remote(&self, group: &str, version: &str) -> Option<&Remote> {
        self.known.get(&(group.to_owned(), version.to_owned()))?.remote.as_ref()
    }

    /// All that programs serve.
    pub fn remotes(&self) -> impl Iterator<Item = (&str, &str, &Remote)> {
        let all = self.known.iter();
        all.filter_map(|((group, version), known)| Some((&**group, &**version, known.remote.as_ref()?)))
    }

    /// Puts groups and their versions into the order in which clients shall prefer them. What nobody registered stays
    /// where it is, behind the rest.
    pub fn sort(&self, groups: &mut [(&str, Vec<&str>)]) {
        let of = |group: &str, version: &str| self.known.get(&(group.to_owned(), version.to_owned()));
        for (group, versions) in groups.iter_mut() {
            versions.sort_by_key(|version| Reverse(of(group, version).map(|known| known.version_priority)));
        }
        let priority = |group: &str, versions: &[&str]| {
            versions.iter().filter_map(|version| of(group, version)).map(|known| known.group_priority).max()
        };
        groups.sort_by_key(|(group, versions)| Reverse(priority(group, versions)));
    }
}

fn read(object: &Arc<Object>) -> Option<((String, String), Registration)> {
    let value: Value = serde_json::from_slice(&object.bytes()).ok()?;
    let spec = &value["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let service = &spec["service"];
    let conditions = value["status"]["conditions"].as_array();
    let is_available = |condition: &Value| condition["type"] == "Available" && condition["status"] == "True";
    let remote = service.is_object().then(|| Remote {
        namespace: text(&service["namespace"]),
        service: text(&service["name"]),
        port: service["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(HTTPS),
        bundle: spec["caBundle"].as_str().filter(|bundle| !bundle.is_empty()).map(str::to_owned),
        trusts_all: spec["insecureSkipTLSVerify"] == true,
        is_available: conditions.into_iter().flatten().any(is_available),
    });
    let known = Registration {
        group_priority: spec["groupPriorityMinimum"].as_i64().unwrap_or(0),
        version_priority: spec["versionPriority"].as_i64().unwrap_or(0),
        remote,
    };
    Some(((text(&spec["group"]), text(&spec["version"])), known))
}
