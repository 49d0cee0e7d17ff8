//! What is asked of a runtime, in the words of its interface.

use std::{collections::HashMap, path::Path};

use super::{cgroups::CgroupDriver, proto};
use crate::{ContainerSpec, HostPort, Propagation, Resources, SandboxSpec, Seccomp, StartError, UserAsked, oci};

/// The id that the agent gave; the runtime has one of its own.
pub const ID: &str = "copepod.io/id";

/// Several nodes may share a runtime; each sees its own.
pub const NODE: &str = "copepod.io/node";

/// All of a sandbox, for an agent that comes back.
pub const SANDBOX: &str = "copepod.io/sandbox";

/// The image as the pod names it.
pub const IMAGE: &str = "copepod.io/image";

pub fn sandbox(spec: &SandboxSpec, node: &str, driver: CgroupDriver) -> proto::PodSandboxConfig {
    let mut labels = pod_labels(&spec.pod);
    labels.insert(ID.into(), spec.id.clone());
    labels.insert(NODE.into(), node.into());
    let said = serde_json::to_string(spec).unwrap_or_default();
    proto::PodSandboxConfig {
        metadata: Some(proto::PodSandboxMetadata {
            name: spec.pod.name.clone(),
            uid: spec.pod.uid.clone(),
            namespace: spec.pod.namespace.clone(),
            attempt: spec.attempt,
        }),
        // With the machine's network comes the machine's name.
        hostname: if spec.host_network { String::new() } else { spec.hostname.clone() },
        log_directory: text(&spec.log_dir),
        // Every container has its own resolv.conf mounted.
        dns_config: None,
        port_mappings: spec.host_ports.iter().filter(|_| !spec.host_network).map(port).collect(),
        labels,
        annotations: HashMap::from([(SANDBOX.into(), said)]),
        linux: Some(proto::LinuxPodSandboxConfig {
            cgroup_parent: driver.parent(&spec.cgroup_parent),
            security_context: Some(proto::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(spec)),
                privileged: spec.privileged,
                seccomp: Some(profile(proto::security_profile::ProfileType::RuntimeDefault, String::new())),
            }),
            sysctls: spec.sysctls.clone().into_iter().collect(),
            resources: None,
        }),
    }
}

/// A container of a pod, which sees the processes of `target` where there is one. Fails where its log would lie where
/// the runtime cannot write it.
pub fn container(
    sandbox: &SandboxSpec,
    spec: &ContainerSpec,
    target: Option<String>,
    node: &str,
) -> Result<proto::ContainerConfig, StartError> {
    let mut labels = pod_labels(&sandbox.pod);
    labels.insert(ID.into(), spec.id.clone());
    labels.insert(NODE.into(), node.into());
    labels.insert("io.kubernetes.container.name".into(), spec.name.clone());
    let log_path = spec.log_path.strip_prefix(&sandbox.log_dir).map_err(|_| {
        let (log, directory) = (spec.log_path.display(), sandbox.log_dir.display());
        StartError::Create(format!("the log {log} is not below the log directory {directory} of its pod"))
    })?;
    let image = if spec.image_id.is_empty() { &spec.image } else { &spec.image_id };
    Ok(proto::ContainerConfig {
        metadata: Some(proto::ContainerMetadata { name: spec.name.clone(), attempt: spec.attempt }),
        image: Some(proto::ImageSpec {
            image: image.clone(),
            user_specified_image: spec.image.clone(),
            ..proto::ImageSpec::default()
        }),
        command: spec.args.clone(),
        args: Vec::new(),
        working_dir: spec.working_dir.clone(),
        envs: spec
            .env
            .iter()
            .map(|(name, value)| proto::KeyValue { key: name.clone(), value: value.clone().into_bytes() })
            .collect(),
        mounts: spec.mounts.iter().map(mount).collect(),
        labels,
        annotations: HashMap::from([(IMAGE.into(), spec.image.clone())]),
        log_path: text(log_path),
        stdin: spec.stdin,
        stdin_once: spec.stdin_once,
        tty: spec.tty,
        linux: Some(proto::LinuxContainerConfig {
            resources: Some(resources(&spec.resources)),
            security_context: Some(security(sandbox, spec, target)),
        }),
        stop_signal: spec.stop_signal.as_deref().and_then(stop_signal).unwrap_or(0),
    })
}

