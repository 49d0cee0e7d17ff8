//! A containerd of our own, in namespaces of its own: when its first process ends, nothing of it is left.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use copepod_api::Timestamp;
use copepod_runtime::{
    ContainerSpec, Cri, ExecOutput, Exit, RuntimeError, SandboxSpec, SandboxState, StartError, State, Usage, UserAsked,
};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{
    contract,
    world::{IMAGE, Runtime, World, processes_of, words},
};

const PAUSE: &str = "localhost/pause:test";

/// The first process of the namespaces starts a containerd again when one ends, as an init system would.
const SUPERVISE: &str = "ip link set lo up; while true; do containerd --config \"$0\" >> \"$1\" 2>&1; done";

pub struct Daemon {
    directory: PathBuf,
    process: Child,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // The first process of a process namespace takes all others with it, and its parent ends when they are gone.
        let own = self.process.id();
        let first = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
        let _ = Command::new("kill").arg("-9").args(first.split_whitespace()).status();
        let _ = self.process.wait();
    }
}

impl Daemon {
    fn start(directory: &Path, root: &Path) -> Daemon {
        let of = |name: &str| directory.join(name).display().to_string();
        fs::create_dir_all(of("cni")).unwrap();
        fs::write(of("cni/10-test.conflist"), network(&of("addresses"))).unwrap();
        let config = of("containerd.toml");
        fs::write(&config, settings(&of("containerd"), &of("cni"))).unwrap();
        let process = Command::new("unshare")
            .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", SUPERVISE])
            .args([&config, &of("containerd.log")])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("unshare and containerd are installed");
        let daemon = Daemon { directory: directory.into(), process };
        daemon.import(root);
        daemon
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("containerd/c.sock")
    }

    /// Gives it both images, as soon as it answers.
    fn import(&self, root: &Path) {
        let archive = self.directory.join("images.tar");
        write_images(&archive, root);
        for _ in 0..400 {
            let ctr = Command::new("ctr")
                .args(["--address", &self.socket().display().to_string(), "--namespace", "k8s.io", "images", "import"])
                .arg(&archive)
                .output()
                .expect("ctr is installed");
            if ctr.status.success() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let log = fs::read_to_string(self.directory.join("containerd.log")).unwrap_or_default();
        panic!("containerd does not start: {log}");
    }

    /// Kills containerd; its shims and containers live on, and the supervisor starts it again.
    fn restart(&self) {
        let config = self.directory.join("containerd.toml");
        let pattern = format!("^containerd --config {}", config.display());
        let found = Command::new("pgrep").args(["-f", &pattern]).output().unwrap();
        let pid = String::from_utf8_lossy(&found.stdout).trim().to_owned();
        assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    }
}

fn settings(directory: &str, cni: &str) -> String {
    format!(
        r#"
version = 2
root = "{directory}/root"
state = "{directory}/state"
oom_score = 0
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.opt"]
[grpc]
  address = "{directory}/c.sock"
[ttrpc]
  address = "{directory}/t.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  netns_mounts_under_state_dir = true
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni}"
"#
    )
}

fn network(directory: &str) -> String {
    let ranges = json!([[{"subnet": "198.51.100.0/24"}]]);
    let plugin = json!({"type": "ptp", "ipMasq": false,
        "ipam": {"type": "host-local", "dataDir": directory, "ranges": ranges}});
    json!({"cniVersion": "0.4.0", "name": "test", "plugins": [plugin]}).to_string()
}

