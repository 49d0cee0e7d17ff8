//! A cluster for one test.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use serde_json::Value;

/// The tests' own local cluster, beside one that the developer may have up.
const LAB: &str = "test";

/// How long a condition may take to be met before a test gives up: far beyond what it takes.
const PATIENCE: Duration = Duration::from_secs(90);

pub const HELLO: &str = "copepod.local/hello:1";
pub const BUSYBOX: &str = "copepod.local/busybox:1";

pub struct Cluster {
    pub copepod: PathBuf,
}

/// The programs at another place, as a package puts newer ones there.
pub struct Copied {
    pub path: PathBuf,
}

impl Copied {
    pub fn output(&self, arguments: &[&str]) -> Output {
        command_of(&self.path, arguments).stdin(Stdio::null()).output().expect("the binary runs")
    }
}

fn command_of(program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).env("COPEPOD_LAB", LAB).env_remove("KUBECONFIG").env("NO_COLOR", "1");
    command
}

impl Cluster {
    /// Brings a cluster up, with the image of manifests/hello in its store.
    pub fn up(n_servers: u32, n_nodes: u32) -> Cluster {
        let cluster = Cluster { copepod: program() };
        // What an earlier test left when it was killed.
        cluster.run(&["down"]);
        cluster.build_hello(HELLO);
        cluster.ok(&[
            "image",
            "build",
            BUSYBOX,
            "--directory",
            &busybox_root().display().to_string(),
            "--entrypoint",
            "/bin/sh",
        ]);
        cluster.ok(&["up", "--servers", &n_servers.to_string(), "--nodes", &n_nodes.to_string()]);
        cluster
    }

