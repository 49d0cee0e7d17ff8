//! Encrypted registries. The machine's certificates are read once a process, so the asking is done in one of its own.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    process::Command,
    thread,
};

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

fn asked(world: &World, mirror: String, trusted: &str, proxy: &str) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tests::tls::the_asking_process", "--nocapture"])
        .env(MIRROR, mirror)
        .env("SSL_CERT_FILE", world.path(trusted))
        .env_remove("SSL_CERT_DIR")
        .env("HTTPS_PROXY", proxy)
        .output()
        .unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    output.lines().find(|line| line.starts_with("pulled") || line.starts_with("failed")).unwrap().to_owned()
}

/// An encrypted registry, with a certificate for `name` in `registry.crt`.
fn encrypted(world: &World, name: &str) -> DockerRegistry {
    for file in ["registry", "stranger"] {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        fs::write(world.path(&format!("{file}.crt")), made.cert.pem()).unwrap();
        fs::write(world.path(&format!("{file}.key")), made.signing_key.serialize_pem()).unwrap();
    }
    let registry = DockerRegistry::with_certificate(&world.path("registry.crt"), &world.path("registry.key"));
    write_layout(&world.path("layout"), "any:1", &["file a 1"]);
    registry.push(&world.path("layout"), "app:1");
    registry
}

#[test]
fn a_registry_is_believed_by_its_certificate() {
    let world = World::new();
    let registry = encrypted(&world, "localhost");
    let mirror = format!("https://localhost:{}", registry.address.rsplit_once(':').unwrap().1);
    assert_eq!(asked(&world, mirror.clone(), "registry.crt", ""), "pulled: a 1");
    let refused = asked(&world, mirror.clone(), "stranger.crt", "");
    assert!(refused.contains("certificate"), "{refused}");
    let no_certificates = asked(&world, mirror, "nothing.crt", "");
    assert!(no_certificates.starts_with("failed"), "{no_certificates}");
}

#[test]
fn a_registry_is_reached_through_a_proxy() {
    let world = World::new();
    let registry = encrypted(&world, "registry.test");
    let proxy = proxy_to(registry.address.clone());
    let mirror = || "https://registry.test".to_owned();
    assert_eq!(asked(&world, mirror(), "registry.crt", &format!("http://user:pw@{proxy}")), "pulled: a 1");
    let refused = asked(&world, mirror(), "registry.crt", &format!("http://user:no@{proxy}"));
    assert!(refused.contains("the proxy") && !refused.contains("user:no"), "{refused}");
}

/// Takes `user:pw` to one address, whatever was asked for.
fn proxy_to(target: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let head: Vec<String> = BufReader::new(client.try_clone().unwrap())
                .lines()
                .map_while(Result::ok)
                .take_while(|line| !line.is_empty())
                .collect();
            let login = head.iter().any(|line| line.eq_ignore_ascii_case("proxy-authorization: basic dXNlcjpwdw=="));
            if !login || head[0] != "CONNECT registry.test:443 HTTP/1.1" {
                client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").unwrap();
                continue;
            }
            let server = TcpStream::connect(&target).unwrap();
            client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            for (mut from, mut to) in [
                (client.try_clone().unwrap(), server.try_clone().unwrap()),
                (server.try_clone().unwrap(), client.try_clone().unwrap()),
            ] {
                thread::spawn(move || std::io::copy(&mut from, &mut to));
            }
        }
    });
    address
}