/// One archive with a pause image and the image of the tests, both of the same layer (`docker save` writes such).
fn write_images(archive: &Path, root: &Path) {
    let mut layer = tar::Builder::new(Vec::new());
    layer.follow_symlinks(false);
    layer.append_dir_all(".", root).unwrap();
    let layer = layer.into_inner().unwrap();
    let digest: String = Sha256::digest(&layer).iter().map(|byte| format!("{byte:02x}")).collect();
    let config = |config: serde_json::Value| {
        json!({"architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
            "config": config, "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]}})
        .to_string()
    };
    let pause = config(json!({"Entrypoint": ["/bin/busybox", "sleep", "100000"]}));
    let image =
        config(json!({"Cmd": ["sh"], "Env": ["PATH=/bin", "FROM_IMAGE=1"], "User": "web", "WorkingDir": "/tmp",
        "StopSignal": "SIGTERM"}));
    let manifest = json!([
        {"Config": "pause.json", "RepoTags": [PAUSE], "Layers": ["layer.tar"]},
        {"Config": "image.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]},
    ]);
    let mut all = tar::Builder::new(fs::File::create(archive).unwrap());
    let manifest = manifest.to_string();
    let files: [(&str, &[u8]); 4] = [
        ("layer.tar", &layer),
        ("pause.json", pause.as_bytes()),
        ("image.json", image.as_bytes()),
        ("manifest.json", manifest.as_bytes()),
    ];
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        all.append_data(&mut header, name, content).unwrap();
    }
    all.finish().unwrap();
}

pub struct Subject {
    daemon: Arc<Daemon>,
    node: String,
    cri: Cri,
}

impl Subject {
    async fn open(daemon: Arc<Daemon>, node: &str) -> Subject {
        let cri = Cri::connect(&daemon.socket(), node).await.unwrap();
        Subject { daemon, node: node.to_owned(), cri }
    }
}

impl Runtime for Subject {
    async fn new(directory: &Path, node: &str, root: &Path) -> Subject {
        Subject::open(Arc::new(Daemon::start(directory, root)), node).await
    }

    async fn again(&self) -> Subject {
        Subject::open(self.daemon.clone(), &self.node).await
    }

    async fn create_sandbox(&self, spec: &SandboxSpec) -> Result<(), RuntimeError> {
        let addresses = self.cri.create_sandbox(spec).await?;
        assert_eq!(addresses.is_empty(), spec.host_network, "{addresses:?}");
        Ok(())
    }

    async fn remove_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        self.cri.remove_sandbox(id).await
    }

    async fn start(&self, spec: &ContainerSpec) -> Result<Timestamp, StartError> {
        self.cri.start(spec).await
    }

    async fn wait(&self, id: &str) -> Result<Exit, RuntimeError> {
        self.cri.wait(id).await
    }

    async fn stop(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        self.cri.stop(id, grace).await
    }

    async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        self.cri.remove_container(id).await
    }

    async fn exec(&self, id: &str, command: &[String], timeout: Duration) -> Result<ExecOutput, RuntimeError> {
        self.cri.exec(id, command, timeout).await
    }

    async fn list(&self) -> Result<Vec<SandboxState>, RuntimeError> {
        self.cri.list().await
    }

    async fn usage(&self) -> Vec<Usage> {
        self.cri.usage().await.unwrap()
    }

    fn end(self, _: &Path) {}
}

contract::suite!(Subject);

#[tokio::test]
async fn it_says_who_it_is_and_gives_addresses() {
    let world = World::<Subject>::new().await;
    let cri = &world.runtime.cri;
    assert!(cri.version().starts_with("containerd://"), "{}", cri.version());
    assert_eq!(cri.complaints().await.unwrap(), Vec::<String>::new());
    let addresses = cri.create_sandbox(&world.sandbox()).await.unwrap();
    assert_eq!(addresses.len(), 1);
    // Once more: it is the same.
    assert_eq!(cri.create_sandbox(&world.sandbox()).await.unwrap(), addresses);
    let (_, said) = world.run(|spec| spec.args = words("ip -4 addr show eth0")).await;
    assert!(said.contains(&addresses[0].to_string()), "{said}");
    assert!(matches!(addresses[0], IpAddr::V4(_)));
    world.end().await;
}

#[tokio::test]
async fn nodes_see_their_own_pods_only() {
    let world = World::<Subject>::with_sandbox().await;
    let other = Subject::open(world.runtime.daemon.clone(), "other").await;
    assert!(other.list().await.unwrap().is_empty());
    other.remove_sandbox("pod-0").await.unwrap();
    assert_eq!(world.runtime.list().await.unwrap().len(), 1);
    drop(other);
    world.end().await;
}

#[tokio::test]
async fn a_runtime_that_restarts_is_found_again() {
    let world = World::<Subject>::with_sandbox().await;
    world
        .runtime
        .start(&world.container("main", "while ! test -e /tmp/end; do sleep 0.05; done; exit 6"))
        .await
        .unwrap();
    let waiting = async { world.runtime.wait("main").await.unwrap() };
    let restarting = async {
        world.runtime.daemon.restart();
        let back = async {
            while world.runtime.exec("main", &words("touch /tmp/end"), Duration::from_secs(5)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), back).await.expect("containerd is back");
    };
    let (exit, ()) = tokio::join!(waiting, restarting);
    assert_eq!(exit.code, 6);
    world.end().await;
}

