//! A container as the OCI runtime specification writes it (runtime-spec 1.2, config.json).

use std::path::Path;

use serde_json::{Value, json};

use crate::{ContainerSpec, Propagation, SandboxSpec, Seccomp, StartError, capabilities, seccomp};

pub const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

pub const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The period that CPU quotas are counted over, in microseconds.
pub const CPU_PERIOD: u64 = 100_000;

/// What programs are told of their terminal where the pod says nothing else.
pub const TERM: &str = "TERM=xterm";

/// Where the pod's shared files and pinned namespaces are.
pub struct Pinned<'a> {
    pub namespaces: &'a Path,
    pub shm: &'a Path,
    /// The processes of another container, for one that shall see them.
    pub pids: Option<&'a Path>,
}

pub fn config(sandbox: &SandboxSpec, spec: &ContainerSpec, pinned: &Pinned<'_>) -> Result<Value, StartError> {
    let capabilities = capabilities::granted(&spec.capabilities, spec.privileged, capabilities::held());
    // A user who is not root gets what the program's file says, within the bounds (capabilities(7)).
    let own: &[String] = if spec.user.uid == 0 { &capabilities } else { &[] };
    let mut env: Vec<String> = spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    if spec.tty && spec.env.iter().all(|(name, _)| name != "TERM") {
        env.push(TERM.to_owned());
    }
    let linux = linux(sandbox, spec, pinned, &capabilities)?;
    Ok(json!({
        "ociVersion": "1.0.2",
        "root": {"path": spec.rootfs, "readonly": spec.read_only_rootfs},
        "hostname": if sandbox.host_network { Value::Null } else { json!(sandbox.hostname) },
        "process": {
            "terminal": spec.tty,
            "user": {"uid": spec.user.uid, "gid": spec.user.gid, "additionalGids": spec.user.groups},
            "args": spec.args,
            "env": env,
            "cwd": spec.working_dir,
            // Left out where it is not wanted: libcontainer then loads the filter before it gives up the right to.
            "noNewPrivileges": spec.no_new_privileges.then_some(true),
            "oomScoreAdj": spec.resources.oom_score_adj.filter(|score| *score >= own_oom_score()),
            "capabilities": {
                "bounding": capabilities, "effective": own, "permitted": own, "inheritable": [], "ambient": [],
            },
        },
        "mounts": mounts(sandbox, spec, pinned),
        "linux": linux,
    }))
}

/// Without CAP_SYS_RESOURCE a score can be raised and not lowered; what cannot be had is not asked for.
fn own_oom_score() -> i32 {
    const CAP_SYS_RESOURCE: u64 = 1 << 24;
    if capabilities::held() & CAP_SYS_RESOURCE != 0 {
        return i32::MIN;
    }
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    own.trim().parse().unwrap_or(0)
}

fn linux(
    sandbox: &SandboxSpec,
    spec: &ContainerSpec,
    pinned: &Pinned<'_>,
    capabilities: &[String],
) -> Result<Value, StartError> {
    let pin = |name: &str| pinned.namespaces.join(name);
    let mut namespaces = vec![json!({"type": "mount"})];
    match pinned.pids {
        _ if sandbox.host_pid => (),
        Some(other) => namespaces.push(json!({"type": "pid", "path": other})),
        None => namespaces.push(json!({"type": "pid"})),
    }
    if !sandbox.host_network {
        namespaces.push(json!({"type": "network", "path": pin("net")}));
        namespaces.push(json!({"type": "uts", "path": pin("uts")}));
    }
    if !sandbox.host_ipc {
        namespaces.push(json!({"type": "ipc", "path": pin("ipc")}));
    }
    let resources = &spec.resources;
    let open = spec.privileged || spec.unmasked_proc;
    let mut linux = json!({
        "cgroupsPath": format!("/{}/{}", spec.cgroup_parent.trim_start_matches('/'), spec.id),
        "namespaces": namespaces,
        "maskedPaths": if open { Vec::new() } else { MASKED.to_vec() },
        "readonlyPaths": if open { Vec::new() } else { READ_ONLY.to_vec() },
        "rootfsPropagation": if spec.mounts.iter().any(|mount| mount.propagation == Propagation::Bidirectional) {
            "shared"
        } else {
            "slave"
        },
        "resources": {
            "devices": devices(spec.privileged),
            "cpu": {
                "shares": resources.cpu_shares,
                "quota": resources.cpu_quota,
                "period": resources.cpu_quota.map(|_| CPU_PERIOD),
            },
            "memory": {"limit": resources.memory_limit_bytes, "swap": resources.memory_limit_bytes},
        },
    });
    if spec.privileged {
        return Ok(linux);
    }
    match &spec.seccomp {
        Seccomp::Unconfined => (),
        Seccomp::RuntimeDefault => linux["seccomp"] = seccomp::default(capabilities),
        Seccomp::Localhost(path) => {
            let failed = |error: &dyn std::fmt::Display| {
                StartError::Create(format!("the seccomp profile {}: {error}", path.display()))
            };
            let text = std::fs::read(path).map_err(|error| failed(&error))?;
            linux["seccomp"] = serde_json::from_slice(&text).map_err(|error| failed(&error))?;
        }
    }
    Ok(linux)
}

