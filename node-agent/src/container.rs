//! From a pod's spec and an image to what the runtime is asked to run.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use copepod_api::quantity::Quantity;
use copepod_pods::{
    Ended, QosClass,
    env::{Env, expand, resolve},
    qos::amount,
    spec,
};
use copepod_volumes::Volumes;
use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, SeccompProfile, SecurityContext};
use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2},
    sys::stat::Mode,
};

use crate::{
    files,
    machine::{Machine, PodSources},
    node,
    surface::{ContainerSpec, Exit, Image, Mount, PodRef, Propagation, Resources, User, UserAsked, UserIds},
    worker::pod_ref,
};

/// The exit code of a container whose command could not be run, as in Kubernetes.
pub const START_ERROR_EXIT: i32 = 128;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Files of users in images are small; a huge one is an attack.
const USERS_MAX_BYTES: u64 = 1 << 20;

/// Everything around a container that its spec does not say.
pub struct World<'a> {
    pub machine: &'a Machine,
    pub pod: &'a Pod,
    pub image: &'a Image,
    pub volumes: &'a Volumes,
    pub rootfs: PathBuf,
    pub sandbox_id: &'a str,
    pub attempt: u32,
    pub id: &'a str,
    /// The running container whose processes this one shall see.
    pub target: Option<String>,
}

pub fn id(pod: &PodRef, name: &str, attempt: u32) -> String {
    format!("{}-{name}-{attempt}", pod.uid)
}

/// The image's variables, then what Kubernetes adds, then what the spec says.
pub fn env(machine: &Machine, pod: &Pod, wanted: &Container, image: &Image, ips: &[String]) -> Result<Env, String> {
    let sources = PodSources { machine, pod, pod_ips: ips };
    let services = machine.services_for(pod.metadata.namespace.as_deref().unwrap_or_default());
    let said = resolve(pod, wanted, &services, &sources, &machine.facts(ips))?;
    let mut env = Env::default();
    env.set("PATH", DEFAULT_PATH);
    env.set("HOSTNAME", files::hostname(pod, &machine.name));
    for (name, value) in image.env.iter().filter_map(|line| line.split_once('=')) {
        env.set(name, value);
    }
    if wanted.tty == Some(true) && env.get("TERM").is_none() {
        env.set("TERM", "xterm");
    }
    for (name, value) in said.0 {
        env.set(name, value);
    }
    Ok(env)
}

pub fn spec(world: &World, wanted: &Container, mut env: Env) -> Result<ContainerSpec, String> {
    let World { machine, pod, image, rootfs, .. } = world;
    let reference = pod_ref(pod);
    let none = SecurityContext::default();
    let security = wanted.security_context.as_ref().unwrap_or(&none);
    let pod_none = PodSecurityContext::default();
    let pod_security = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()).unwrap_or(&pod_none);

    let user = if rootfs.as_os_str().is_empty() {
        User::Asked(user_asked(image, security, pod_security)?)
    } else {
        let (user, home) = user(rootfs, image, security, pod_security)?;
        if env.get("HOME").is_none() {
            env.set("HOME", home);
        }
        User::Known(user)
    };
    let args = command(wanted, image, &env);
    if args.is_empty() {
        return Err("no command specified: neither the container nor its image names one".into());
    }
    let working_dir = [wanted.working_dir.as_deref().unwrap_or_default(), image.working_dir.as_str(), "/"]
        .into_iter()
        .find(|dir| !dir.is_empty())
        .unwrap_or("/");
    let privileged = security.privileged == Some(true);
    Ok(ContainerSpec {
        id: world.id.into(),
        sandbox_id: world.sandbox_id.into(),
        pod: reference.clone(),
        name: wanted.name.clone(),
        attempt: world.attempt,
        image: spec::image(wanted).into(),
        image_id: image.id.clone(),
        rootfs: rootfs.clone(),
        read_only_rootfs: security.read_only_root_filesystem == Some(true),
        args,
        working_dir: working_dir.into(),
        user,
        mounts: mounts(world, wanted, &reference, &env)?,
        privileged,
        no_new_privileges: !privileged && security.allow_privilege_escalation == Some(false),
        capabilities: security.capabilities.clone(),
        seccomp: security
            .seccomp_profile
            .clone()
            .or_else(|| pod_security.seccomp_profile.clone())
            .or_else(default_seccomp),
        unmasked_proc: security.proc_mount.as_deref() == Some("Unmasked"),
        resources: resources(machine, pod, wanted),
        cgroup_parent: cgroup_parent(&machine.cgroup, pod),
        log_path: log_path(machine, &reference, wanted, world.attempt)?,
        stop_signal: stop_signal(wanted).or_else(|| image.stop_signal.clone()),
        stdin: wanted.stdin == Some(true),
        stdin_once: wanted.stdin_once == Some(true),
        tty: wanted.tty == Some(true),
        target: world.target.clone(),
        env: env.0,
    })
}

