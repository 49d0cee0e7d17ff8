//! Roots of containers: mounted, mounted again, left behind, cleaned away.

use std::{fs, os::unix::fs::MetadataExt};

use super::{World, archive, gzip, write_layout_of};
use crate::{BuildSpec, Config, Content, Digest, ImageError, Snapshots, Store, garbage::Lease};

#[test]
fn a_built_image_can_be_mounted() {
    let world = World::new();
    let source = world.path("source");
    fs::create_dir_all(source.join("etc")).unwrap();
    fs::write(source.join("etc/motd"), "hello").unwrap();
    std::os::unix::fs::symlink("motd", source.join("etc/link")).unwrap();
    fs::write(world.path("app"), "program").unwrap();
    let spec = BuildSpec {
        reference: "example.com/app:1".into(),
        contents: vec![
            Content { source, target: "/".into() },
            Content { source: world.path("app"), target: "/usr/bin/app".into() },
        ],
        config: Config { entrypoint: vec!["/usr/bin/app".into()], user: "7:8".into(), ..Config::default() },
        ..BuildSpec::default()
    };
    let image = world.store.build(&spec).unwrap();

    let seen = world.seen(&image, "c1");

    assert_eq!(seen, "etc/\netc/link -> motd\netc/motd hello\nusr/\nusr/bin/\nusr/bin/app program");
    assert_eq!(image.config.entrypoint, ["/usr/bin/app"]);
    assert_eq!(image.config.user, "7:8");
    assert_eq!(world.store.find(&"example.com/app:1".parse().unwrap()).unwrap(), Some(image.clone()));
    assert_eq!(world.store.build(&spec).unwrap().manifest, image.manifest, "the same files are the same image");
}

#[test]
fn containers_share_layers_and_nothing_else() {
    let world = World::new();
    let image = world.image("app:1", &["file a one"]);

    let first = world.containers.rootfs(&image.id, "first").unwrap();
    let second = world.containers.rootfs(&image.id, "second").unwrap();
    fs::write(first.join("a"), "changed").unwrap();
    fs::write(first.join("b"), "new").unwrap();

    assert_eq!(super::tree(&second), "a one");
    assert_eq!(world.store.entries("layers").unwrap().len(), 1);
}

#[test]
fn a_container_keeps_its_root_until_it_is_released() {
    let world = World::new();
    let image = world.image("app:1", &["file a one"]);
    let root = world.containers.rootfs(&image.id, "c").unwrap();
    fs::write(root.join("b"), "written").unwrap();

    // The agent's next life.
    let store = Store::open(world.store.dir()).unwrap();
    let again = Snapshots::new(store, world.path("containers")).unwrap();
    assert_eq!(again.rootfs(&image.id, "c").unwrap(), root);
    assert_eq!(super::tree(&root), "a one\nb written");

    again.release("c").unwrap();
    again.release("c").unwrap();
    assert!(!world.path("containers/c").exists());
    assert_eq!(world.seen(&image, "c"), "a one", "what a container wrote went with it");
}

#[test]
fn upper_layers_hide_what_lower_ones_have() {
    let world = World::new();
    let image = world.image(
        "app:1",
        &[
            "dir etc | file etc/a 1 | file etc/b 1 | dir var | file var/x 1 | dir opt | file opt/y 1 | file top 1",
            "gone etc/a | opaque var | file var/new 2 | gone opt | dir opt | file opt/z 2 | gone top",
        ],
    );
    assert_eq!(world.seen(&image, "c"), "etc/\netc/b 1\nopt/\nopt/z 2\nvar/\nvar/new 2");
}

#[test]
fn a_whiteout_spares_what_its_own_layer_brings() {
    let world = World::new();
    let image =
        world.image("app:1", &["dir d | file d/old 1 | file f 1", "dir d | file d/new 2 | gone d | file f 2 | gone f"]);
    assert_eq!(world.seen(&image, "c"), "d/\nd/new 2\nf 2");
}

#[test]
fn owners_modes_times_links_and_nodes_are_kept() {
    let world = World::new();
    let image =
        world.image("app:1", &["dir bin | suid bin/su 5 | hard bin/sudo bin/su | node null 1:3 | link sh bin/su"]);
    let root = world.containers.rootfs(&image.id, "c").unwrap();
    let su = fs::metadata(root.join("bin/su")).unwrap();
    assert_eq!((su.mode() & 0o7777, su.uid(), su.mtime()), (0o4755, 5, 1_700_000_000));
    assert_eq!(su.ino(), fs::metadata(root.join("bin/sudo")).unwrap().ino());
    assert_eq!(fs::metadata(root.join("bin")).unwrap().mtime(), 1_700_000_000);
    assert_eq!(super::tree(&root), "bin/\nbin/su\nbin/sudo\nnull device 1:3\nsh -> bin/su");
}