    /// Runs the command line and gives its outcome.
    pub fn try_run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().expect("the binary runs")
    }

    fn run(&self, arguments: &[&str]) {
        let output = self.try_run(arguments);
        if !output.status.success() {
            eprintln!("{}", text(&output));
        }
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        command_of(&self.copepod, arguments)
    }

    /// Puts the programs into a directory, too.
    pub fn copied_to(&self, directory: &Path) -> Copied {
        fs::create_dir_all(directory).expect("made");
        let path = directory.join("copepod");
        if !path.exists() {
            fs::copy(&self.copepod, &path).expect("the program is copied");
        }
        Copied { path }
    }

    /// Runs a command in the network of a member.
    #[track_caller]
    pub fn in_namespace(&self, member: &str, command: &[&str]) {
        let namespace = format!("copepod-{LAB}-{member}");
        run("ip", &[&["netns", "exec", &namespace], command].concat());
    }

    /// Runs the command line, which must succeed; gives what it printed.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.try_run(arguments);
        assert!(output.status.success(), "copepod {}\n{}\n{}", arguments.join(" "), text(&output), self.logs());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs the command line, which must fail; gives what it said.
    #[track_caller]
    pub fn fails(&self, arguments: &[&str]) -> String {
        let output = self.try_run(arguments);
        assert!(!output.status.success(), "copepod {} should fail\n{}", arguments.join(" "), text(&output));
        text(&output)
    }

    /// Applies manifests given as text.
    #[track_caller]
    pub fn apply(&self, manifests: &str) -> String {
        let output = self.try_apply(manifests);
        assert!(output.status.success(), "apply\n{}", text(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn try_apply(&self, manifests: &str) -> Output {
        let mut child = self
            .command(&["apply", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        child.stdin.take().expect("piped").write_all(manifests.as_bytes()).expect("it reads");
        child.wait_with_output().expect("it ends")
    }

    /// kubectl, with the kubeconfig of a server that answers.
    pub fn try_kubectl(&self, arguments: &[&str]) -> Output {
        self.try_kubectl_of("kubectl".as_ref(), arguments, &[])
    }

    /// The same with another kubectl than the machine's.
    pub fn try_kubectl_of(&self, program: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
        let path = self.ok(&["kubeconfig"]);
        let home = self.directory().join("kubectl");
        let mut command = Command::new(program);
        command.args(arguments).env("KUBECONFIG", path.trim()).env("HOME", home).stdin(Stdio::null());
        command.envs(environment.iter().copied());
        command.output().expect("kubectl is installed")
    }

    /// `get WORDS -o json`; `Null` when it is not there or nobody answers.
    pub fn get(&self, words: &[&str]) -> Value {
        let mut arguments = vec!["get"];
        arguments.extend(words);
        arguments.extend(["-o", "json"]);
        serde_json::from_slice(&self.try_run(&arguments).stdout).unwrap_or_default()
    }

    pub fn items(&self, words: &[&str]) -> Vec<Value> {
        self.get(words)["items"].as_array().cloned().unwrap_or_default()
    }

    /// The pods of an application that are neither ended nor ending.
    pub fn pods(&self, app: &str) -> Vec<Value> {
        let pods = self.items(&["pods", "-l", &format!("app={app}")]);
        pods.into_iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).collect()
    }

    pub fn ready_pods(&self, app: &str) -> Vec<Value> {
        self.pods(app).into_iter().filter(is_ready).collect()
    }

    /// How many ready pods of an application run on each node.
    pub fn spread(&self, app: &str) -> BTreeMap<String, usize> {
        self.ready_pods(app).iter().fold(BTreeMap::new(), |mut spread, pod| {
            *spread.entry(string(&pod["spec"]["nodeName"])).or_default() += 1;
            spread
        })
    }

    /// Waits until exactly `n` pods of an application are ready.
    #[track_caller]
    pub fn until_ready(&self, app: &str, n: usize) {
        self.until(&format!("{n} pods of {app} are ready"), || {
            self.ready_pods(app).len() == n && self.pods(app).len() == n
        });
    }

    #[track_caller]
    pub fn until(&self, what: &str, condition: impl FnMut() -> bool) {
        if !within(PATIENCE, condition) {
            let pods = String::from_utf8_lossy(&self.try_run(&["get", "pods", "-A", "-o", "wide"]).stdout).into_owned();
            panic!("gave up waiting until {what}\n{pods}\n{}", self.logs());
        }
    }

    pub fn node_address(&self, node: &str) -> String {
        let node = self.get(&["nodes", node]);
        let addresses = node["status"]["addresses"].as_array().cloned().unwrap_or_default();
        let internal = addresses.iter().find(|address| address["type"] == "InternalIP");
        string(&internal.expect("a node has an address")["address"])
    }

    /// Of a local cluster's second byte plan: nodes are numbered from 101. For when nobody can be asked.
    pub fn node_address_of_file(&self, node: &str) -> String {
        let status = self.ok(&["lab", "status"]);
        let line = status.lines().find(|line| line.starts_with(node)).expect("a member");
        line.split_whitespace().find(|word| word.starts_with("198.18.")).expect("an address").to_owned()
    }

    /// The ids of the hello processes of a node, by its cgroups.
    pub fn running_pids(&self, node: &str) -> BTreeSet<i32> {
        let mut found = BTreeSet::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
            if read("comm").trim() == "hello" && read("cgroup").contains(&format!("/copepod/{LAB}-{node}/")) {
                found.insert(pid);
            }
        }
        found
    }

    /// The same as text, for comparisons over time: a process and when it started.
    pub fn running_programs(&self, node: &str) -> BTreeSet<String> {
        let started = |pid: i32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(19)).unwrap_or_default().to_owned()
        };
        self.running_pids(node).into_iter().map(|pid| format!("{pid} {}", started(pid))).collect()
    }

    /// The server that leads, by its name.
    pub fn leader(&self) -> String {
        let mut leader = None;
        self.until("a server leads", || {
            leader = ["s1", "s2", "s3"].into_iter().find(|server| {
                let log = fs::read_to_string(self.directory().join("log").join(format!("{server}.log")));
                let log = log.unwrap_or_default();
                let leads = log.rfind("this server leads term");
                let ends = log.rfind("this server leads no more");
                self.is_running(server) && leads.is_some() && leads > ends
            });
            leader.is_some()
        });
        leader.expect("found").to_owned()
    }

    fn is_running(&self, member: &str) -> bool {
        self.ok(&["lab", "status"]).lines().any(|line| line.starts_with(member) && line.contains(" up "))
    }

    pub fn process(&self, member: &str) -> i32 {
        let status = self.ok(&["lab", "status"]);
        let line = status.lines().find(|line| line.starts_with(member)).expect("a member");
        line.split_whitespace().nth(3).and_then(|pid| pid.parse().ok()).expect("it runs")
    }

    /// Waits until a killed process holds nothing any more.
    pub fn until_ended(&self, pid: i32) {
        self.until("a killed process has ended", || has_ended(pid));
    }

    pub fn directory(&self) -> PathBuf {
        Path::new("/var/lib/copepod").join(LAB)
    }

    /// What a member has logged.
    pub fn log(&self, member: &str) -> String {
        fs::read_to_string(self.directory().join("log").join(format!("{member}.log"))).unwrap_or_default()
    }

    /// The last line of that.
    pub fn last_words(&self, member: &str) -> String {
        self.log(member).lines().last().unwrap_or_default().to_owned()
    }

    /// Makes a static program of manifests/hello and an image of it.
    pub fn build_hello(&self, reference: &str) {
        let program = hello();
        let file = format!("/hello={}", program.display());
        self.ok(&["image", "build", reference, "--file", &file, "--entrypoint", "/hello"]);
    }

    fn logs(&self) -> String {
        let mut all = String::new();
        let mut files: Vec<PathBuf> = fs::read_dir(self.directory().join("log"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect();
        files.sort();
        for file in files {
            let log = fs::read_to_string(&file).unwrap_or_default();
            let lines: Vec<&str> = log.lines().rev().take(25).collect();
            all.push_str(&format!("---- {}\n", file.display()));
            all.extend(lines.into_iter().rev().flat_map(|line| [line, "\n"]));
        }
        all
    }
}

impl Drop for Cluster {
    /// Leaves nothing behind; a test that failed has told what it knows by now.
    fn drop(&mut self) {
        if std::env::var_os("COPEPOD_KEEP").is_some() && std::thread::panicking() {
            return;
        }
        let output = self.try_run(&["down"]);
        if !output.status.success() {
            eprintln!("down: {}", text(&output));
            assert!(std::thread::panicking(), "the cluster could not be taken down");
        }
        if !std::thread::panicking() {
            let left = leftovers();
            assert!(left.is_empty(), "left behind: {left:?}");
        }
    }
}

/// Whatever on this machine carries the lab's name.
pub fn leftovers() -> Vec<String> {
    let mut left = Vec::new();
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let marks = [format!("/{LAB}/"), format!("copepod-{LAB}-")];
    left.extend(
        read("/proc/self/mountinfo")
            .lines()
            .filter(|line| marks.iter().any(|mark| line.contains(mark)))
            .map(str::to_owned),
    );
    for (directory, mark) in [("/run/netns", format!("copepod-{LAB}-")), ("/sys/class/net", format!("cpd{LAB}"))] {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        left.extend(names.filter(|name| name.starts_with(&mark)));
    }
    for directory in [format!("/var/lib/copepod/{LAB}"), format!("/run/copepod/{LAB}")] {
        if Path::new(&directory).exists() {
            left.push(directory);
        }
    }
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let cgroup = read(&format!("/proc/{pid}/cgroup"));
        let of_lab = line.contains(&format!("/copepod/{LAB}/")) || cgroup.contains(&format!("/copepod/{LAB}-"));
        if of_lab && pid != std::process::id() {
            left.push(format!("process {pid}: {line}"));
        }
    }
    let rules = Command::new("nft").args(["list", "tables"]).output();
    let rules = rules.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    left.extend(rules.lines().filter(|line| line.contains(&format!("copepod_{LAB}"))).map(str::to_owned));
    left
}

/// Runs a program of this machine, which must succeed.
#[track_caller]
pub fn run(program: &str, arguments: &[&str]) {
    // What tests ask for is not behind a proxy.
    let output = Command::new(program).args(arguments).env_remove("http_proxy").output().expect("it is installed");
    assert!(output.status.success(), "{program} {}: {}", arguments.join(" "), text(&output));
}

/// Whether a process holds nothing any more. Its threads end one by one, each gives back its files, and the last that is to
/// be seen of it is a zombie without threads.
pub fn has_ended(pid: i32) -> bool {
    let n_tasks = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state stands behind the name, which is in brackets.
    let is_zombie = stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'));
    n_tasks == 0 || (n_tasks == 1 && is_zombie)
}

pub fn within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    true
}

pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

pub fn string(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// One HTTP request on a connection of its own; the body of a 200.
pub fn fetch(address: &str, path: &str) -> Result<String, String> {
    let address: SocketAddr = address.parse().map_err(|error| format!("{address}: {error}"))?;
    let failed = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).map_err(failed("connect"))?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).map_err(failed("socket"))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").map_err(failed("send"))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(failed("receive"))?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("cut short: {answer:?}"))?;
    if head.starts_with("HTTP/1.1 200") { Ok(body.trim().to_owned()) } else { Err(head.to_owned()) }
}

/// How often each answer came, and every failure.
type Served = (BTreeMap<String, usize>, Vec<String>);

/// Requests without a pause until it is stopped; counts the answers and keeps the failures.
pub struct Load {
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<Served>>,
}

impl Load {
    pub fn on(addresses: Vec<String>, path: &'static str, n_workers: usize) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let workers = (0..n_workers)
            .map(|worker| {
                let (stop, addresses) = (stop.clone(), addresses.clone());
                std::thread::spawn(move || {
                    let (mut answers, mut failures) = (BTreeMap::new(), Vec::new());
                    for number in worker.. {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        match fetch(&addresses[number % addresses.len()], path) {
                            Ok(answer) => *answers.entry(answer).or_default() += 1,
                            Err(failure) => failures.push(failure),
                        }
                        std::thread::sleep(Duration::from_millis(2));
                    }
                    (answers, failures)
                })
            })
            .collect();
        Load { stop, workers }
    }