/// Secure by default: the runtime's profile, unless the pod asks for another or for none.
fn default_seccomp() -> Option<SeccompProfile> {
    Some(SeccompProfile { type_: "RuntimeDefault".into(), ..SeccompProfile::default() })
}

fn stop_signal(wanted: &Container) -> Option<String> {
    wanted.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.clone())
}

fn log_path(machine: &Machine, pod: &PodRef, wanted: &Container, attempt: u32) -> Result<PathBuf, String> {
    let path = machine.log_path(pod, &wanted.name, attempt);
    let dir = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    Ok(path)
}

/// `command` replaces the image's entrypoint and its command; `args` only its command.
fn command(wanted: &Container, image: &Image, env: &Env) -> Vec<String> {
    let said =
        |list: &Option<Vec<String>>| -> Vec<String> { list.iter().flatten().map(|text| expand(text, env)).collect() };
    let (command, args) = (said(&wanted.command), said(&wanted.args));
    match (command.is_empty(), args.is_empty()) {
        (false, _) => [command, args].concat(),
        (true, false) => [image.entrypoint.clone(), args].concat(),
        (true, true) => [image.entrypoint.clone(), image.command.clone()].concat(),
    }
}

fn mounts(world: &World, wanted: &Container, pod: &PodRef, env: &Env) -> Result<Vec<Mount>, String> {
    let mut mounts = Vec::new();
    for mount in wanted.volume_mounts.iter().flatten() {
        let sub_path = match (&mount.sub_path, &mount.sub_path_expr) {
            (_, Some(expression)) if !expression.is_empty() => Some(expand(expression, env)),
            (path, _) => path.clone(),
        };
        let source = copepod_volumes::mount_source(world.volumes, mount, sub_path.as_deref())
            .map_err(|error| error.to_string())?;
        let read_only_volume = world.volumes.get(&mount.name).is_some_and(|made| made.read_only);
        let target = PathBuf::from(&mount.mount_path);
        let target = if target.is_absolute() { target } else { Path::new("/").join(target) };
        mounts.push(Mount {
            source,
            target,
            read_only: mount.read_only == Some(true) || read_only_volume,
            propagation: match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => Propagation::HostToContainer,
                Some("Bidirectional") => Propagation::Bidirectional,
                _ => Propagation::Private,
            },
        });
    }
    let etc = files::etc_dir(world.machine, pod);
    for name in ["hosts", "resolv.conf", "hostname"] {
        add(&mut mounts, etc.join(name), &format!("/etc/{name}"), false);
    }
    let words =
        wanted.termination_message_path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/dev/termination-log");
    let source = files::make_termination_log(world.machine, pod, &wanted.name, world.attempt)
        .map_err(|error| format!("termination log: {error}"))?;
    add(&mut mounts, source, words, false);
    // Parents before what is mounted inside them.
    mounts.sort_by_key(|mount| mount.target.components().count());
    Ok(mounts)
}

/// Adds a mount, unless the spec puts something of its own there.
fn add(mounts: &mut Vec<Mount>, source: PathBuf, target: &str, read_only: bool) {
    let target = PathBuf::from(target);
    if !mounts.iter().any(|mount| mount.target == target) {
        mounts.push(Mount { source, target, read_only, propagation: Propagation::Private });
    }
}

