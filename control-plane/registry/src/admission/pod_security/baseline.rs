//! Baseline: no known way out of a container.

use serde_json::Value;

use super::{Check, Fault, Pod, named};

pub const CHECKS: &[Check] = &[
    host_namespaces,
    |pod| {
        pod.fault("privileged", "must not set securityContext.privileged=true", |container| {
            container["securityContext"]["privileged"] == true
        })
    },
    capabilities,
    host_path,
    host_ports,
    host_probes,
    host_process,
    app_armor,
    selinux,
    |pod| {
        let is_shared = pod.spec["hostUsers"] != false;
        pod.fault("procMount", "must not set securityContext.procMount to \"Unmasked\"", |container| {
            let mount = container["securityContext"]["procMount"].as_str();
            is_shared && mount.is_some_and(|mount| mount != "Default")
        })
    },
    seccomp,
    sysctls,
];

/// Capabilities that container runtimes give by default.
const CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Parameters of the kernel that a namespace keeps to itself.
const SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

const SELINUX_TYPES: &[&str] = &["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];

fn host_namespaces(pod: &Pod<'_>) -> Option<Fault> {
    let shared = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|field| pod.spec[*field] == true);
    let details: Vec<String> = shared.map(|field| format!("{field}=true")).collect();
    (!details.is_empty()).then(|| Fault { what: "host namespaces", details: vec![details.join(", ")] })
}

fn capabilities(pod: &Pod<'_>) -> Option<Fault> {
    let mut more: Vec<&str> = pod.containers().flat_map(added).collect();
    more.retain(|name| !CAPABILITIES.contains(name));
    more.sort_unstable();
    more.dedup();
    let quoted: Vec<String> = more.iter().map(|name| format!("{name:?}")).collect();
    let rule = format!("must not include {} in securityContext.capabilities.add", quoted.join(", "));
    pod.fault("non-default capabilities", &rule, |container| added(container).any(|name| !CAPABILITIES.contains(&name)))
}

pub fn added(container: &Value) -> impl Iterator<Item = &str> {
    let own = &container["securityContext"]["capabilities"]["add"];
    own.as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn host_path(pod: &Pod<'_>) -> Option<Fault> {
    let volumes = pod.spec["volumes"].as_array().into_iter().flatten();
    let bad: Vec<&str> =
        volumes.filter(|volume| !volume["hostPath"].is_null()).filter_map(|own| own["name"].as_str()).collect();
    (!bad.is_empty()).then(|| Fault { what: "hostPath volumes", details: vec![named("volume", &bad)] })
}

fn host_ports(pod: &Pod<'_>) -> Option<Fault> {
    let ports_of = |container: &Value| -> Vec<i64> {
        let ports = container["ports"].as_array().into_iter().flatten();
        ports.filter_map(|port| port["hostPort"].as_i64()).filter(|port| *port != 0).collect()
    };
    let mut ports: Vec<i64> = pod.containers().flat_map(ports_of).collect();
    ports.sort_unstable();
    ports.dedup();
    let plural = if ports.len() == 1 { "" } else { "s" };
    let listed: Vec<String> = ports.iter().map(i64::to_string).collect();
    let rule = format!("uses hostPort{plural} {}", listed.join(", "));
    pod.fault("hostPort", &rule, |container| !ports_of(container).is_empty())
}

/// Probes and hooks that the node would carry to somewhere else.
fn host_probes(pod: &Pod<'_>) -> Option<Fault> {
    let hosts = |container: &Value| -> Vec<String> {
        let probes = ["livenessProbe", "readinessProbe", "startupProbe"].map(|field| container[field].clone());
        let hooks = ["postStart", "preStop"].map(|field| container["lifecycle"][field].clone());
        let actions = probes.into_iter().chain(hooks);
        actions
            .flat_map(|action| ["httpGet", "tcpSocket"].map(|by| action[by]["host"].as_str().map(str::to_owned)))
            .flatten()
            .filter(|host| !host.is_empty() && host != "127.0.0.1" && host != "::1")
            .collect()
    };
    pod.fault("probe or lifecycle host", "must not set the host of a probe or a lifecycle hook", |container| {
        !hosts(container).is_empty()
    })
}

fn host_process(pod: &Pod<'_>) -> Option<Fault> {
    let sets = |own: &Value| own["securityContext"]["windowsOptions"]["hostProcess"] == true;
    let of_pod = sets(pod.spec).then(|| Fault {
        what: "hostProcess",
        details: vec!["pod must not set securityContext.windowsOptions.hostProcess=true".to_owned()],
    });
    of_pod.or_else(|| pod.fault("hostProcess", "must not set securityContext.windowsOptions.hostProcess=true", sets))
}

fn app_armor(pod: &Pod<'_>) -> Option<Fault> {
    const WHAT: &str = "forbidden AppArmor profile";
    const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
    let is_free = |own: &Value| own["securityContext"]["appArmorProfile"]["type"] == "Unconfined";
    let mut details = Vec::new();
    if is_free(pod.spec) {
        details.push("pod must not set AppArmor profile type to \"Unconfined\"".to_owned());
    }
    details.extend(
        pod.fault(WHAT, "must not set AppArmor profile type to \"Unconfined\"", is_free)
            .map(|fault| fault.details.concat()),
    );
    for (name, profile) in pod.annotations.as_object().into_iter().flatten() {
        let profile = profile.as_str().unwrap_or_default();
        let is_allowed = ["", "runtime/default"].contains(&profile) || profile.starts_with("localhost/");
        if name.starts_with(ANNOTATION) && !is_allowed {
            details.push(format!("{name}={profile:?}"));
        }
    }
    (!details.is_empty()).then_some(Fault { what: WHAT, details })
}

fn selinux(pod: &Pod<'_>) -> Option<Fault> {
    let bends = |own: &Value| {
        let options = &own["securityContext"]["seLinuxOptions"];
        let said = |field: &str| options[field].as_str().unwrap_or_default().to_owned();
        !SELINUX_TYPES.contains(&&*said("type")) || !said("user").is_empty() || !said("role").is_empty()
    };
    let of_pod = bends(pod.spec).then(|| Fault {
        what: "seLinuxOptions",
        details: vec!["pod set forbidden securityContext.seLinuxOptions".to_owned()],
    });
    of_pod.or_else(|| pod.fault("seLinuxOptions", "set forbidden securityContext.seLinuxOptions", bends))
}

fn seccomp(pod: &Pod<'_>) -> Option<Fault> {
    const RULE: &str = "must not set securityContext.seccompProfile.type to \"Unconfined\"";
    let is_free = |own: &Value| own["securityContext"]["seccompProfile"]["type"] == "Unconfined";
    let of_pod = is_free(pod.spec).then(|| Fault { what: "seccompProfile", details: vec![format!("pod {RULE}")] });
    of_pod.or_else(|| pod.fault("seccompProfile", RULE, is_free))
}

fn sysctls(pod: &Pod<'_>) -> Option<Fault> {
    let own = pod.spec["securityContext"]["sysctls"].as_array().into_iter().flatten();
    let bad: Vec<&str> =
        own.filter_map(|sysctl| sysctl["name"].as_str()).filter(|name| !SYSCTLS.contains(name)).collect();
    (!bad.is_empty()).then(|| Fault { what: "forbidden sysctls", details: vec![bad.join(", ")] })
}