#[tokio::test]
async fn a_sandbox_that_has_ended_is_told() {
    let world = World::<Subject>::with_sandbox().await;
    let cri = &world.runtime.cri;
    assert!(cri.has_sandbox("pod-0").await.unwrap() && !cri.has_sandbox("pod-1").await.unwrap());
    world.runtime.start(&world.container("main", "sleep 600")).await.unwrap();
    let processes = processes_of(&world.node);
    assert!(processes.len() > 1, "the container's, and the one that holds the sandbox: {processes:?}");
    Command::new("kill").arg("-9").args(&processes).status().unwrap();
    assert_eq!(world.runtime.wait("main").await.unwrap().code, 137);
    let ended = async {
        while cri.has_sandbox("pod-0").await.unwrap() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ended).await.expect("it is not ready any more");
    world.end().await;
}

#[tokio::test]
async fn images_are_asked_for_and_missing_ones_told() {
    let world = World::<Subject>::new().await;
    let cri = &world.runtime.cri;
    let image = cri.image(IMAGE).await.unwrap().unwrap();
    assert!(image.id.starts_with("sha256:"), "{image:?}");
    assert_eq!((image.command.clone(), image.user.as_str()), (vec!["sh".to_owned()], "web"));
    assert_eq!((image.working_dir.as_str(), image.stop_signal.as_deref()), ("/tmp", Some("SIGTERM")));
    assert_eq!(cri.image(&image.id).await.unwrap(), Some(image));
    assert_eq!(cri.image("localhost/none:1").await.unwrap(), None);
    // Nothing listens there.
    let refusal = cri.pull("127.0.0.1:1/none:1", None).await.unwrap_err();
    assert!(refusal.0.contains("127.0.0.1:1/none:1"), "{refusal}");
    world.end().await;
}

#[tokio::test]
async fn users_are_looked_up_in_the_image() {
    let world = World::<Subject>::with_sandbox().await;
    let who = async |user: Option<&str>, group| {
        let asked = UserAsked { user: user.map(Into::into), group, ..UserAsked::default() };
        let (_, said) = world
            .run(|spec| {
                spec.user_asked = Some(asked);
                spec.args = words("echo $(id -u) $(id -g)");
            })
            .await;
        said
    };
    assert_eq!(who(None, None).await, "1000 1001");
    assert_eq!(who(Some("root"), None).await, "0 0");
    assert_eq!(who(Some("1000"), None).await, "1000 1001");
    assert_eq!(who(Some("web"), Some(9)).await, "1000 9");
    world.end().await;
}

#[tokio::test]
async fn what_stands_in_the_way_is_removed() {
    let world = World::<Subject>::with_sandbox().await;
    let spec = world.container("main", "sleep 600");
    let since = world.runtime.start(&spec).await.unwrap();
    // A call that is repeated changes nothing while the container runs, and starts it anew when it has ended.
    assert_eq!(world.runtime.start(&spec).await.unwrap(), since);
    world.runtime.stop("main", Duration::ZERO).await.unwrap();
    assert!(world.runtime.start(&spec).await.unwrap() > since);
    let found = world.runtime.list().await.unwrap();
    assert_eq!(found[0].containers.len(), 1);
    assert!(matches!(found[0].containers[0].state, State::Running { .. }));
    assert_eq!((found[0].containers[0].image.as_str(), found[0].spec.hostname.as_str()), (IMAGE, "web-1"));
    world.end().await;
}

#[tokio::test]
async fn long_logs_are_moved_away() {
    let world = World::<Subject>::with_sandbox().await;
    let script = "seq 1 300000; touch /tmp/half; while ! test -e /tmp/go; do sleep 0.05; done; echo end";
    world.runtime.start(&world.container("main", script)).await.unwrap();
    let ask =
        async |text: &str| world.runtime.exec("main", &words(text), Duration::from_secs(5)).await.unwrap().exit_code;
    let half = async {
        while ask("test -e /tmp/half").await != 0 || !world.said("main").contains("\n300000") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), half).await.expect("it writes");
    world.runtime.cri.rotate_logs().await;
    assert_eq!(ask("touch /tmp/go").await, 0);
    assert_eq!(world.runtime.wait("main").await.unwrap().code, 0);
    assert_eq!(world.said("main"), "end");
    let names = fs::read_dir(world.directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.filter(|name| name.to_string_lossy().starts_with("main.log.")).count(), 1);
    world.end().await;
}

#[tokio::test]
async fn nobody_at_the_socket_is_a_clear_error() {
    let error = Cri::connect(Path::new("/nonexistent/c.sock"), "n1").await.unwrap_err();
    assert!(error.0.contains("/nonexistent/c.sock") && error.0.contains("No such file"), "{error}");
}
