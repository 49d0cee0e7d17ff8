//! `/etc/resolv.conf` of a pod.

use crate::{CLUSTER_DOMAIN, DNS_ADDRESS};

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
    let mut text: String = nameservers.iter().map(|server| format!("nameserver {server}\n")).collect();
    if !searches.is_empty() {
        text.push_str(&format!("search {}\n", searches.join(" ")));
    }
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

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
