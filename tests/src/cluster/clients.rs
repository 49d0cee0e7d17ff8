//! Clients that other people wrote, at the versions of `tests/clients/requirements.txt`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::harness::{Cluster, HELLO, beside_program, text};

const CLIENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients");

/// Where the clients are installed; made when first asked for, and again when their versions change.
pub fn installed() -> PathBuf {
    let directory = beside_program("clients");
    let wanted = fs::read_to_string(Path::new(CLIENTS).join("requirements.txt")).expect("the list of clients");
    let done = directory.join("installed.txt");
    if fs::read_to_string(&done).is_ok_and(|there| there == wanted) {
        return directory;
    }
    let run = |program: &Path, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().expect("it runs");
        assert!(output.status.success(), "{} {arguments:?}: {}", program.display(), text(&output));
    };
    let _ = fs::remove_dir_all(&directory);
    run(Path::new("python3"), &["-m", "venv", &directory.display().to_string()]);
    let requirements = format!("{CLIENTS}/requirements.txt");
    run(&directory.join("bin/pip"), &["install", "--quiet", "--requirement", &requirements]);
    fs::write(done, wanted).expect("written");
    directory
}

/// Runs a script of `tests/clients`, which says what is not as it should be.
#[track_caller]
fn script(cluster: &Cluster, name: &str, arguments: &[&str]) {
    let kubeconfig = cluster.ok(&["kubeconfig"]);
    let mut command = Command::new(installed().join("bin/python"));
    command.arg(Path::new(CLIENTS).join(name)).args(arguments);
    command.env("KUBECONFIG", kubeconfig.trim()).env("HOME", cluster.directory().join("home")).stdin(Stdio::null());
    let output = command.output().expect("python runs");
    assert!(output.status.success(), "{name}: {}", text(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().last(), Some("all as expected"));
}

#[test]
fn the_python_client_works_unchanged() {
    script(&Cluster::up(1, 1), "python_client.py", &[HELLO]);
}

#[test]
fn helm_installs_upgrades_rolls_back_and_uninstalls_a_chart() {
    script(&Cluster::up(1, 1), "helm.py", &[]);
}