/// Nothing but what every program expects: null, zero, full, random, urandom, tty, pseudo-terminals.
fn devices(privileged: bool) -> Value {
    if privileged {
        return json!([{"allow": true, "access": "rwm"}]);
    }
    let allow = |kind: &str, major: i64, minor: Option<i64>, access: &str| json!({"allow": true, "type": kind, "major": major, "minor": minor, "access": access});
    json!([
        {"allow": false, "access": "rwm"},
        allow("c", 1, Some(3), "rwm"), allow("c", 1, Some(5), "rwm"), allow("c", 1, Some(7), "rwm"),
        allow("c", 1, Some(8), "rwm"), allow("c", 1, Some(9), "rwm"), allow("c", 5, Some(0), "rwm"),
        allow("c", 5, Some(1), "rwm"), allow("c", 5, Some(2), "rwm"), allow("c", 136, None, "rwm"),
    ])
}

fn mounts(sandbox: &SandboxSpec, spec: &ContainerSpec, pinned: &Pinned<'_>) -> Vec<Value> {
    let mount = |target: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": source, "options": options});
    let sys: &[&str] =
        if spec.privileged { &["nosuid", "noexec", "nodev"] } else { &["nosuid", "noexec", "nodev", "ro"] };
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
    ];
    if sandbox.host_network {
        // A sysfs of one's own shows the network of the mounter, and may not be mounted in another's namespace.
        mounts.push(mount("/sys", "bind", "/sys", &["rbind", "nosuid", "noexec", "nodev", "ro"]));
    } else {
        mounts.push(mount("/sys", "sysfs", "sysfs", sys));
    }
    let shm = if sandbox.host_ipc { Path::new("/dev/shm") } else { pinned.shm };
    mounts.push(json!({"destination": "/dev/shm", "type": "bind", "source": shm, "options": ["rbind", "nosuid", "noexec", "nodev", "rw"]}));
    for own in &spec.mounts {
        let propagation = match own.propagation {
            Propagation::Private => "rprivate",
            Propagation::HostToContainer => "rslave",
            Propagation::Bidirectional => "rshared",
        };
        mounts.retain(|mount| mount["destination"] != json!(own.target));
        let access = if own.read_only { "ro" } else { "rw" };
        mounts.push(json!({
            "destination": own.target, "type": "bind", "source": own.source, "options": ["rbind", propagation, access],
        }));
    }
    mounts
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::{Mount, Resources, UserIds};

    fn made(change: impl Fn(&mut SandboxSpec, &mut ContainerSpec)) -> Value {
        let mut sandbox = SandboxSpec { hostname: "web".into(), ..SandboxSpec::default() };
        let mut spec = ContainerSpec {
            id: "c1".into(),
            rootfs: PathBuf::from("/r"),
            cgroup_parent: "copepod/n1/pod1".into(),
            ..ContainerSpec::default()
        };
        change(&mut sandbox, &mut spec);
        let pinned = Pinned { namespaces: Path::new("/run/ns"), shm: Path::new("/run/shm"), pids: None };
        config(&sandbox, &spec, &pinned).unwrap()
    }

    fn types(config: &Value) -> Vec<String> {
        let namespaces = config["linux"]["namespaces"].as_array().unwrap();
        namespaces.iter().map(|namespace| namespace["type"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_container_joins_its_pod_and_keeps_pids_and_mounts_to_itself() {
        let config = made(|_, _| ());
        assert_eq!(types(&config), ["mount", "pid", "network", "uts", "ipc"]);
        assert_eq!(config["linux"]["namespaces"][2]["path"], "/run/ns/net");
        assert_eq!(config["linux"]["cgroupsPath"], "/copepod/n1/pod1/c1");
    }

    #[test]
    fn the_hosts_namespaces_are_shared_when_asked() {
        let config = made(|sandbox, _| {
            sandbox.host_network = true;
            sandbox.host_pid = true;
        });
        assert_eq!(types(&config), ["mount", "ipc"]);
    }

    #[test]
    fn limits_are_written_as_the_kernel_counts_them() {
        let config = made(|_, spec| {
            spec.resources = Resources {
                cpu_shares: Some(102),
                cpu_quota: Some(50_000),
                memory_limit_bytes: Some(1 << 20),
                oom_score_adj: None,
            };
        });
        assert_eq!(config["linux"]["resources"]["cpu"], json!({"shares": 102, "quota": 50_000, "period": 100_000}));
        assert_eq!(config["linux"]["resources"]["memory"]["limit"], 1 << 20);
    }

    #[test]
    fn a_user_has_no_capabilities_of_its_own() {
        let config = made(|_, spec| spec.user = UserIds { uid: 1000, gid: 1000, groups: vec![7] });
        assert_eq!(config["process"]["capabilities"]["effective"], json!([]));
        assert_eq!(config["process"]["user"]["additionalGids"], json!([7]));
    }

    #[test]
    fn a_mount_of_the_pod_replaces_a_usual_one() {
        let config = made(|_, spec| {
            spec.mounts.push(Mount {
                source: "/v".into(),
                target: "/dev/shm".into(),
                read_only: true,
                propagation: Propagation::Private,
            });
        });
        let mounts = config["mounts"].as_array().unwrap();
        let shm: Vec<&Value> = mounts.iter().filter(|mount| mount["destination"] == "/dev/shm").collect();
        assert_eq!(shm.len(), 1);
        assert_eq!(shm[0]["source"], "/v");
    }

    #[test]
    fn privileged_containers_are_not_confined() {
        let config = made(|_, spec| spec.privileged = true);
        assert!(config["linux"].get("seccomp").is_none());
        assert_eq!(config["linux"]["maskedPaths"], json!([]));
    }
}
