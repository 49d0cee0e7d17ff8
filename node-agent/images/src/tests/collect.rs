//! What garbage collection keeps and what it takes.

use super::World;

#[test]
fn what_is_named_or_mounted_stays() {
    let world = World::new();
    let named = world.image("named:1", &["file shared 1", "file named 1"]);
    let mounted = world.image("mounted:1", &["file shared 1", "file mounted 1"]);
    let neither = world.image("neither:1", &["file shared 1", "file neither 1"]);
    world.seen(&mounted, "c");
    world.store.unpack(&neither).unwrap();
    world.store.unpack(&named).unwrap();
    for name in ["mounted:1", "neither:1"] {
        assert!(world.store.remove(&name.parse().unwrap()).unwrap());
        assert!(!world.store.remove(&name.parse().unwrap()).unwrap());
    }

    let collected = world.store.collect_garbage().unwrap();

    // Two images lose manifest, configuration and their own layer; only the layer of one of them is free.
    assert_eq!((collected.blobs, collected.layers), (6, 1));
    assert_eq!(world.seen(&mounted, "c"), "mounted 1\nshared 1");
    assert_eq!(world.seen(&named, "d"), "named 1\nshared 1");

    world.containers.release("c").unwrap();
    assert_eq!(world.store.collect_garbage().unwrap().layers, 1);
    assert_eq!(world.store.collect_garbage().unwrap(), Default::default());
}

#[test]
fn containers_of_a_deleted_agent_hold_nothing() {
    let world = World::new();
    let image = world.image("app:1", &["file a 1"]);
    world.seen(&image, "c");
    world.store.remove(&"app:1".parse().unwrap()).unwrap();
    nix::mount::umount(&world.path("containers/c/rootfs")).unwrap();
    std::fs::remove_dir_all(world.path("containers")).unwrap();

    assert_eq!(world.store.collect_garbage().unwrap().layers, 1);
    assert_eq!(world.store.entries("leases").unwrap().len(), 0);
}
