//! Encrypted registries. The machine's certificates are read once a process, so the asking is done in one of its own.

use std::{fs, process::Command};

use super::{World, registry::DockerRegistry, write_layout};
use crate::{EnsureError, PullPolicy, Puller};

const MIRROR: &str = "COPEPOD_TEST_MIRROR";

/// What the other process does. Run by itself, it has nothing to do.
#[tokio::test]
async fn the_asking_process() {
    let Ok(mirror) = std::env::var(MIRROR) else { return };
    let world = World::new();
    let puller = Puller::new(world.store.clone(), &[("localhost:1".to_owned(), mirror)]).unwrap();
    match puller.ensure("localhost:1/app:1", PullPolicy::Always, &[]).await {
        Ok(image) => println!("\npulled: {}", world.seen(&image, "c")),
        Err(EnsureError::Failed(reason)) => println!("\nfailed: {reason}"),
        Err(error) => panic!("{error}"),
    }
}

fn asked(world: &World, mirror: String, trusted: &str) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tests::tls::the_asking_process", "--nocapture"])
        .env(MIRROR, mirror)
        .env("SSL_CERT_FILE", world.path(trusted))
        .env_remove("SSL_CERT_DIR")
        .output()
        .unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    output.lines().find(|line| line.starts_with("pulled") || line.starts_with("failed")).unwrap().to_owned()
}

#[test]
fn a_registry_is_believed_by_its_certificate() {
    let world = World::new();
    for name in ["registry", "stranger"] {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        fs::write(world.path(&format!("{name}.crt")), made.cert.pem()).unwrap();
        fs::write(world.path(&format!("{name}.key")), made.signing_key.serialize_pem()).unwrap();
    }
    let registry = DockerRegistry::with_certificate(&world.path("registry.crt"), &world.path("registry.key"));
    write_layout(&world.path("layout"), "any:1", &["file a 1"]);
    registry.push(&world.path("layout"), "app:1");
    let port = registry.address.rsplit_once(':').unwrap().1;

    assert_eq!(asked(&world, format!("https://localhost:{port}"), "registry.crt"), "pulled: a 1");
    let refused = asked(&world, format!("https://localhost:{port}"), "stranger.crt");
    assert!(refused.contains("certificate"), "{refused}");
    let no_certificates = asked(&world, format!("https://localhost:{port}"), "nothing.crt");
    assert!(no_certificates.starts_with("failed"), "{no_certificates}");
}