/// Names that tools which look at containers know.
fn pod_labels(pod: &crate::Pod) -> HashMap<String, String> {
    HashMap::from([
        ("io.kubernetes.pod.name".into(), pod.name.clone()),
        ("io.kubernetes.pod.namespace".into(), pod.namespace.clone()),
        ("io.kubernetes.pod.uid".into(), pod.uid.clone()),
    ])
}

fn namespaces(sandbox: &SandboxSpec) -> proto::NamespaceOption {
    use proto::NamespaceMode::{Container, Node, Pod};
    let of = |host: bool| if host { Node } else { Pod };
    let pid = match (sandbox.host_pid, sandbox.share_pid) {
        (true, _) => Node,
        (false, true) => Pod,
        (false, false) => Container,
    };
    proto::NamespaceOption {
        network: of(sandbox.host_network).into(),
        pid: pid.into(),
        ipc: of(sandbox.host_ipc).into(),
        target_id: String::new(),
    }
}

fn port(port: &HostPort) -> proto::PortMapping {
    let protocol = proto::Protocol::from_str_name(&port.protocol.to_uppercase()).unwrap_or(proto::Protocol::Tcp);
    proto::PortMapping {
        protocol: protocol.into(),
        container_port: port.container_port.into(),
        host_port: port.host_port.into(),
        host_ip: port.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
    }
}

fn mount(mount: &crate::Mount) -> proto::Mount {
    use proto::MountPropagation::{PropagationBidirectional, PropagationHostToContainer, PropagationPrivate};
    let propagation = match mount.propagation {
        Propagation::Private => PropagationPrivate,
        Propagation::HostToContainer => PropagationHostToContainer,
        Propagation::Bidirectional => PropagationBidirectional,
    };
    proto::Mount {
        container_path: text(&mount.target),
        host_path: text(&mount.source),
        readonly: mount.read_only,
        selinux_relabel: false,
        propagation: propagation.into(),
    }
}

pub fn resources(asked: &Resources) -> proto::LinuxContainerResources {
    let memory = asked.memory_limit_bytes.unwrap_or(0);
    proto::LinuxContainerResources {
        cpu_period: asked.cpu_quota.map_or(0, |_| oci::CPU_PERIOD as i64),
        cpu_quota: asked.cpu_quota.unwrap_or(0),
        cpu_shares: asked.cpu_shares.map_or(0, |shares| i64::try_from(shares).unwrap_or(i64::MAX)),
        memory_limit_in_bytes: memory,
        oom_score_adj: asked.oom_score_adj.unwrap_or(0).into(),
        // Memory and swap together: no swap beyond the limit.
        memory_swap_limit_in_bytes: memory,
    }
}

fn security(
    sandbox: &SandboxSpec,
    spec: &ContainerSpec,
    target: Option<String>,
) -> proto::LinuxContainerSecurityContext {
    use proto::security_profile::ProfileType::{Localhost, RuntimeDefault, Unconfined};
    let paths = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
    let open = spec.privileged || spec.unmasked_proc;
    let seccomp = match &spec.seccomp {
        _ if spec.privileged => profile(Unconfined, String::new()),
        Seccomp::RuntimeDefault => profile(RuntimeDefault, String::new()),
        Seccomp::Unconfined => profile(Unconfined, String::new()),
        Seccomp::Localhost(path) => profile(Localhost, text(path)),
    };
    let mut context = proto::LinuxContainerSecurityContext {
        capabilities: Some(proto::Capability {
            add_capabilities: spec.capabilities.add.clone(),
            drop_capabilities: spec.capabilities.drop.clone(),
        }),
        privileged: spec.privileged,
        namespace_options: Some(match target {
            Some(target_id) if !sandbox.host_pid => {
                proto::NamespaceOption { pid: proto::NamespaceMode::Target.into(), target_id, ..namespaces(sandbox) }
            }
            _ => namespaces(sandbox),
        }),
        readonly_rootfs: spec.read_only_rootfs,
        no_new_privs: spec.no_new_privileges,
        masked_paths: if open { Vec::new() } else { paths(&oci::MASKED) },
        readonly_paths: if open { Vec::new() } else { paths(&oci::READ_ONLY) },
        seccomp: Some(seccomp),
        ..proto::LinuxContainerSecurityContext::default()
    };
    let number = |value: u32| Some(proto::Int64Value { value: value.into() });
    let groups = match &spec.user_asked {
        None => {
            context.run_as_user = number(spec.user.uid);
            context.run_as_group = number(spec.user.gid);
            &spec.user.groups
        }
        Some(UserAsked { user, group, groups, is_strict }) => {
            if *is_strict {
                context.set_supplemental_groups_policy(proto::SupplementalGroupsPolicy::Strict);
            }
            match user.as_deref().map(|user| (user, user.parse())) {
                Some((_, Ok(uid))) => context.run_as_user = number(uid),
                Some((name, Err(_))) => context.run_as_username = name.into(),
                None => (),
            }
            context.run_as_group = group.and_then(number);
            groups
        }
    };
    context.supplemental_groups = groups.iter().copied().map(i64::from).collect();
    context
}