/// Who runs the container, and that user's home.
fn user(
    rootfs: &Path,
    image: &Image,
    security: &SecurityContext,
    pod_security: &PodSecurityContext,
) -> Result<(UserIds, String), String> {
    let said = security.run_as_user.or(pod_security.run_as_user);
    let (name, group) =
        image.user.split_once(':').map_or((image.user.as_str(), None), |(user, group)| (user, Some(group)));
    let name = match said {
        Some(user) => number("runAsUser", user)?.to_string(),
        None if name.is_empty() => "0".to_owned(),
        None => name.to_owned(),
    };
    let passwd = read_inside(rootfs, "etc/passwd");
    let groups_file = read_inside(rootfs, "etc/group");
    let known = entries(&passwd).find(|entry| entry[0] == name || entry.get(2) == Some(&name.as_str()));
    let field = |index: usize| known.as_ref().and_then(|entry| entry.get(index)).and_then(|id| id.parse::<u32>().ok());
    let uid = match name.parse::<u32>() {
        Ok(uid) => uid,
        Err(_) => {
            field(2).ok_or_else(|| format!("the image's user {name:?} is not in its /etc/passwd: use runAsUser"))?
        }
    };
    let gid = match (security.run_as_group.or(pod_security.run_as_group), group) {
        (Some(group), _) => number("runAsGroup", group)?,
        (None, Some(group)) if said.is_none() && !group.is_empty() => match group.parse::<u32>() {
            Ok(gid) => gid,
            Err(_) => entries(&groups_file)
                .find(|entry| entry[0] == group)
                .and_then(|entry| entry.get(2).and_then(|id| id.parse().ok()))
                .ok_or_else(|| format!("the image's group {group:?} is not in its /etc/group: use runAsGroup"))?,
        },
        _ => field(3).unwrap_or(0),
    };
    if security.run_as_non_root.or(pod_security.run_as_non_root) == Some(true) && uid == 0 {
        return Err(RUNS_AS_ROOT.into());
    }
    let mut groups = Vec::new();
    if pod_security.supplemental_groups_policy.as_deref() != Some("Strict")
        && let Some(known) = &known
    {
        let member = |entry: &Vec<&str>| entry.get(3).is_some_and(|members| members.split(',').any(|m| m == known[0]));
        groups.extend(entries(&groups_file).filter(member).filter_map(|entry| entry.get(2)?.parse::<u32>().ok()));
    }
    groups.extend(groups_said(pod_security)?);
    groups.retain(|group| *group != gid);
    groups.sort_unstable();
    groups.dedup();
    let home = known.as_ref().and_then(|entry| entry.get(5)).filter(|home| !home.is_empty()).unwrap_or(&"/");
    Ok((UserIds { uid, gid, groups }, (*home).to_owned()))
}

/// What is said of the user where the image's files cannot be read here.
fn user_asked(
    image: &Image,
    security: &SecurityContext,
    pod_security: &PodSecurityContext,
) -> Result<UserAsked, String> {
    let said = security.run_as_user.or(pod_security.run_as_user);
    let of_image = image.user.split(':').next().unwrap_or_default();
    if security.run_as_non_root.or(pod_security.run_as_non_root) == Some(true) {
        let is_root = match said {
            Some(user) => user == 0,
            None => ["", "root"].contains(&of_image) || of_image.parse() == Ok(0),
        };
        if is_root {
            return Err(RUNS_AS_ROOT.into());
        }
        if said.is_none() && of_image.parse::<u32>().is_err() {
            return Err(format!(
                "container has runAsNonRoot and image has non-numeric user ({of_image}), cannot verify user is non-root: set runAsUser"
            ));
        }
    }
    let group = match security.run_as_group.or(pod_security.run_as_group) {
        Some(group) => Some(number("runAsGroup", group)?),
        None => None,
    };
    let user = match said {
        Some(user) => Some(number("runAsUser", user)?.to_string()),
        // A group is never asked for alone.
        None if group.is_some() => Some(if of_image.is_empty() { "0" } else { of_image }.to_owned()),
        None => None,
    };
    Ok(UserAsked {
        user,
        group,
        groups: groups_said(pod_security)?,
        is_strict: pod_security.supplemental_groups_policy.as_deref() == Some("Strict"),
    })
}

const RUNS_AS_ROOT: &str = "container has runAsNonRoot and image will run as root: set runAsUser, or use another image";

fn number(name: &str, value: i64) -> Result<u32, String> {
    u32::try_from(value).map_err(|_| format!("{name} {value} is not a user or group: it must be 0 to {}", u32::MAX))
}

fn groups_said(pod_security: &PodSecurityContext) -> Result<Vec<u32>, String> {
    let said = pod_security.supplemental_groups.iter().flatten().chain(&pod_security.fs_group);
    said.map(|group| number("supplementalGroups", *group)).collect()
}

pub fn is_privileged(wanted: &Container) -> bool {
    wanted.security_context.as_ref().and_then(|security| security.privileged) == Some(true)
}

fn entries(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().map(|line| line.split(':').collect::<Vec<_>>()).filter(|entry| entry.len() > 2)
}

/// Reads a small file of an image. Its links are followed as if the image were the whole machine.
fn read_inside(rootfs: &Path, path: &str) -> String {
    let read = || -> Option<String> {
        let root = open(rootfs, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
        // Not blocking: an image may hold a pipe where a file is expected.
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_IN_ROOT);
        let file = std::fs::File::from(openat2(&root, path, how).ok()?);
        let mut text = String::new();
        file.take(USERS_MAX_BYTES).read_to_string(&mut text).ok()?;
        Some(text)
    };
    read().unwrap_or_default()
}

