//! The registry that images come from is down.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

use super::harness::{Cluster, hello, run, string};

/// Who asks it by this name is sent to its address.
const NAME: &str = "registry.test";

/// A real registry on the bridge of the local cluster, with a directory of its own.
struct Registry {
    directory: PathBuf,
    address: String,
    process: Option<Child>,
}

impl Registry {
    fn new(cluster: &Cluster, host: &str) -> Registry {
        let directory = cluster.directory().join("registry");
        fs::create_dir_all(&directory).expect("made");
        // Free a moment ago; nobody else here takes ports by number.
        let free = TcpListener::bind((host, 0)).expect("an address of the bridge").local_addr().expect("bound");
        Registry { directory, address: free.to_string(), process: None }
    }

    fn start(&mut self) {
        let config = self.directory.join("config.yml");
        let storage = self.directory.join("storage");
        let text = format!(
            "version: 0.1\nlog: {{level: info, formatter: text}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: {}}}\n",
            storage.display(),
            self.address
        );
        fs::write(&config, text).expect("written");
        let mut process = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry is installed");
        let mut lines = BufReader::new(process.stderr.take().expect("piped")).lines();
        let listens = lines.any(|line| line.is_ok_and(|line| line.contains("listening on")));
        assert!(listens, "the registry ended before it listened");
        // It stops when nobody reads what it says.
        std::thread::spawn(move || lines.for_each(drop));
        self.process = Some(process);
    }

    fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("it runs");
            process.wait().expect("it ends");
        }
    }

    /// Pushes an image of one program.
    fn push(&self, program: &Path, tag: &str) {
        let layout = self.directory.join("layout").display().to_string();
        let image = format!("{layout}:{tag}");
        if !Path::new(&layout).exists() {
            run("umoci", &["init", "--layout", &layout]);
        }
        run("umoci", &["new", "--image", &image]);
        run("umoci", &["insert", "--image", &image, &program.display().to_string(), "/hello"]);
        // Else two images of one program would be the same.
        run(
            "umoci",
            &["config", "--image", &image, "--config.entrypoint", "/hello", "--config.label", &format!("tag={tag}")],
        );
        let policy = self.directory.join("policy.json");
        fs::write(&policy, r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).expect("written");
        let (policy, to) = (policy.display().to_string(), format!("docker://{}/hello:{tag}", self.address));
        run("skopeo", &["--policy", &policy, "copy", "-q", "--dest-tls-verify=false", &format!("oci:{image}"), &to]);
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}

fn deployment(name: &str, tag: &str) -> String {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name}},
            "spec": {"nodeName": "n2", "containers": [{"name": "hello", "image": format!("{NAME}/hello:{tag}")}]},
        }},
    })
    .to_string()
}

#[test]
fn pods_go_on_while_the_registry_is_down_and_new_ones_start_when_it_is_back() {
    let cluster = Cluster::up(1, 1);
    let node = cluster.node_address("n1");
    let host = format!("{}.1", node.rsplit_once('.').expect("an address").0);
    let mut registry = Registry::new(&cluster, &host);
    registry.start();
    let program = hello();
    registry.push(&program, "one");
    registry.push(&program, "two");
    let mirror = format!("{NAME}=http://{}", registry.address);
    cluster.ok(&["up", "--servers", "1", "--nodes", "2", "--mirror", &mirror]);
    cluster.apply(&deployment("before", "one"));
    cluster.until_ready("before", 1);
    let running = cluster.running_programs("n2");
    assert_eq!(running.len(), 1);

    registry.stop();
    cluster.apply(&deployment("later", "two"));
    let mut seen = String::new();
    cluster.until("the pod waits for its image, and says for which", || {
        let pods = cluster.pods("later");
        let Some(pod) = pods.first() else { return false };
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        seen = string(&waiting["message"]);
        ["ErrImagePull", "ImagePullBackOff"].contains(&string(&waiting["reason"]).as_str())
            && seen.contains(&format!("{NAME}/hello:two"))
    });
    // An agent that starts anew needs no registry for what is here.
    kill(Pid::from_raw(cluster.process("n2")), Signal::SIGKILL).expect("it runs");
    cluster.ok(&["lab", "heal", "n2"]);
    cluster.apply(&deployment("same", "one"));
    cluster.until_ready("same", 1);
    cluster.until_ready("before", 1);
    assert!(cluster.ready_pods("later").is_empty(), "{seen}");

    registry.start();
    cluster.until_ready("later", 1);
    assert!(running.is_subset(&cluster.running_programs("n2")), "nobody was disturbed");
}
