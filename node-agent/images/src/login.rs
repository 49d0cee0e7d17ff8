//! Which login is meant for which registry.

use std::fmt;

use crate::Reference;

/// How to log in to a registry.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Credential {
    /// As Docker's configuration writes it: `registry.example.com`, `https://index.docker.io/v1/`, `*.example.com/team`.
    pub registry: String,
    pub username: String,
    pub password: String,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.username, self.registry)
    }
}

/// The logins for an image, the most particular first.
pub fn matching<'a>(credentials: &'a [Credential], reference: &Reference) -> Vec<&'a Credential> {
    let mut matching: Vec<(usize, &Credential)> = credentials
        .iter()
        .filter_map(|credential| Some((specificity(&credential.registry, reference)?, credential)))
        .collect();
    // Stable: of equals, the first one given goes first.
    matching.sort_by_key(|(specificity, _)| std::cmp::Reverse(*specificity));
    matching.into_iter().map(|(_, credential)| credential).collect()
}

/// How much of the name the pattern covers, if it fits.
fn specificity(pattern: &str, reference: &Reference) -> Option<usize> {
    let pattern = pattern.strip_prefix("https://").or_else(|| pattern.strip_prefix("http://")).unwrap_or(pattern);
    let (host, path) = pattern.split_once('/').unwrap_or((pattern, ""));
    let host = match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    };
    // The version of a protocol that nobody speaks now, which Docker never took out of its files.
    let path = match path.trim_matches('/') {
        "v1" | "v2" => "",
        path => path,
    };
    let path_fits = path.is_empty()
        || reference.repository().strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    (host_fits(host, reference.registry()) && path_fits).then_some(path.len())
}

/// `*` stands for a part of one label.
fn host_fits(pattern: &str, host: &str) -> bool {
    let (pattern, host): (Vec<&str>, Vec<&str>) = (pattern.split('.').collect(), host.split('.').collect());
    pattern.len() == host.len() && pattern.iter().zip(host).all(|(pattern, label)| label_fits(pattern, label))
}

fn label_fits(pattern: &str, label: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == label,
        Some((before, after)) => label.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len()).any(|skip| rest.get(skip..).is_some_and(|rest| label_fits(after, rest)))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_particular_login_goes_first() {
        let logins = |image: &str, registries: &[&str]| {
            let credential = |registry: &&str| Credential {
                registry: (*registry).into(),
                username: "u".into(),
                password: "p".into(),
            };
            let credentials: Vec<Credential> = registries.iter().map(credential).collect();
            let matching = matching(&credentials, &image.parse().unwrap());
            matching.iter().map(|credential| credential.registry.as_str()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(logins("nginx", &["https://index.docker.io/v1/", "ghcr.io"]), "https://index.docker.io/v1/");
        assert_eq!(logins("r.io/team/a", &["r.io", "r.io/team", "r.io/tea", "s.io"]), "r.io/team r.io");
        assert_eq!(logins("a.r.io/x", &["*.r.io", "*.io", "r.io", "a*.r.io"]), "*.r.io a*.r.io");
        assert_eq!(logins("r.io:5000/x", &["r.io", "r.io:5000", "http://r.io:5000"]), "r.io:5000 http://r.io:5000");
    }
}
