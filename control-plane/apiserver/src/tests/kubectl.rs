//! Stock kubectl, where it is installed.

use std::{io::ErrorKind, process::Stdio};

use tokio::{io::AsyncWriteExt, process::Command};

use super::client::Server;

const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: web}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
";

struct Kubectl {
    home: tempfile::TempDir,
}

impl Kubectl {
    /// What it prints, or what it complains; `None` where there is no kubectl.
    async fn run(&self, arguments: &str, input: &str) -> Option<String> {
        let mut command = Command::new("kubectl");
        command
            .args(arguments.split(' '))
            .env("KUBECONFIG", self.home.path().join("config"))
            .env("HOME", self.home.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = match command.spawn() {
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            child => child.unwrap(),
        };
        child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
        let output = child.wait_with_output().await.unwrap();
        let told = if output.status.success() { output.stdout } else { output.stderr };
        Some(String::from_utf8(told).unwrap().trim_end().to_owned())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_is_at_home() {
    let server = Server::start().await;
    let kubectl = Kubectl { home: tempfile::tempdir().unwrap() };
    std::fs::write(kubectl.home.path().join("config"), server.kubeconfig()).unwrap();
    let conversation = [
        ("apply -f -", "deployment.apps/web created\nservice/web created"),
        ("apply -f -", "deployment.apps/web unchanged\nservice/web unchanged"),
        (
            "apply --server-side --force-conflicts -f -",
            "deployment.apps/web serverside-applied\nservice/web serverside-applied",
        ),
        ("scale deploy web --replicas=4", "deployment.apps/web scaled"),
        ("get deploy --no-headers -o custom-columns=N:.metadata.name,R:.spec.replicas", "web   4"),
        ("create namespace more", "namespace/more created"),
        ("create configmap a --from-literal=x=1 -n more", "configmap/a created"),
        ("get configmap a -n more -o jsonpath={.data}", r#"{"x":"1"}"#),
        ("create deployment other --image=web --port=80", "deployment.apps/other created"),
        ("label deploy web x=y", "deployment.apps/web labeled"),
        ("patch deploy web -p {\"spec\":{\"paused\":true}}", "deployment.apps/web patched"),
        ("get deploy -l x=y -o name", "deployment.apps/web"),
        ("get pods", ""),
        ("auth can-i delete pods", "yes"),
        ("get service web --watch --request-timeout=1 -o name", "service/web"),
        ("delete deploy --all", "deployment.apps \"other\" deleted\ndeployment.apps \"web\" deleted"),
        ("get nothing", "error: the server doesn't have a resource type \"nothing\""),
    ];
    for (arguments, expected) in conversation {
        let Some(told) = kubectl.run(arguments, WEB).await else { return };
        assert_eq!(told, expected, "kubectl {arguments}");
    }
    let explained = kubectl.run("explain deployment.spec.replicas", "").await.unwrap();
    assert!(explained.contains("FIELD: replicas <integer>"), "{explained}");
    let unknown = kubectl.run("apply -f -", &WEB.replace("replicas", "replica")).await.unwrap();
    assert!(unknown.contains(r#"unknown field "spec.replica""#), "{unknown}");
}
