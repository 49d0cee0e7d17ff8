//! The embedded runtime, for real: namespaces, cgroups, processes. Needs root.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use copepod_runtime::{
    Capabilities, ContainerSpec, Embedded, Mount, Pod, Propagation, Resources, SandboxSpec, StartError, State, UserIds,
};

/// A runtime in a directory of its own, with a busybox to run.
struct World {
    directory: tempfile::TempDir,
    runtime: Embedded,
    node: String,
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

impl World {
    fn new() -> World {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("rootfs");
        for name in ["bin", "tmp", "proc", "sys", "dev", "etc"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed");
        let applets =
            ["sh", "sleep", "cat", "echo", "id", "hostname", "touch", "grep", "wc", "ls", "unshare", "mount", "true"];
        for applet in applets {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        let node = format!("test-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let runtime = open(directory.path());
        World { directory, runtime, node }
    }

    fn sandbox(&self) -> SandboxSpec {
        SandboxSpec {
            id: "pod-0".into(),
            pod: Pod { namespace: "d".into(), name: "p".into(), uid: "u".into() },
            hostname: "web-1".into(),
            cgroup_parent: format!("copepod/{}/burstable/podu", self.node),
            ..SandboxSpec::default()
        }
    }

    fn container(&self, id: &str, script: &str) -> ContainerSpec {
        ContainerSpec {
            id: id.into(),
            sandbox_id: "pod-0".into(),
            name: id.into(),
            image: "busybox".into(),
            rootfs: self.directory.path().join("rootfs"),
            args: ["sh", "-c", script].map(str::to_owned).to_vec(),
            env: vec![("PATH".into(), "/bin".into())],
            working_dir: "/".into(),
            cgroup_parent: self.sandbox().cgroup_parent,
            log_path: self.log(id),
            ..ContainerSpec::default()
        }
    }

    fn log(&self, id: &str) -> PathBuf {
        self.directory.path().join(format!("{id}.log"))
    }

    /// The text that a container has written.
    fn said(&self, id: &str) -> String {
        let log = fs::read_to_string(self.log(id)).unwrap_or_default();
        let lines = log.lines().filter_map(|line| line.splitn(4, ' ').nth(3));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Runs a script to its end; gives its exit code and what it wrote.
    async fn run(&self, change: impl FnOnce(&mut ContainerSpec)) -> (i32, String) {
        let mut spec = self.container("run", "true");
        change(&mut spec);
        self.runtime.start(&spec).await.unwrap();
        let exit = self.runtime.wait("run").await.unwrap();
        let said = self.said("run");
        self.runtime.remove_container("run").await.unwrap();
        let _ = fs::remove_file(self.log("run"));
        (exit.code, said)
    }

    fn script(text: &str) -> Vec<String> {
        ["sh", "-c", text].map(str::to_owned).to_vec()
    }

    async fn end(self) {
        self.runtime.remove_sandbox("pod-0").await.unwrap();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let path = self.directory.path().to_str().unwrap();
        assert!(!mounts.contains(path), "{mounts}");
        let cgroups =
            Command::new("find").args(["/sys/fs/cgroup", "-path", &format!("*/{}/*/podu*", self.node)]).output();
        assert_eq!(String::from_utf8_lossy(&cgroups.unwrap().stdout), "");
        let left = Command::new("pgrep").args(["-f", path]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&left.stdout), "");
        assert_eq!(fs::read_dir(self.directory.path().join("run/sandboxes")).unwrap().count(), 0);
        for entry in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            for below in ["burstable", ""] {
                let _ = fs::remove_dir(entry.path().join("copepod").join(&self.node).join(below));
            }
        }
    }
}

fn open(directory: &Path) -> Embedded {
    Embedded::open(&directory.join("run"), PathBuf::from(env!("CARGO_BIN_EXE_copepod-shim"))).unwrap()
}

#[tokio::test]
async fn a_container_runs_in_namespaces_of_its_own() {
    let world = World::new();
    let netns = world.runtime.create_sandbox(&world.sandbox()).await.unwrap();
    assert!(netns.unwrap().exists());
    let script =
        "echo $$ $(hostname) $(ls /proc | grep -c '^[0-9]'); cat /proc/net/dev | grep -c :; echo bad >&2; exit 3";
    let (code, said) = world.run(|spec| spec.args = World::script(script)).await;
    assert_eq!(code, 3);
    let mut lines: Vec<&str> = said.lines().collect();
    lines.sort();
    assert_eq!(lines[0], "1", "only the loopback: {said}");
    assert!(lines[1].starts_with("1 web-1 "), "the first process, alone: {said}");
    assert_eq!(lines[2], "bad");
    world.end().await;
}

#[tokio::test]
async fn signals_and_grace_end_containers() {
    let world = World::new();
    world.runtime.create_sandbox(&world.sandbox()).await.unwrap();
    let polite = "trap 'echo bye; exit 0' TERM; echo ready; while true; do sleep 0.05; done";
    world.runtime.start(&world.container("polite", polite)).await.unwrap();
    world.runtime.start(&world.container("stubborn", "trap '' TERM; while true; do sleep 1; done")).await.unwrap();
    // Its shell must have set the trap before the signal comes.
    let ready = async {
        while world.said("polite") != "ready" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ready).await.expect("it says that it is ready");
    world.runtime.stop("polite", Duration::from_secs(20)).await.unwrap();
    let exit = world.runtime.wait("polite").await.unwrap();
    assert_eq!((exit.code, exit.signal), (0, None));
    assert_eq!(world.said("polite"), "ready\nbye");
    world.runtime.stop("stubborn", Duration::from_millis(300)).await.unwrap();
    let exit = world.runtime.wait("stubborn").await.unwrap();
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
    // Again is fine.
    world.runtime.stop("stubborn", Duration::ZERO).await.unwrap();
    world.end().await;
}

#[tokio::test]
async fn a_command_that_is_not_there_is_told() {
    let world = World::new();
    world.runtime.create_sandbox(&world.sandbox()).await.unwrap();
    let mut spec = world.container("none", "");
    spec.args = vec!["no-such-program".into()];
    match world.runtime.start(&spec).await {
        Err(StartError::Run(text)) => assert!(text.contains("no-such-program"), "{text}"),
        other => panic!("{other:?}"),
    }
    // The name is free again.
    spec.args = World::script("exit 0");
    world.runtime.start(&spec).await.unwrap();
    assert_eq!(world.runtime.wait("none").await.unwrap().code, 0);
    world.end().await;
}

#[tokio::test]
async fn users_capabilities_and_roots_are_kept_small() {
    let world = World::new();
    world.runtime.create_sandbox(&world.sandbox()).await.unwrap();
    let (_, said) = world
        .run(|spec| {
            spec.user = UserIds { uid: 1000, gid: 1001, groups: vec![7] };
            spec.args = World::script("id -u; id -g; id -G; touch /x || echo no");
            spec.read_only_rootfs = true;
        })
        .await;
    assert!(said.contains("1000\n1001\n") && said.contains('7') && said.contains("no"), "{said}");
    let (_, said) = world
        .run(|spec| {
            spec.capabilities = Capabilities { add: vec![], drop: vec!["ALL".into()] };
            spec.args = World::script("grep CapEff /proc/1/status");
        })
        .await;
    assert!(said.contains("0000000000000000"), "{said}");
    let (_, said) = world
        .run(|spec| spec.args = World::script("unshare -n true && echo made || echo refused; cat /proc/kcore | wc -c"))
        .await;
    assert!(said.contains("refused") && said.contains('0'), "{said}");
    world.end().await;
}

#[tokio::test]
async fn memory_beyond_the_limit_is_an_oom_kill() {
    let world = World::new();
    world.runtime.create_sandbox(&world.sandbox()).await.unwrap();
    let mut spec = world.container("greedy", "x=a; while true; do x=$x$x; done");
    spec.resources = Resources { memory_limit_bytes: Some(16 << 20), cpu_quota: Some(50_000), ..Resources::default() };
    world.runtime.start(&spec).await.unwrap();
    let exit = world.runtime.wait("greedy").await.unwrap();
    assert!(exit.oom_killed, "{exit:?}");
    assert_eq!(exit.code, 137);
    world.end().await;
}

#[tokio::test]
async fn commands_run_inside_and_are_bounded() {
    let world = World::new();
    world.runtime.create_sandbox(&world.sandbox()).await.unwrap();
    world.runtime.start(&world.container("main", "touch /tmp/mark; sleep 600")).await.unwrap();
    let ask = async |text: &str, limit: u64| {
        world.runtime.exec("main", &World::script(text), Duration::from_secs(limit)).await
    };
    let said = ask("hostname; ls /tmp; exit 4", 10).await.unwrap();
    assert_eq!((said.exit_code, said.output.as_str()), (4, "web-1\nmark\n"));
    let refusal = ask("sleep 100", 1).await.unwrap_err();
    assert!(refusal.0.contains("timed out"), "{refusal}");
    assert!(world.runtime.exec("main", &["none".into()], Duration::from_secs(5)).await.is_err());
    assert!(world.runtime.usage().iter().any(|usage| usage.container == "main" && usage.memory_bytes > 0));
    world.end().await;
}

#[tokio::test]
async fn an_agent_that_comes_back_finds_everything() {
    let world = World::new();
    world.runtime.create_sandbox(&world.sandbox()).await.unwrap();
    world.runtime.start(&world.container("long", "sleep 600")).await.unwrap();
    world.runtime.start(&world.container("short", "exit 5")).await.unwrap();
    let again = open(world.directory.path());
    let exit = again.wait("short").await.unwrap();
    assert_eq!(exit.code, 5);
    let sandboxes = again.list().await.unwrap();
    assert_eq!(sandboxes.len(), 1);
    assert!(sandboxes[0].ready);
    let state = |name: &str| &sandboxes[0].containers.iter().find(|container| container.name == name).unwrap().state;
    assert!(matches!(state("long"), State::Running { pid, .. } if *pid > 1));
    assert_eq!(*state("short"), State::Exited(exit));
    again.stop("long", Duration::ZERO).await.unwrap();
    assert_eq!(again.wait("long").await.unwrap().code, 137);
    world.end().await;
}

#[tokio::test]
async fn a_sandbox_whose_shim_died_is_cleaned_up() {
    let world = World::new();
    world.runtime.create_sandbox(&world.sandbox()).await.unwrap();
    world.runtime.start(&world.container("main", "sleep 600")).await.unwrap();
    let pid = fs::read_to_string(world.directory.path().join("run/sandboxes/pod-0/shim.pid")).unwrap();
    Command::new("kill").args(["-9", pid.trim()]).status().unwrap();
    let dead = async {
        while world.runtime.list().await.unwrap()[0].ready {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), dead).await.expect("the shim has ended");
    assert!(world.runtime.wait("main").await.unwrap().code == 137);
    world.end().await;
}

#[tokio::test]
async fn files_and_directories_are_mounted_where_the_image_has_none() {
    let world = World::new();
    world.runtime.create_sandbox(&world.sandbox()).await.unwrap();
    let source = world.directory.path().join("data");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("f"), "content").unwrap();
    let mount = |source: PathBuf, target: &str, read_only| Mount {
        source,
        target: target.into(),
        read_only,
        propagation: Propagation::Private,
    };
    let (_, said) = world
        .run(|spec| {
            spec.mounts = vec![
                mount(source.clone(), "/deep/dir", false),
                mount(source.join("f"), "/etc/one", true),
                mount(source.join("f"), "/dev/termination-log", false),
            ];
            spec.args = World::script("cat /deep/dir/f /etc/one; echo; echo x > /etc/one || echo no; echo out > /deep/dir/g; echo t > /dev/termination-log");
        })
        .await;
    assert!(said.contains("contentcontent") && said.contains("no"), "{said}");
    assert_eq!(fs::read_to_string(source.join("g")).unwrap(), "out\n");
    assert_eq!(fs::read_to_string(source.join("f")).unwrap(), "t\n");
    world.end().await;
}
