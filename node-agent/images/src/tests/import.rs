//! Archives and layouts as other programs write them, and as they break.

use std::{fs, path::Path, process::Command};

use serde_json::json;

use super::{World, archive, gzip, write_layout};
use crate::{Digest, ImageError, Platform};

fn tar_of(dir: &Path, archive: &Path, options: &[&str]) {
    let done = Command::new("tar").args(options).arg("-cf").arg(archive).arg("-C").arg(dir).arg(".").status().unwrap();
    assert!(done.success());
}

fn names(imported: Vec<crate::Reference>) -> String {
    imported.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

#[test]
fn layouts_are_imported_from_directories_and_archives() {
    let world = World::new();
    write_layout(&world.path("layout"), "web:2", &["file a 1"]);
    tar_of(&world.path("layout"), &world.path("web.tar"), &[]);
    tar_of(&world.path("layout"), &world.path("web.tar.gz"), &["-z"]);
    fs::write(world.path("web.tar.zst"), zstd::encode_all(&fs::read(world.path("web.tar")).unwrap()[..], 1).unwrap())
        .unwrap();
    for source in ["layout", "web.tar", "web.tar.gz", "web.tar.zst"] {
        let world_of_its_own = World::new();
        let imported = world_of_its_own.store.import(&world.path(source), None).unwrap();
        let image = world_of_its_own.store.find(&imported[0]).unwrap().unwrap();
        assert_eq!(names(imported), "docker.io/library/web:2", "{source}");
        assert_eq!(world_of_its_own.seen(&image, "c"), "a 1", "{source}");
        assert_eq!(world_of_its_own.store.entries("ingest").unwrap().len(), 0, "{source}");
    }
}

/// What `docker save` wrote before version 25.
fn docker_save(dir: &Path, tags: &[&str]) {
    let layers = [archive("file a 1"), archive("file b 1")];
    let config = json!({
        "architecture": Platform::here().architecture,
        "os": "linux",
        "config": { "Cmd": ["/a"] },
        "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|layer| Digest::of(layer)).collect::<Vec<_>>() },
    });
    fs::create_dir_all(dir.join("one")).unwrap();
    fs::create_dir_all(dir.join("two")).unwrap();
    fs::write(dir.join("one/layer.tar"), &layers[0]).unwrap();
    fs::write(dir.join("two/real.tar"), gzip(&layers[1])).unwrap();
    std::os::unix::fs::symlink("../two/real.tar", dir.join("two/layer.tar")).unwrap();
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let table = json!([{ "Config": "config.json", "RepoTags": tags, "Layers": ["one/layer.tar", "two/layer.tar"] }]);
    fs::write(dir.join("manifest.json"), table.to_string()).unwrap();
}

#[test]
fn saved_images_are_imported_under_all_their_names() {
    let world = World::new();
    docker_save(&world.path("saved"), &["app:1", "example.com/app:one"]);
    tar_of(&world.path("saved"), &world.path("saved.tar"), &[]);
    let imported = world.store.import(&world.path("saved.tar"), None).unwrap();
    let image = world.store.find(&imported[1]).unwrap().unwrap();
    assert_eq!(names(imported), "docker.io/library/app:1 example.com/app:one");
    assert_eq!(world.seen(&image, "c"), "a 1\nb 1");
    assert_eq!(image.config.cmd, ["/a"]);
}

#[test]
fn an_image_without_a_name_needs_one() {
    let world = World::new();
    docker_save(&world.path("saved"), &[]);
    tar_of(&world.path("saved"), &world.path("saved.tar"), &[]);
    assert!(matches!(world.store.import(&world.path("saved.tar"), None), Err(ImageError::InvalidName(_))));
    let named = world.store.import(&world.path("saved.tar"), Some("app:3")).unwrap();
    assert_eq!(names(named), "docker.io/library/app:3");

    write_layout(&world.path("layout"), "latest", &[]);
    assert!(matches!(world.store.import(&world.path("layout"), None), Err(ImageError::InvalidName(_))));
    assert_eq!(names(world.store.import(&world.path("layout"), Some("app")).unwrap()), "docker.io/library/app:latest");
}

#[test]
fn content_under_a_wrong_digest_is_refused() {
    let world = World::new();
    write_layout(&world.path("layout"), "app:1", &["file a 1"]);
    let layer = world.path("layout/blobs/sha256").join(Digest::of(&archive("file a 1")).hex());
    fs::write(&layer, archive("file evil 1")).unwrap();
    assert!(matches!(world.store.import(&world.path("layout"), None), Err(ImageError::Malformed(_))));
    tar_of(&world.path("layout"), &world.path("layout.tar"), &[]);
    assert!(matches!(world.store.import(&world.path("layout.tar"), None), Err(ImageError::Malformed(_))));
    assert_eq!(world.store.list().unwrap(), []);
    assert_eq!(world.store.entries("ingest").unwrap().len(), 0);
}

#[test]
fn what_is_no_image_is_refused() {
    let world = World::new();
    fs::write(world.path("text"), "just some text").unwrap();
    tar_of(&world.path("text").parent().unwrap().join("images"), &world.path("store.tar"), &[]);
    for file in ["text", "store.tar"] {
        assert!(matches!(world.store.import(&world.path(file), None), Err(ImageError::Malformed(_))), "{file}");
    }
}

#[test]
fn an_image_of_another_machine_is_refused() {
    let world = World::new();
    docker_save(&world.path("saved"), &["app:1"]);
    let config = fs::read_to_string(world.path("saved/config.json")).unwrap();
    fs::write(world.path("saved/config.json"), config.replace(&Platform::here().architecture, "s390x")).unwrap();
    tar_of(&world.path("saved"), &world.path("saved.tar"), &[]);
    let error = world.store.import(&world.path("saved.tar"), None).unwrap_err().to_string();
    assert!(error.contains("linux/s390x"), "{error}");
}

#[test]
fn an_import_is_found_by_digest_too() {
    let world = World::new();
    let image = world.image("app:1", &["file a 1"]);
    let found = world.store.find(&format!("app@{}", image.manifest).parse().unwrap()).unwrap();
    assert_eq!(found, Some(image.clone()));
    assert_eq!(world.store.find(&format!("other@{}", image.manifest).parse().unwrap()).unwrap(), None);
}