fn profile(kind: proto::security_profile::ProfileType, path: String) -> proto::SecurityProfile {
    proto::SecurityProfile { profile_type: kind.into(), localhost_ref: path }
}

/// Paths that are not UTF-8 cannot be said in the interface; the agent makes none.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Signals in the order of the interface, which counts from one.
const SIGNALS: [&str; 35] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL",
    "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1",
    "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN",
];

/// The number of a signal in the interface; nothing for one that it does not know.
fn stop_signal(name: &str) -> Option<i32> {
    let upper = name.to_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    let after = |start: &str, base: i32, sign: i32, most: i32| {
        let offset: i32 = short.strip_prefix(start)?.parse().ok()?;
        (1..=most).contains(&offset).then_some(base + sign * offset)
    };
    let known = SIGNALS.iter().position(|signal| !short.is_empty() && *signal == short);
    match known {
        Some(index) => i32::try_from(index + 1).ok(),
        None if short == "RTMAX" => Some(65),
        None => after("RTMIN+", 35, 1, 15).or_else(|| after("RTMAX-", 65, -1, 14)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Capabilities, Mount, Pod, Resources, UserIds};

    fn specs() -> (SandboxSpec, ContainerSpec) {
        let sandbox = SandboxSpec {
            id: "u-0".into(),
            pod: Pod { namespace: "d".into(), name: "web".into(), uid: "u".into() },
            hostname: "web".into(),
            cgroup_parent: "copepod/n1/burstable/podu".into(),
            log_dir: "/logs/d_web_u".into(),
            ..SandboxSpec::default()
        };
        let container = ContainerSpec {
            id: "u-main-0".into(),
            name: "main".into(),
            image: "app:1".into(),
            image_id: "sha256:1".into(),
            log_path: "/logs/d_web_u/main/0.log".into(),
            ..ContainerSpec::default()
        };
        (sandbox, container)
    }

    fn made(
        change: impl Fn(&mut SandboxSpec, &mut ContainerSpec),
    ) -> (proto::PodSandboxConfig, proto::ContainerConfig) {
        let (mut sandbox_spec, mut spec) = specs();
        change(&mut sandbox_spec, &mut spec);
        let made = container(&sandbox_spec, &spec, None, "n1").unwrap();
        (sandbox(&sandbox_spec, "n1", CgroupDriver::Files), made)
    }

    fn security_of(config: proto::ContainerConfig) -> proto::LinuxContainerSecurityContext {
        config.linux.unwrap().security_context.unwrap()
    }

    #[test]
    fn both_can_be_found_again_by_the_agents_ids() {
        let (sandbox, container) = made(|_, _| ());
        assert_eq!((sandbox.labels[ID].as_str(), sandbox.labels[NODE].as_str()), ("u-0", "n1"));
        assert_eq!((container.labels[ID].as_str(), container.labels[NODE].as_str()), ("u-main-0", "n1"));
        let said: SandboxSpec = serde_json::from_str(&sandbox.annotations[SANDBOX]).unwrap();
        assert_eq!(said.cgroup_parent, "copepod/n1/burstable/podu");
        assert_eq!(container.log_path, "main/0.log");
        assert_eq!(container.image.unwrap().image, "sha256:1");
    }

    #[test]
    fn a_log_outside_of_the_pods_directory_is_refused() {
        let (sandbox, mut spec) = specs();
        spec.log_path = "/elsewhere/0.log".into();
        assert!(
            matches!(container(&sandbox, &spec, None, "n1"), Err(StartError::Create(text)) if text.contains("elsewhere"))
        );
    }

    #[test]
    fn the_machines_namespaces_are_asked_for_one_by_one() {
        let modes = |change: &dyn Fn(&mut SandboxSpec)| {
            let (sandbox, _) = made(|sandbox, _| change(sandbox));
            let options = sandbox.linux.unwrap().security_context.unwrap().namespace_options.unwrap();
            (options.network, options.pid, options.ipc)
        };
        assert_eq!(modes(&|_| ()), (0, 1, 0));
        assert_eq!(modes(&|sandbox| sandbox.share_pid = true), (0, 0, 0));
        assert_eq!(modes(&|sandbox| sandbox.host_network = true), (2, 1, 0));
        assert_eq!(modes(&|sandbox| (sandbox.host_pid, sandbox.host_ipc) = (true, true)), (0, 2, 2));
    }

    #[test]
    fn users_are_numbers_or_left_to_the_image() {
        let who = |change: &dyn Fn(&mut ContainerSpec)| {
            let context = security_of(made(|_, spec| change(spec)).1);
            let number = |value: Option<proto::Int64Value>| value.map(|value| value.value);
            (number(context.run_as_user), number(context.run_as_group), context.run_as_username)
        };
        assert_eq!(who(&|spec| spec.user = UserIds { uid: 7, gid: 8, groups: vec![] }), (Some(7), Some(8), "".into()));
        let asked = |user: Option<&str>, group| UserAsked { user: user.map(Into::into), group, ..UserAsked::default() };
        assert_eq!(who(&|spec| spec.user_asked = Some(asked(None, None))), (None, None, "".into()));
        assert_eq!(who(&|spec| spec.user_asked = Some(asked(Some("7"), None))), (Some(7), None, "".into()));
        assert_eq!(who(&|spec| spec.user_asked = Some(asked(Some("web"), Some(5)))), (None, Some(5), "web".into()));
    }

    #[test]
    fn privileged_containers_are_not_confined() {
        let usual = security_of(made(|_, _| ()).1);
        assert!(usual.masked_paths.contains(&"/proc/kcore".into()) && usual.seccomp.unwrap().profile_type == 0);
        let privileged = security_of(made(|_, spec| spec.privileged = true).1);
        assert!(privileged.masked_paths.is_empty() && privileged.seccomp.unwrap().profile_type == 1);
    }

    #[test]
    fn limits_mounts_and_ports_are_carried_over() {
        let (sandbox, container) = made(|sandbox, spec| {
            sandbox.host_ports =
                vec![HostPort { protocol: "UDP".into(), host_ip: None, host_port: 53, container_port: 5353 }];
            spec.capabilities = Capabilities { add: vec!["NET_ADMIN".into()], drop: vec!["ALL".into()] };
            spec.resources =
                Resources { cpu_quota: Some(50_000), memory_limit_bytes: Some(1 << 20), ..Resources::default() };
            spec.mounts = vec![Mount {
                source: "/v".into(),
                target: "/data".into(),
                read_only: true,
                propagation: Propagation::Bidirectional,
            }];
        });
        let port = &sandbox.port_mappings[0];
        assert_eq!((port.protocol, port.host_port, port.container_port), (1, 53, 5353));
        let mount = &container.mounts[0];
        assert_eq!((mount.host_path.as_str(), mount.readonly, mount.propagation), ("/v", true, 2));
        let resources = container.linux.clone().unwrap().resources.unwrap();
        assert_eq!((resources.cpu_quota, resources.cpu_period), (50_000, 100_000));
        assert_eq!(resources.memory_limit_in_bytes, 1 << 20);
        assert_eq!(security_of(container).capabilities.unwrap().drop_capabilities, ["ALL"]);
    }

    #[test]
    fn stop_signals_have_the_numbers_of_the_interface() {
        let numbers = ["SIGTERM", "quit", "SIGUSR1", "SIGRTMIN", "SIGRTMIN+3", "SIGRTMAX-1", "SIGRTMAX", "SIGNO", ""]
            .map(stop_signal);
        let known = [Some(23), Some(18), Some(29), Some(35), Some(38), Some(64), Some(65), None, None];
        assert_eq!(numbers, known);
    }
}
