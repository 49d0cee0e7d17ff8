//! Commands, terminals, ports and proxies, with stock kubectl over each protocol, and with our own command line.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

use super::harness::{BUSYBOX, Cluster, text};

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: box, labels: {app: box}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: box
    image: IMAGE
    workingDir: /tmp
    stdin: true
    command: [/bin/sh, -c, "echo ready; while read line; do echo \"heard $line\"; done; sleep 1000"]
"#;

/// kubectl with something on its standard input.
fn kubectl(cluster: &Cluster, arguments: &[&str], input: &[u8], environment: &[(&str, &str)]) -> Output {
    let path = cluster.ok(&["kubeconfig"]);
    let mut command = Command::new("kubectl");
    command.args(arguments).env("KUBECONFIG", path.trim()).envs(environment.iter().copied());
    fed(command, input)
}

fn fed(mut command: Command, input: &[u8]) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let mut stdin = child.stdin.take().expect("piped");
    std::thread::scope(|scope| {
        // What is not read any more is no failure.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().expect("it ends")
    })
}

#[test]
fn commands_ports_and_proxies_work_over_every_protocol() {
    // Every other request meets a server that does not lead.
    let cluster = Cluster::up(2, 1);
    cluster.apply(&POD.replace("IMAGE", BUSYBOX));
    cluster.until("the pod runs", || cluster.get(&["pod", "box"])["status"]["phase"] == "Running");

    // Larger than everything that is kept on the way.
    let long: Vec<u8> = (0..2_000_000u32).flat_map(|number| number.to_le_bytes()).collect();
    for sockets in ["true", "false"] {
        let environment =
            [("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", sockets), ("KUBECTL_PORT_FORWARD_WEBSOCKETS", sockets)];
        let k = |arguments: &[&str], input: &[u8]| kubectl(&cluster, arguments, input, &environment);

        let output = k(&["exec", "box", "--", "sh", "-c", "pwd; echo wrong >&2; exit 3"], b"");
        assert_eq!(output.status.code(), Some(3), "{}", text(&output));
        assert_eq!(output.stdout, b"/tmp\n", "where the container works");
        assert!(String::from_utf8_lossy(&output.stderr).starts_with("wrong\n"), "{}", text(&output));
        let output = k(&["exec", "-i", "box", "--", "cat"], &long);
        assert!(output.stdout == long, "{} bytes came back, websockets {sockets}", output.stdout.len());

        let output = k(&["exec", "box", "--", "/no-such-program"], b"");
        assert!(text(&output).contains("/no-such-program"), "{}", text(&output));
        let output = k(&["exec", "box", "-c", "other", "--", "true"], b"");
        assert!(text(&output).contains("container other is not valid for pod box"), "{}", text(&output));
        let output = k(&["exec", "nobody", "--", "true"], b"");
        assert!(text(&output).contains("pods \"nobody\" not found"), "{}", text(&output));
    }

    // Our own command line speaks to the same.
    let mut command = cluster.command(&["exec", "-i", "pod/box", "--", "sh", "-c", "cat; exit 4"]);
    command.env("NO_COLOR", "1");
    let output = fed(command, b"words");
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(4), b"words".as_slice()));

    let directory = cluster.directory().join("copied");
    std::fs::create_dir_all(directory.join("below")).expect("made");
    std::fs::write(directory.join("below/file"), "content").expect("written");
    cluster.ok(&["cp", &directory.display().to_string(), "box:/tmp/there"]);
    assert_eq!(cluster.ok(&["exec", "box", "--", "cat", "/tmp/there/below/file"]), "content");
    let back = cluster.directory().join("back");
    cluster.ok(&["cp", "box:/tmp/there", &back.display().to_string()]);
    assert_eq!(std::fs::read_to_string(back.join("below/file")).expect("copied"), "content");
}
