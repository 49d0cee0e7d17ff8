//! What every runtime must do.

use std::{fs, path::PathBuf, time::Duration};

use copepod_runtime::{Capabilities, Mount, Propagation, Resources, StartError, State, UserIds};

use crate::world::{Runtime, World, words};

/// Makes a test of each of these for one runtime.
macro_rules! suite {
    ($subject:ty) => {
        $crate::contract::suite!($subject:
            a_container_runs_in_namespaces_of_its_own,
            signals_and_grace_end_containers,
            a_command_that_is_not_there_is_told,
            users_capabilities_and_roots_are_kept_small,
            memory_beyond_the_limit_is_an_oom_kill,
            commands_run_inside_and_are_bounded,
            an_agent_that_comes_back_finds_everything,
            files_and_directories_are_mounted_where_the_image_has_none,
        );
    };
    ($subject:ty: $($name:ident,)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                $crate::contract::$name::<$subject>().await;
            }
        )*
    };
}
pub(crate) use suite;

pub async fn a_container_runs_in_namespaces_of_its_own<R: Runtime>() {
    let world = World::<R>::with_sandbox().await;
    let script = "echo $$ $(hostname) $(ls /proc | grep -c '^[0-9]'); echo bad >&2; exit 3";
    let (code, said) = world.run(|spec| spec.args = words(script)).await;
    assert_eq!(code, 3);
    let mut lines: Vec<&str> = said.lines().collect();
    lines.sort();
    assert!(lines[0].starts_with("1 web-1 "), "the first process, alone: {said}");
    assert_eq!(lines[1], "bad");
    world.end().await;
}

pub async fn signals_and_grace_end_containers<R: Runtime>() {
    let world = World::<R>::with_sandbox().await;
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
    assert_eq!(exit.code, 137);
    // Again is fine.
    world.runtime.stop("stubborn", Duration::ZERO).await.unwrap();
    world.end().await;
}

pub async fn a_command_that_is_not_there_is_told<R: Runtime>() {
    let world = World::<R>::with_sandbox().await;
    let mut spec = world.container("none", "");
    spec.args = vec!["no-such-program".into()];
    match world.runtime.start(&spec).await {
        Err(StartError::Run(text)) => assert!(text.contains("no-such-program"), "{text}"),
        other => panic!("{other:?}"),
    }
    // The name is free again.
    spec.args = words("exit 0");
    world.runtime.start(&spec).await.unwrap();
    assert_eq!(world.runtime.wait("none").await.unwrap().code, 0);
    world.end().await;
}

pub async fn users_capabilities_and_roots_are_kept_small<R: Runtime>() {
    let world = World::<R>::with_sandbox().await;
    let (_, said) = world
        .run(|spec| {
            spec.user = UserIds { uid: 1000, gid: 1001, groups: vec![7] };
            spec.args = words("id -u; id -g; id -G; touch /x 2> /dev/null || echo no");
            spec.read_only_rootfs = true;
        })
        .await;
    assert!(said.contains("1000\n1001\n") && said.contains('7') && said.contains("no"), "{said}");
    let (_, said) = world
        .run(|spec| {
            spec.capabilities = Capabilities { add: vec![], drop: vec!["ALL".into()] };
            spec.args = words("grep CapEff /proc/1/status");
        })
        .await;
    assert!(said.contains("0000000000000000"), "{said}");
    let (_, said) = world
        .run(|spec| spec.args = words("unshare -n true && echo made || echo refused; cat /proc/kcore | wc -c"))
        .await;
    assert!(said.contains("refused") && said.contains('0'), "{said}");
    world.end().await;
}

pub async fn memory_beyond_the_limit_is_an_oom_kill<R: Runtime>() {
    let world = World::<R>::with_sandbox().await;
    // containerd begins to watch the memory of a container once it runs, and does not hear of what happened before.
    let mut spec = world.container("greedy", "sleep 0.5; x=a; while true; do x=$x$x; done");
    spec.resources = Resources { memory_limit_bytes: Some(16 << 20), cpu_quota: Some(50_000), ..Resources::default() };
    world.runtime.start(&spec).await.unwrap();
    let exit = world.runtime.wait("greedy").await.unwrap();
    assert!(exit.oom_killed, "{exit:?}");
    assert_eq!(exit.code, 137);
    world.end().await;
}

pub async fn commands_run_inside_and_are_bounded<R: Runtime>() {
    let world = World::<R>::with_sandbox().await;
    world.runtime.start(&world.container("main", "touch /tmp/mark; sleep 600")).await.unwrap();
    let ask = async |text: &str, limit: u64| world.runtime.exec("main", &words(text), Duration::from_secs(limit)).await;
    let said = ask("hostname; ls /tmp; exit 4", 10).await.unwrap();
    assert_eq!((said.exit_code, said.output.as_str()), (4, "web-1\nmark\n"));
    let refusal = ask("sleep 100", 1).await.unwrap_err();
    assert!(refusal.0.contains("timed out"), "{refusal}");
    assert!(world.runtime.exec("main", &["none".into()], Duration::from_secs(5)).await.is_err());
    assert!(world.runtime.usage().await.iter().any(|usage| usage.container == "main" && usage.memory_bytes > 0));
    world.end().await;
}

pub async fn an_agent_that_comes_back_finds_everything<R: Runtime>() {
    let world = World::<R>::with_sandbox().await;
    world.runtime.start(&world.container("long", "sleep 600")).await.unwrap();
    world.runtime.start(&world.container("short", "exit 5")).await.unwrap();
    let again = world.runtime.again().await;
    let exit = again.wait("short").await.unwrap();
    assert_eq!(exit.code, 5);
    let sandboxes = again.list().await.unwrap();
    assert_eq!(sandboxes.len(), 1);
    assert!(sandboxes[0].ready);
    let state = |name: &str| &sandboxes[0].containers.iter().find(|container| container.name == name).unwrap().state;
    assert!(matches!(state("long"), State::Running { .. }));
    assert_eq!(*state("short"), State::Exited(exit));
    again.stop("long", Duration::ZERO).await.unwrap();
    assert_eq!(again.wait("long").await.unwrap().code, 137);
    drop(again);
    world.end().await;
}

pub async fn files_and_directories_are_mounted_where_the_image_has_none<R: Runtime>() {
    let world = World::<R>::with_sandbox().await;
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
            spec.args = words("cat /deep/dir/f /etc/one; echo; echo x > /etc/one || echo no; echo out > /deep/dir/g; echo t > /dev/termination-log");
        })
        .await;
    assert!(said.contains("contentcontent") && said.contains("no"), "{said}");
    assert_eq!(fs::read_to_string(source.join("g")).unwrap(), "out\n");
    assert_eq!(fs::read_to_string(source.join("f")).unwrap(), "t\n");
    world.end().await;
}