#[test]
fn a_layer_that_comes_twice_is_mounted_once() {
    let world = World::new();
    let image = world.image("app:1", &["file a 1", "file b 1", "file a 1", ""]);
    assert_eq!(world.seen(&image, "c"), "a 1\nb 1");
}

#[test]
fn an_image_without_layers_is_an_empty_root() {
    let world = World::new();
    let image = world.image("app:1", &[]);
    assert_eq!(world.seen(&image, "c"), "");
}

#[test]
fn images_of_many_layers_are_mounted() {
    let world = World::new();
    let layers: Vec<String> = (0..120).map(|n| format!("file f{n:03} {n} | file last {n}")).collect();
    let layers: Vec<&str> = layers.iter().map(String::as_str).collect();
    let image = world.image("app:1", &layers);
    let seen = world.seen(&image, "c");
    assert!(seen.contains("f000 0\n") && seen.ends_with("f119 119\nlast 119"), "{seen}");
}

#[test]
fn layers_come_compressed_or_not() {
    let world = World::new();
    let plain = archive("file a 1");
    let zstd = zstd::encode_all(&archive("file b 1")[..], 1).unwrap();
    let diff_ids = [Digest::of(&plain), Digest::of(&archive("file b 1"))];
    write_layout_of(&world.path("layout"), "app:1", &[gzip(&plain), zstd], &diff_ids);
    let reference = &world.store.import(&world.path("layout"), None).unwrap()[0];
    let image = world.store.find(reference).unwrap().unwrap();
    assert_eq!(world.seen(&image, "c"), "a 1\nb 1");
}

#[test]
fn a_layer_that_is_not_what_the_image_says_is_refused() {
    let world = World::new();
    write_layout_of(&world.path("layout"), "app:1", &[archive("file a 1")], &[Digest::of(b"other")]);
    let reference = &world.store.import(&world.path("layout"), None).unwrap()[0];
    let image = world.store.find(reference).unwrap().unwrap();
    assert!(matches!(world.store.unpack(&image), Err(ImageError::Malformed(_))));
    assert_eq!(world.store.entries("layers").unwrap().len(), 0);
}

#[test]
fn ids_of_containers_are_no_paths() {
    let world = World::new();
    let image = world.image("app:1", &["file a one"]);
    for id in ["", "..", "a/b", ".", ".x"] {
        assert!(matches!(world.containers.rootfs(&image.id, id), Err(ImageError::InvalidName(_))), "{id:?}");
        assert!(matches!(world.containers.release(id), Err(ImageError::InvalidName(_))), "{id:?}");
    }
}

#[test]
fn what_a_machine_left_when_it_went_down_is_cleaned_away() {
    let world = World::new();
    let image = world.image("app:1", &["file a one"]);
    let running = world.containers.rootfs(&image.id, "running").unwrap();
    let lost = world.containers.rootfs(&image.id, "lost").unwrap();
    fs::write(lost.join("b"), "written").unwrap();
    nix::mount::umount(&lost).unwrap();
    let hidden = world.containers.rootfs(&image.id, "hidden").unwrap();
    nix::mount::umount(&hidden).unwrap();
    let lost = world.path("containers/lost");
    let lease = Lease { boot: "an earlier one".into(), ..Lease::of(&world.store, &lost).unwrap().unwrap() };
    lease.write(&world.store).unwrap();

    world.containers.clean().unwrap();

    assert_eq!(world.containers.list().unwrap(), ["hidden", "running"], "another mount namespace may have the former");
    assert_eq!(super::tree(&running), "a one");
    assert_eq!(world.store.entries("leases").unwrap().len(), 2);
    assert_eq!(world.seen(&image, "lost"), "a one");
}

#[test]
fn a_root_that_was_lost_without_notice_is_made_anew() {
    let world = World::new();
    let image = world.image("app:1", &["file a one"]);
    let root = world.containers.rootfs(&image.id, "c").unwrap();
    fs::write(root.join("b"), "written").unwrap();
    nix::mount::umount(&root).unwrap();
    assert_eq!(world.seen(&image, "c"), "a one");
}

#[test]
fn a_mask_of_the_process_is_no_mask_of_the_image() {
    let world = World::new();
    let empty = world.image("empty:1", &[]);
    let image = world.image("app:1", &["file a/b/c x"]);
    let mask = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let roots = [&empty, &image].map(|image| world.containers.rootfs(&image.id, &image.id.hex()[..8]).unwrap());
    nix::sys::stat::umask(mask);
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(roots.clone().map(|root| mode(&root)), [0o755, 0o755]);
    assert_eq!((mode(&roots[1].join("a/b")), mode(&roots[1].join("a/b/c"))), (0o755, 0o644));
}