/// Where the pod's processes are counted: `/copepod/<node>/<qos>/pod<uid>`.
pub fn cgroup_parent(node: &str, pod: &Pod) -> String {
    let class = QosClass::of(pod).name().to_lowercase();
    format!("/copepod/{node}/{class}/pod{}", pod.metadata.uid.as_deref().unwrap_or_default())
}

pub fn resources(machine: &Machine, pod: &Pod, wanted: &Container) -> Resources {
    let resources = wanted.resources.as_ref();
    let request = |name: &str| amount(resources, false, name).or_else(|| amount(resources, true, name));
    let memory_bytes = machine.allocatable.get("memory").map_or(0, Quantity::value);
    let memory_request = request("memory").map_or(0, |quantity| quantity.value());
    Resources {
        cpu_shares: Some(shares(request("cpu"))),
        cpu_quota: amount(resources, true, "cpu").map(quota),
        memory_limit_bytes: amount(resources, true, "memory").map(|quantity| quantity.value()),
        oom_score_adj: Some(oom_score(QosClass::of(pod), memory_request, memory_bytes)),
    }
}

/// Bounds of the pod as a whole: known only when every container has them.
pub fn pod_resources(pod: &Pod) -> Resources {
    let containers: Vec<&Container> = spec::containers(pod).iter().collect();
    let sum = |limit: bool, name: &str| -> Option<Quantity> {
        let amounts = containers.iter().map(|c| amount(c.resources.as_ref(), limit, name));
        amounts.collect::<Option<Vec<_>>>().map(|all| all.into_iter().fold(Quantity::ZERO, |sum, one| sum + one))
    };
    let has_init = !spec::init_containers(pod).is_empty();
    let requested = containers
        .iter()
        .filter_map(|c| {
            amount(c.resources.as_ref(), false, "cpu").or_else(|| amount(c.resources.as_ref(), true, "cpu"))
        })
        .fold(Quantity::ZERO, |sum, one| sum + one);
    Resources {
        cpu_shares: Some(shares(Some(requested))),
        // Init containers may use more than the containers after them: they are bounded one by one.
        cpu_quota: sum(true, "cpu").filter(|_| !has_init).map(quota),
        memory_limit_bytes: sum(true, "memory").filter(|_| !has_init).map(|quantity| quantity.value()),
        oom_score_adj: None,
    }
}

/// A whole CPU is 1024 shares; two are the kernel's least.
fn shares(cpu: Option<Quantity>) -> u64 {
    let milli = cpu.map_or(0, |cpu| cpu.milli()).max(0).unsigned_abs();
    (milli.saturating_mul(1024) / 1000).clamp(2, 262_144)
}

/// In a period of 100 ms; less than a millisecond the kernel refuses.
fn quota(cpu: Quantity) -> i64 {
    cpu.milli().saturating_mul(100).max(1000)
}

/// Who dies first when the machine runs out of memory, as Kubernetes scores it.
fn oom_score(class: QosClass, request_bytes: i64, machine_bytes: i64) -> i32 {
    match class {
        QosClass::Guaranteed => -997,
        QosClass::BestEffort => 1000,
        QosClass::Burstable => {
            let used = if machine_bytes > 0 { 1000 * request_bytes.min(machine_bytes) / machine_bytes } else { 0 };
            i32::try_from(1000 - used).unwrap_or(1000).clamp(3, 999)
        }
    }
}

pub fn ended(id: &str, exit: &Exit, message: String) -> Ended {
    Ended {
        container_id: id.into(),
        exit_code: exit.code,
        signal: exit.signal,
        reason: Ended::reason_of(exit.code, exit.oom_killed).into(),
        message,
        started_at: exit.started_at,
        finished_at: exit.finished_at,
    }
}

