//! One rule of a role: which verbs, on what.

use serde::{Deserialize, Serialize};

use crate::Wish;

const ALL: &str = "*";

/// A `PolicyRule`, with what is missing as empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    pub verbs: Vec<String>,
}

impl Rule {
    pub fn allows(&self, wish: &Wish<'_>) -> bool {
        if !names(&self.verbs, wish.verb()) {
            return false;
        }
        match wish {
            Wish::Path { path, .. } => self.non_resource_urls.iter().any(|pattern| is_under(pattern, path)),
            Wish::Object(wish) => {
                names(&self.api_groups, wish.group)
                    && self.resources.iter().any(|own| is_resource(own, wish.resource, wish.subresource))
                    // A wish about the collection has no name, and a rule for some names does not allow it.
                    && (self.resource_names.is_empty() || self.resource_names.iter().any(|own| own == wish.name))
            }
        }
    }

    /// The rule as refusals show it: `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`.
    pub fn brief(&self) -> String {
        let parts = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.non_resource_urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ];
        let parts: Vec<String> = parts
            .into_iter()
            .filter(|(_, values)| !values.is_empty())
            .map(|(name, values)| format!("{name}:{}", quoted(values)))
            .collect();
        format!("{{{}}}", parts.join(", "))
    }
}

/// `["a" "b"]`, as Kubernetes prints lists of words.
pub(crate) fn quoted<T: AsRef<str>>(values: &[T]) -> String {
    let values: Vec<String> = values.iter().map(|value| format!("{:?}", value.as_ref())).collect();
    format!("[{}]", values.join(" "))
}

/// The list contains the word, or everything.
pub(crate) fn names(list: &[String], word: &str) -> bool {
    list.iter().any(|own| own == ALL || own == word)
}

/// `pods`, `pods/log`, `*` and `*/scale`.
pub(crate) fn is_resource(own: &str, resource: &str, subresource: &str) -> bool {
    if own == ALL {
        return true;
    }
    match own.split_once('/') {
        None => subresource.is_empty() && own == resource,
        Some((of, part)) => !subresource.is_empty() && part == subresource && (of == ALL || of == resource),
    }
}

/// `/healthz`, `/healthz/*` and `*`.
pub(crate) fn is_under(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix(ALL) {
        None => pattern == path,
        Some(_) => path.starts_with(pattern.trim_end_matches(ALL)),
    }
}
