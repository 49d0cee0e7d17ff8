//! Several processes, one store.

use std::process::Command;

use super::World;
use crate::{Digest, Snapshots, Store};

const STORE: &str = "COPEPOD_TEST_STORE";
const IMAGE: &str = "COPEPOD_TEST_IMAGE";
const CONTAINERS: &str = "COPEPOD_TEST_CONTAINERS";

/// What each of the processes does. Run by itself, it has nothing to do.
#[test]
fn one_of_several() {
    let Ok(store) = std::env::var(STORE) else { return };
    let image: Digest = std::env::var(IMAGE).unwrap().parse().unwrap();
    let containers = Snapshots::new(Store::open(store).unwrap(), std::env::var(CONTAINERS).unwrap()).unwrap();
    let root = containers.rootfs(&image, "c").unwrap();
    assert_eq!(std::fs::read_dir(root).unwrap().count(), 2000);
    containers.release("c").unwrap();
}

#[test]
fn processes_unpack_one_layer_once() {
    let world = World::new();
    let entries: Vec<String> = (0..2000).map(|n| format!("file f{n} content")).collect();
    let image = world.image("app:1", &[&entries.join("|")]);
    let processes: Vec<_> = (0..4)
        .map(|n| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "tests::together::one_of_several"])
                .env(STORE, world.store.dir())
                .env(IMAGE, image.id.to_string())
                .env(CONTAINERS, world.path(&format!("agent-{n}")))
                .spawn()
                .unwrap()
        })
        .collect();
    for mut process in processes {
        assert!(process.wait().unwrap().success());
    }
    assert_eq!(world.store.entries("layers").unwrap().len(), 1);
}
