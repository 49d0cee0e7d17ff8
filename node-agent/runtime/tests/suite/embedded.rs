//! The embedded runtime, with the shim that is built with this crate.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use copepod_api::Timestamp;
use copepod_runtime::{
    ContainerSpec, Embedded, ExecOutput, Exit, Resources, RuntimeError, SandboxSpec, SandboxState, StartError, Usage,
};

use crate::{
    contract,
    world::{Runtime, World},
};

pub struct Subject {
    directory: PathBuf,
    runtime: Embedded,
}

impl Runtime for Subject {
    async fn new(directory: &Path, _: &str, _: &Path) -> Subject {
        let program = PathBuf::from(env!("CARGO_BIN_EXE_copepod-shim"));
        let runtime = Embedded::open(&directory.join("run"), program).unwrap();
        Subject { directory: directory.into(), runtime }
    }

    async fn again(&self) -> Subject {
        Subject::new(&self.directory, "", Path::new("")).await
    }

    async fn create_sandbox(&self, spec: &SandboxSpec) -> Result<(), RuntimeError> {
        let netns = self.runtime.create_sandbox(spec).await?;
        assert_eq!(netns.is_some_and(|netns| netns.exists()), !spec.host_network);
        Ok(())
    }

    async fn remove_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        self.runtime.remove_sandbox(id).await
    }

    async fn start(&self, spec: &ContainerSpec) -> Result<Timestamp, StartError> {
        self.runtime.start(spec).await
    }

    async fn wait(&self, id: &str) -> Result<Exit, RuntimeError> {
        self.runtime.wait(id).await
    }

    async fn stop(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        self.runtime.stop(id, grace).await
    }

    async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        self.runtime.remove_container(id).await
    }

    async fn exec(&self, id: &str, command: &[String], timeout: Duration) -> Result<ExecOutput, RuntimeError> {
        self.runtime.exec(id, command, timeout).await
    }

    async fn list(&self) -> Result<Vec<SandboxState>, RuntimeError> {
        self.runtime.list().await
    }

    async fn usage(&self) -> Vec<Usage> {
        self.runtime.usage()
    }

    fn end(self, directory: &Path) {
        assert_eq!(fs::read_dir(directory.join("run/sandboxes")).unwrap().count(), 0);
    }
}

contract::suite!(Subject);

#[tokio::test]
async fn its_network_is_empty_and_signals_are_told() {
    let world = World::<Subject>::with_sandbox().await;
    let (_, said) = world.run(|spec| spec.args = crate::world::words("grep -c : /proc/net/dev")).await;
    assert_eq!(said, "1", "only the loopback");
    world.runtime.start(&world.container("main", "sleep 600")).await.unwrap();
    world.runtime.stop("main", Duration::ZERO).await.unwrap();
    let exit = world.runtime.wait("main").await.unwrap();
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
    world.end().await;
}

#[tokio::test]
async fn a_sandbox_whose_shim_died_is_cleaned_up() {
    let world = World::<Subject>::with_sandbox().await;
    world.runtime.start(&world.container("main", "sleep 600")).await.unwrap();
    let sandbox = world.directory.path().join("run/sandboxes/pod-0");
    let pid = fs::read_to_string(sandbox.join("shim.pid")).unwrap();
    let program = fs::read_to_string(format!("/proc/{0}/task/{0}/children", pid.trim())).unwrap();
    let program = Path::new("/proc").join(program.trim());
    // That a container has started says that its process goes on to become the program, and not that it has yet.
    let is_program = || fs::read_to_string(program.join("cmdline")).unwrap().contains("sleep");
    let started = async {
        while !is_program() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), started).await.expect("the process becomes the program");
    Command::new("kill").args(["-9", pid.trim()]).status().unwrap();
    assert!(world.runtime.wait("main").await.unwrap().code == 137);
    let dead = async {
        while world.runtime.list().await.unwrap()[0].ready || program.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), dead).await.expect("the shim has ended, and what it had started");
    world.end().await;
}

#[tokio::test]
async fn a_container_that_joins_sees_the_processes_of_its_target() {
    let world = World::<Subject>::with_sandbox().await;
    world.runtime.start(&world.container("main", "sleep 600")).await.unwrap();
    let script = "cat /proc/1/cmdline; echo; echo of $(ls /proc | grep -c '^[0-9]')";
    let (code, said) = world
        .run(|spec| {
            spec.args = crate::world::words(script);
            spec.target = Some("main".into());
        })
        .await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("sleep"), "the first process is the other container's: {said}");
    let missing = ContainerSpec { target: Some("other".into()), ..world.container("late", "true") };
    match world.runtime.start(&missing).await {
        Err(StartError::Create(why)) => assert!(why.contains("other"), "{why}"),
        other => panic!("{other:?}"),
    }
    world.end().await;
}

#[tokio::test]
async fn amounts_change_while_a_container_runs() {
    let world = World::<Subject>::with_sandbox().await;
    let amounts = |quota: i64, memory: i64| Resources {
        cpu_shares: Some(512),
        cpu_quota: Some(quota),
        memory_limit_bytes: Some(memory),
        oom_score_adj: None,
    };
    let spec = ContainerSpec { resources: amounts(10_000, 64 << 20), ..world.container("main", "sleep 600") };
    world.runtime.start(&spec).await.unwrap();
    for (quota, memory) in [(50_000, 128 << 20), (20_000, 32 << 20)] {
        world.runtime.runtime.resize("main", &amounts(quota, memory)).unwrap();
        let files = Command::new("sh")
            .arg("-c")
            .arg(format!("cat $(find /sys/fs/cgroup -path '*/{}/*/main/*' \\( -name memory.limit_in_bytes -o -name memory.max -o -name cpu.max -o -name cpu.cfs_quota_us \\))", world.node))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&files.stdout).into_owned();
        assert!(said.contains(&quota.to_string()) && said.contains(&memory.to_string()), "{said}");
    }
    let too_small = world.runtime.runtime.resize("main", &amounts(20_000, 1)).unwrap_err();
    assert!(too_small.0.contains("in use"), "{too_small}");
    world.end().await;
}