    /// The answers by text, and every failure.
    pub fn end(self) -> Served {
        self.stop.store(true, Ordering::Relaxed);
        let (mut answers, mut failures) = (BTreeMap::new(), Vec::new());
        for worker in self.workers {
            let (some, failed) = worker.join().expect("a worker of the load");
            for (answer, count) in some {
                *answers.entry(answer).or_default() += count;
            }
            failures.extend(failed);
        }
        (answers, failures)
    }
}

/// A deployment of manifests/hello behind a service on a node port.
pub fn hello_manifest(replicas: u32, greeting: &str) -> String {
    format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: hello}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: hello}}}}
  template:
    metadata: {{labels: {{app: hello}}}}
    spec:
      containers:
        - name: hello
          image: {HELLO}
          ports: [{{name: http, containerPort: 8080}}]
          env:
            - {{name: GREETING, value: {greeting}}}
            - {{name: POD_NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}
            - {{name: NODE_NAME, valueFrom: {{fieldRef: {{fieldPath: spec.nodeName}}}}}}
          readinessProbe: {{httpGet: {{path: /healthz, port: http}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: hello}}
spec:
  type: NodePort
  selector: {{app: hello}}
  ports: [{{name: http, port: 80, targetPort: http, nodePort: 30080}}]
"
    )
}

/// A root directory of the static busybox under all its names.
fn busybox_root() -> PathBuf {
    const APPLETS: &[&str] =
        &["cat", "chmod", "echo", "hostname", "id", "nslookup", "rm", "sleep", "tar", "test", "touch", "wget", "sh"];
    let root = program().with_file_name("busybox-root");
    fs::create_dir_all(root.join("bin")).expect("made");
    fs::create_dir_all(root.join("tmp")).expect("made");
    if !root.join("bin/busybox").exists() {
        fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed");
    }
    for link in APPLETS.iter().map(|applet| root.join("bin").join(applet)).filter(|link| !link.exists()) {
        std::os::unix::fs::symlink("busybox", link).expect("linked");
    }
    root
}

/// A place for what tests make once and use often.
pub fn beside_program(name: &str) -> PathBuf {
    program().with_file_name(name)
}

/// The binary beside the tests' own.
fn program() -> PathBuf {
    let own = std::env::current_exe().expect("the path of the tests");
    let directory = own.parent().and_then(Path::parent).expect("target/PROFILE/deps");
    let program = directory.join("copepod");
    assert!(program.exists(), "{} is missing: run the tests with ./tests/run", program.display());
    program
}

/// The static program of manifests/hello.
pub fn hello() -> PathBuf {
    compiled("hello", "../manifests/hello/main.rs", &["-C", "target-feature=+crt-static", "-C", "strip=symbols"])
}

/// The library of tests/clock.
pub fn clock() -> PathBuf {
    compiled("clock.so", "clock/lib.rs", &["--crate-type", "cdylib"])
}

/// What a source of one file makes, beside the program; made where it is not there or older than its source.
fn compiled(name: &str, source: &str, how: &[&str]) -> PathBuf {
    let made = beside_program(name);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(source);
    let changed = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    if changed(&made).is_none_or(|made| Some(made) < changed(&source)) {
        let beside = made.with_extension("new");
        let output = Command::new("rustc")
            .args(["--edition", "2024", "-O"])
            .args(how)
            .arg("-o")
            .arg(&beside)
            .arg(&source)
            .output()
            .expect("rustc runs");
        assert!(output.status.success(), "{}", text(&output));
        fs::rename(beside, &made).expect("what was made is put in place");
    }
    made
}