/// What a person wants to know when memory ran out.
pub fn out_of_memory(wanted: Option<&Container>, name: &str) -> String {
    match wanted.and_then(|wanted| amount(wanted.resources.as_ref(), true, "memory")) {
        Some(limit) => {
            let more = Quantity::from_bytes(limit.value().saturating_mul(3) / 2);
            format!("Container {name} was killed: it needed more than its memory limit of {limit}; try {more}")
        }
        None => format!("Container {name} was killed: the node ran out of memory ({})", node::memory_text()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn who(image_user: &str, security: serde_json::Value, pod: serde_json::Value) -> Result<String, String> {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::fs::write(root.path().join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/var/web:\n")
            .unwrap();
        std::fs::write(root.path().join("etc/group"), "root:x:0:\nwww:x:34:\nlogs:x:99:web,x\n").unwrap();
        let image = Image { user: image_user.into(), ..Image::default() };
        let security = serde_json::from_value(security).unwrap();
        let (user, home) = user(root.path(), &image, &security, &serde_json::from_value(pod).unwrap())?;
        Ok(format!("{}:{} {:?} {home}", user.uid, user.gid, user.groups))
    }

    #[test]
    fn users_come_from_the_spec_or_the_image() {
        let cases = [
            ("", json!({}), json!({}), Ok("0:0 [] /root")),
            ("web", json!({}), json!({}), Ok("33:34 [99] /var/web")),
            ("web:www", json!({}), json!({}), Ok("33:34 [99] /var/web")),
            ("33:7", json!({}), json!({}), Ok("33:7 [99] /var/web")),
            (
                "web",
                json!({"runAsUser": 1000}),
                json!({"fsGroup": 5, "supplementalGroups": [6, 5]}),
                Ok("1000:0 [5, 6] /"),
            ),
            ("", json!({"runAsGroup": 8}), json!({"runAsUser": 33}), Ok("33:8 [99] /var/web")),
            ("", json!({"runAsNonRoot": true}), json!({}), Err("runAsNonRoot")),
            ("ghost", json!({}), json!({}), Err("\"ghost\" is not in its /etc/passwd")),
            ("", json!({"runAsUser": -1}), json!({}), Err("runAsUser -1")),
        ];
        for (image, security, pod, expected) in cases {
            match (who(image, security.clone(), pod), expected) {
                (Ok(told), Ok(expected)) => assert_eq!(told, expected, "{image} {security}"),
                (Err(told), Err(expected)) => assert!(told.contains(expected), "{told}"),
                (told, _) => panic!("{image} {security}: {told:?}"),
            }
        }
    }

    #[test]
    fn users_of_images_out_of_sight_are_passed_on_as_they_were_said() {
        let asked = |image_user: &str, security: serde_json::Value| {
            let image = Image { user: image_user.into(), ..Image::default() };
            let security = serde_json::from_value(security).unwrap();
            user_asked(&image, &security, &PodSecurityContext::default())
                .map(|asked| (asked.user.unwrap_or_default(), asked.group.unwrap_or_default()))
        };
        assert_eq!(asked("web:www", json!({})), Ok(("".into(), 0)));
        assert_eq!(asked("web:www", json!({"runAsGroup": 8})), Ok(("web".into(), 8)));
        assert_eq!(asked("", json!({"runAsGroup": 8})), Ok(("0".into(), 8)));
        assert_eq!(asked("web", json!({"runAsUser": 7, "runAsNonRoot": true})), Ok(("7".into(), 0)));
        assert_eq!(asked("33", json!({"runAsNonRoot": true})), Ok(("".into(), 0)));
        for (image, told) in [("", "run as root"), ("0:5", "run as root"), ("web", "non-numeric user (web)")] {
            assert!(asked(image, json!({"runAsNonRoot": true})).unwrap_err().contains(told));
        }
    }

    #[test]
    fn files_of_an_image_are_read_as_if_it_were_the_machine() {
        let root = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/hostname", root.path().join("link")).unwrap();
        assert_eq!(read_inside(root.path(), "link"), "");
    }

    #[test]
    fn commands_and_arguments_replace_what_the_image_says() {
        let image = Image { entrypoint: vec!["e".into()], command: vec!["c".into()], ..Image::default() };
        let mut env = Env::default();
        env.set("A", "1");
        let cases = [
            (json!({"name": "x"}), "e c"),
            (json!({"name": "x", "args": ["$(A)"]}), "e 1"),
            (json!({"name": "x", "command": ["s"]}), "s"),
            (json!({"name": "x", "command": ["s"], "args": ["t"]}), "s t"),
        ];
        for (wanted, expected) in cases {
            assert_eq!(command(&serde_json::from_value(wanted).unwrap(), &image, &env).join(" "), expected);
        }
    }

    #[test]
    fn amounts_become_what_the_kernel_counts_in() {
        let cpu = |text: &str| Quantity::parse(text).unwrap();
        assert_eq!((shares(None), shares(Some(cpu("1"))), shares(Some(cpu("250m")))), (2, 1024, 256));
        assert_eq!((quota(cpu("1500m")), quota(cpu("1m"))), (150_000, 1000));
        assert_eq!(oom_score(QosClass::Burstable, 1 << 30, 4 << 30), 750);
    }
}
