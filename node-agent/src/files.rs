//! The files every container finds: `/etc/hosts`, `/etc/resolv.conf`, `/etc/hostname`, and where it may leave its last words.

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
};

use k8s_openapi::api::core::v1::Pod;

use copepod_pods::spec;

use crate::{
    machine::Machine,
    surface::{PodRef, below},
    worker::pod_ref,
};

/// Host names are labels of DNS; longer ones the kernel refuses.
const HOSTNAME_MAX: usize = 63;

/// As Kubernetes: a termination message is a remark, not a log.
const MESSAGE_MAX_BYTES: u64 = 4096;

/// What the cluster's names end in.
pub const CLUSTER_DOMAIN: &str = "cluster.local";

pub fn hostname(pod: &Pod, node: &str) -> String {
    let spec = pod.spec.as_ref();
    if let Some(name) = spec.and_then(|spec| spec.hostname_override.as_deref()).filter(|name| !name.is_empty()) {
        return name.into();
    }
    if spec::is_host_network(pod) {
        return node.into();
    }
    let name = spec.and_then(|spec| spec.hostname.as_deref()).filter(|name| !name.is_empty());
    let name = name.or(pod.metadata.name.as_deref()).unwrap_or_default();
    let short: String = name.chars().take(HOSTNAME_MAX).collect();
    let short = short.trim_end_matches(['-', '.']).to_owned();
    match domain(pod) {
        Some(domain) if spec.is_some_and(|spec| spec.set_hostname_as_fqdn == Some(true)) => format!("{short}.{domain}"),
        _ => short,
    }
}

/// A pod with a subdomain has a name in the cluster's DNS.
fn domain(pod: &Pod) -> Option<String> {
    let subdomain = pod.spec.as_ref()?.subdomain.as_deref().filter(|subdomain| !subdomain.is_empty())?;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    Some(format!("{subdomain}.{namespace}.svc.{CLUSTER_DOMAIN}"))
}

pub fn etc_dir(machine: &Machine, pod: &PodRef) -> PathBuf {
    machine.pod_dir(&pod.uid).join("etc")
}

/// What belongs to one run of a container.
pub fn run_dir(machine: &Machine, pod: &PodRef, container: &str, attempt: u32) -> PathBuf {
    below(&machine.pod_dir(&pod.uid), &["containers", container, &attempt.to_string()])
}

pub fn write(machine: &Machine, pod: &Pod, ips: &[String], resolv_conf: &str) -> io::Result<()> {
    let dir = etc_dir(machine, &pod_ref(pod));
    fs::create_dir_all(&dir)?;
    let hostname = hostname(pod, &machine.name);
    fs::write(dir.join("hosts"), hosts(pod, ips, &hostname))?;
    fs::write(dir.join("resolv.conf"), resolv_conf)?;
    fs::write(dir.join("hostname"), format!("{hostname}\n"))?;
    for name in ["hosts", "resolv.conf", "hostname"] {
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o644))?;
    }
    Ok(())
}

fn hosts(pod: &Pod, ips: &[String], hostname: &str) -> String {
    let mut text = String::new();
    if spec::is_host_network(pod) {
        text.push_str("# Kubernetes-managed hosts file (host network).\n");
        text.push_str(&fs::read_to_string("/etc/hosts").unwrap_or_default());
    } else {
        text.push_str(concat!(
            "# Kubernetes-managed hosts file.\n",
            "127.0.0.1\tlocalhost\n",
            "::1\tlocalhost ip6-localhost ip6-loopback\n",
            "fe00::0\tip6-localnet\n",
            "fe00::0\tip6-mcastprefix\n",
            "fe00::1\tip6-allnodes\n",
            "fe00::2\tip6-allrouters\n",
        ));
        let short = hostname.split('.').next().unwrap_or(hostname);
        for ip in ips {
            match domain(pod) {
                Some(domain) => text.push_str(&format!("{ip}\t{short}.{domain}\t{short}\n")),
                None => text.push_str(&format!("{ip}\t{hostname}\n")),
            }
        }
    }
    let aliases = pod.spec.iter().flat_map(|spec| spec.host_aliases.iter().flatten());
    for (index, alias) in aliases.enumerate() {
        if index == 0 {
            text.push_str("\n# Entries added by HostAliases.\n");
        }
        text.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.as_deref().unwrap_or_default().join("\t")));
    }
    text
}

/// Makes the file that a container may leave its last words in.
pub fn make_termination_log(machine: &Machine, pod: &PodRef, container: &str, attempt: u32) -> io::Result<PathBuf> {
    let dir = run_dir(machine, pod, container, attempt);
    fs::create_dir_all(&dir)?;
    let path = dir.join("termination-log");
    fs::File::create(&path)?;
    // Any user of the container may write to it.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
    Ok(path)
}

pub fn termination_message(machine: &Machine, pod: &PodRef, container: &str, attempt: u32) -> String {
    let path = run_dir(machine, pod, container, attempt).join("termination-log");
    let Ok(file) = fs::File::open(path) else { return String::new() };
    let mut bytes = Vec::new();
    if file.take(MESSAGE_MAX_BYTES).read_to_end(&mut bytes).is_err() {
        return String::new();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "web-0", "namespace": "d", "uid": "u"}, "spec": spec}))
            .unwrap()
    }

    #[test]
    fn a_pod_knows_its_own_name_and_its_aliases() {
        let pod = pod(
            json!({"containers": [], "subdomain": "web", "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}),
        );
        let text = hosts(&pod, &["10.0.0.5".into()], &hostname(&pod, "n1"));
        assert!(text.contains("10.0.0.5\tweb-0.web.d.svc.cluster.local\tweb-0\n"), "{text}");
        assert!(text.ends_with("# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"), "{text}");
    }

    #[test]
    fn host_names_are_cut_to_what_the_kernel_takes() {
        let mut pod = pod(json!({"containers": []}));
        pod.metadata.name = Some(format!("{}-{}", "a".repeat(62), "b".repeat(10)));
        assert_eq!(hostname(&pod, "n1"), "a".repeat(62));
        pod.spec.as_mut().unwrap().host_network = Some(true);
        assert_eq!(hostname(&pod, "n1"), "n1");
    }
}
