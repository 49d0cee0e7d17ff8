//! `/etc/resolv.conf` of a pod.

use std::collections::BTreeSet;

use crate::{CLUSTER_DOMAIN, DNS_ADDRESS};

/// What resolvers read of such a file, and the kubelet writes.
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_LENGTH_MAX: usize = 2048;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DnsPolicy {
    #[default]
    ClusterFirst,
    /// That of the node.
    Default,
    /// What the pod says and nothing else.
    None,
}

/// What the pod's dnsConfig adds.
#[derive(Clone, Debug, Default)]
pub struct DnsConfig {
    pub nameservers: Vec<String>,
    pub searches: Vec<String>,
    /// `ndots:2`.
    pub options: Vec<String>,
}

pub fn resolv_conf(policy: DnsPolicy, namespace: &str, of_node: &str, config: &DnsConfig) -> String {
    let words = |name: &str| -> Vec<String> {
        let lines = of_node.lines().filter_map(|line| line.strip_prefix(name));
        lines.flat_map(str::split_whitespace).map(str::to_owned).collect()
    };
    let (mut nameservers, mut searches, mut options) = match policy {
        DnsPolicy::None => (Vec::new(), Vec::new(), Vec::new()),
        DnsPolicy::Default => (words("nameserver"), words("search"), words("options")),
        DnsPolicy::ClusterFirst => {
            let own =
                [format!("{namespace}.svc.{CLUSTER_DOMAIN}"), format!("svc.{CLUSTER_DOMAIN}"), CLUSTER_DOMAIN.into()];
            let searches = own.into_iter().chain(words("search")).collect();
            (vec![DNS_ADDRESS.to_string()], searches, vec!["ndots:5".to_owned()])
        }
    };
    nameservers.extend(config.nameservers.iter().cloned());
    searches.extend(config.searches.iter().cloned());
    for option in &config.options {
        let name = option.split(':').next().unwrap_or(option);
        options.retain(|held| held.split(':').next() != Some(name));
        options.push(option.clone());
    }
    limit(&mut nameservers, &mut searches);
    let mut text: String = nameservers.iter().map(|server| format!("nameserver {server}\n")).collect();
    if !searches.is_empty() {
        text.push_str(&format!("search {}\n", searches.join(" ")));
    }
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    text
}

/// Says everything once, and no more than resolvers read.
fn limit(nameservers: &mut Vec<String>, searches: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    nameservers.retain(|server| seen.insert(server.clone()));
    nameservers.truncate(NAMESERVERS_MAX);
    let (mut seen, mut length) = (BTreeSet::new(), 0);
    searches.retain(|search| seen.insert(search.clone()));
    searches.truncate(SEARCHES_MAX);
    let fitting = searches.iter().take_while(|search| {
        length += search.len() + 1;
        length <= SEARCH_LENGTH_MAX + 1
    });
    let fitting = fitting.count();
    searches.truncate(fitting);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_said_than_resolvers_read() {
        let config = DnsConfig {
            nameservers: (1..=5).map(|number| format!("192.0.2.{}", number.min(4))).collect(),
            searches: (0..40).map(|number| format!("{number}{}", "x".repeat(100))).collect(),
            ..DnsConfig::default()
        };
        let text = resolv_conf(DnsPolicy::None, "apps", "", &config);
        let of = |word: &str| text.lines().filter_map(|line| line.strip_prefix(word)).collect::<Vec<_>>();
        assert_eq!(of("nameserver "), ["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
        assert!(of("search ")[0].len() <= SEARCH_LENGTH_MAX);
        let twice = DnsConfig { searches: vec!["svc.cluster.local".into()], ..DnsConfig::default() };
        let text = resolv_conf(DnsPolicy::ClusterFirst, "apps", "search svc.cluster.local\n", &twice);
        assert!(text.contains("search apps.svc.cluster.local svc.cluster.local cluster.local\n"), "{text}");
    }

    #[test]
    fn pods_ask_the_cluster_first() {
        let config = DnsConfig { options: vec!["ndots:2".into()], ..DnsConfig::default() };
        assert_eq!(
            resolv_conf(DnsPolicy::ClusterFirst, "apps", "nameserver 192.0.2.1\nsearch example.org\n", &config),
            "nameserver 10.96.0.10\nsearch apps.svc.cluster.local svc.cluster.local cluster.local example.org\noptions ndots:2\n"
        );
        assert_eq!(
            resolv_conf(DnsPolicy::Default, "apps", "nameserver 192.0.2.1\n", &DnsConfig::default()),
            "nameserver 192.0.2.1\n"
        );
    }
}
