//! A runtime in a directory of its own, with a busybox to run.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use copepod_api::Timestamp;
use copepod_runtime::{
    ContainerSpec, ExecOutput, Exit, Pod, RuntimeError, SandboxSpec, SandboxState, StartError, Usage,
};

/// The image of the tests; the embedded runtime needs its files only.
pub const IMAGE: &str = "localhost/busybox:test";

const APPLETS: [&str; 15] = [
    "sh", "sleep", "cat", "echo", "id", "hostname", "touch", "grep", "wc", "ls", "unshare", "mount", "true", "ip",
    "seq",
];

/// What the suite asks of a runtime: the calls that the agent makes.
#[allow(async_fn_in_trait, reason = "for tests only")]
pub trait Runtime: Sized {
    /// Starts what is needed; `root` holds the files of [`IMAGE`].
    async fn new(directory: &Path, node: &str, root: &Path) -> Self;
    /// As an agent that comes back would open it.
    async fn again(&self) -> Self;
    async fn create_sandbox(&self, spec: &SandboxSpec) -> Result<(), RuntimeError>;
    async fn remove_sandbox(&self, id: &str) -> Result<(), RuntimeError>;
    async fn start(&self, spec: &ContainerSpec) -> Result<Timestamp, StartError>;
    async fn wait(&self, id: &str) -> Result<Exit, RuntimeError>;
    async fn stop(&self, id: &str, grace: Duration) -> Result<(), RuntimeError>;
    async fn remove_container(&self, id: &str) -> Result<(), RuntimeError>;
    async fn exec(&self, id: &str, command: &[String], timeout: Duration) -> Result<ExecOutput, RuntimeError>;
    async fn list(&self) -> Result<Vec<SandboxState>, RuntimeError>;
    async fn usage(&self) -> Vec<Usage>;
    /// Stops what `new` has started, and finds what it left behind.
    fn end(self, directory: &Path);
}

pub struct World<R> {
    pub directory: tempfile::TempDir,
    pub runtime: R,
    pub node: String,
    _orphans: Orphans,
}

/// Ends what a test that fails leaves running: whoever looks at the machine later would take it for its own.
struct Orphans {
    node: String,
    directory: PathBuf,
}

impl Drop for Orphans {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let shims = Command::new("pgrep").arg("-f").arg(&self.directory).output().unwrap();
            let shims = String::from_utf8_lossy(&shims.stdout).into_owned();
            let _ =
                Command::new("kill").arg("-9").args(shims.split_whitespace()).args(processes_of(&self.node)).status();
        }
    }
}

/// What runs in the cgroups of a node's pods.
pub fn processes_of(node: &str) -> Vec<String> {
    let all = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let own = all.filter(|path| fs::read_to_string(path.join("cgroup")).unwrap_or_default().contains(node));
    own.filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect()
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

impl<R: Runtime> World<R> {
    pub async fn new() -> World<R> {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("rootfs");
        make_root(&root);
        let node = format!("suite-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let runtime = R::new(directory.path(), &node, &root).await;
        let _orphans = Orphans { node: node.clone(), directory: directory.path().into() };
        World { directory, runtime, node, _orphans }
    }

    /// With a sandbox `pod-0`.
    pub async fn with_sandbox() -> World<R> {
        let world = World::<R>::new().await;
        world.runtime.create_sandbox(&world.sandbox()).await.unwrap();
        world
    }

    pub fn sandbox(&self) -> SandboxSpec {
        SandboxSpec {
            id: "pod-0".into(),
            pod: Pod { namespace: "d".into(), name: "p".into(), uid: "u".into() },
            hostname: "web-1".into(),
            cgroup_parent: format!("copepod/{}/burstable/podu", self.node),
            log_dir: self.directory.path().into(),
            ..SandboxSpec::default()
        }
    }

    pub fn container(&self, id: &str, script: &str) -> ContainerSpec {
        ContainerSpec {
            id: id.into(),
            sandbox_id: "pod-0".into(),
            pod: self.sandbox().pod,
            name: id.into(),
            image: IMAGE.into(),
            rootfs: self.directory.path().join("rootfs"),
            args: words(script),
            env: vec![("PATH".into(), "/bin".into())],
            working_dir: "/".into(),
            cgroup_parent: self.sandbox().cgroup_parent,
            log_path: self.log(id),
            ..ContainerSpec::default()
        }
    }

    pub fn log(&self, id: &str) -> PathBuf {
        self.directory.path().join(format!("{id}.log"))
    }

    /// The text that a container has written.
    pub fn said(&self, id: &str) -> String {
        let log = fs::read_to_string(self.log(id)).unwrap_or_default();
        let lines = log.lines().filter_map(|line| line.splitn(4, ' ').nth(3));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Runs a script to its end; gives its exit code and what it wrote.
    pub async fn run(&self, change: impl FnOnce(&mut ContainerSpec)) -> (i32, String) {
        let mut spec = self.container("run", "true");
        change(&mut spec);
        self.runtime.start(&spec).await.unwrap();
        let exit = self.runtime.wait("run").await.unwrap();
        let said = self.said("run");
        self.runtime.remove_container("run").await.unwrap();
        let _ = fs::remove_file(self.log("run"));
        (exit.code, said)
    }

    pub async fn end(self) {
        self.runtime.remove_sandbox("pod-0").await.unwrap();
        assert!(self.runtime.list().await.unwrap().is_empty());
        let cgroups =
            Command::new("find").args(["/sys/fs/cgroup", "-path", &format!("*/{}/*/podu*", self.node)]).output();
        assert_eq!(String::from_utf8_lossy(&cgroups.unwrap().stdout), "");
        self.runtime.end(self.directory.path());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let path = self.directory.path().to_str().unwrap();
        assert!(!mounts.contains(path), "{mounts}");
        let left = Command::new("pgrep").args(["-f", path]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&left.stdout), "");
        remove_node(&self.node);
    }
}

/// Takes the node's own cgroups away, which outlive its pods.
fn remove_node(node: &str) {
    for entry in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        for below in ["burstable", ""] {
            let _ = fs::remove_dir(entry.path().join("copepod").join(node).join(below));
        }
    }
}

pub fn words(script: &str) -> Vec<String> {
    ["sh", "-c", script].map(str::to_owned).to_vec()
}

fn make_root(root: &Path) {
    for name in ["bin", "tmp", "proc", "sys", "dev", "etc"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed");
    for applet in APPLETS {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:1000:1001::/:/bin/sh\n").unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nweb:x:1001:\n").unwrap();
}
