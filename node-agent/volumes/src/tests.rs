//! Volumes on a real file system.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
};

use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, ObjectFieldSelector, Pod, ResourceFieldSelector, Secret, VolumeMount},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Sources, VolumeError, Volumes, mount_source, prepare, tear_down};

#[derive(Default)]
struct Cluster {
    config_maps: BTreeMap<String, BTreeMap<String, String>>,
    secrets: BTreeMap<String, BTreeMap<String, String>>,
    token: Option<String>,
}

impl Cluster {
    fn config_map(mut self, name: &str, data: &[(&str, &str)]) -> Self {
        self.config_maps.insert(name.into(), data.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect());
        self
    }

    fn secret(mut self, name: &str, data: &[(&str, &str)]) -> Self {
        self.secrets.insert(name.into(), data.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect());
        self
    }
}

impl Sources for Cluster {
    fn config_map(&self, name: &str) -> Option<ConfigMap> {
        self.config_maps.get(name).map(|data| ConfigMap { data: Some(data.clone()), ..ConfigMap::default() })
    }

    fn secret(&self, name: &str) -> Option<Secret> {
        let data = self.secrets.get(name)?;
        let data = data.iter().map(|(key, value)| (key.clone(), ByteString(value.clone().into_bytes()))).collect();
        Some(Secret { data: Some(data), ..Secret::default() })
    }

    fn field(&self, selector: &ObjectFieldSelector) -> Result<String, String> {
        Ok(format!("<{}>", selector.field_path))
    }

    fn resource(&self, selector: &ResourceFieldSelector) -> Result<String, String> {
        Ok(format!("<{}>", selector.resource))
    }

    fn service_account_token(&self, audience: &str, _: i64) -> Option<String> {
        self.token.as_ref().map(|token| format!("{token} for {audience:?}"))
    }

    fn authority(&self) -> Option<String> {
        Some("PEM".into())
    }
}

fn pod(volume: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": [], "volumes": [volume]}})).unwrap()
}

struct World {
    dir: TempDir,
    version: u32,
}

impl World {
    fn new() -> World {
        World { dir: TempDir::new().unwrap(), version: 0 }
    }

    fn make(&mut self, pod: &Pod, cluster: &Cluster) -> Result<Volumes, VolumeError> {
        self.version += 1;
        prepare(&self.dir.path().join("pod"), pod, cluster, &format!("v{}", self.version))
    }
}

/// The files a container sees, `path mode content` a line.
fn shown(root: &Path) -> String {
    fn walk(root: &Path, prefix: &str, lines: &mut Vec<String>) {
        let mut entries: Vec<_> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap()).collect();
        entries.sort_by_key(|entry| entry.file_name());
        for entry in entries {
            let name = entry.file_name().into_string().unwrap();
            if name.starts_with("..") {
                continue;
            }
            let metadata = fs::metadata(entry.path()).unwrap();
            if metadata.is_dir() {
                walk(&entry.path(), &format!("{prefix}{name}/"), lines);
            } else {
                let text = fs::read_to_string(entry.path()).unwrap();
                lines.push(format!("{prefix}{name} {:o} {text}", metadata.permissions().mode() & 0o777));
            }
        }
    }
    let mut lines = Vec::new();
    walk(root, "", &mut lines);
    lines.join("\n")
}

#[test]
fn a_config_map_is_shown_and_replaced_at_once() {
    let mut world = World::new();
    let pod = pod(json!({"name": "c", "configMap": {"name": "web"}}));
    let made = world.make(&pod, &Cluster::default().config_map("web", &[("a", "1"), ("b", "2")])).unwrap();
    let path = &made["c"].path;
    assert_eq!(shown(path), "a 644 1\nb 644 2");
    assert!(path.ends_with("pod/volumes/kubernetes.io~configmap/c"));

    let before = fs::read_link(path.join("..data")).unwrap();
    world.make(&pod, &Cluster::default().config_map("web", &[("a", "1"), ("b", "2")])).unwrap();
    assert_eq!(fs::read_link(path.join("..data")).unwrap(), before, "nothing changed, nothing written");

    world.make(&pod, &Cluster::default().config_map("web", &[("a", "3"), ("c", "4")])).unwrap();
    assert_eq!(shown(path), "a 644 3\nc 644 4");
    let versions = fs::read_dir(path).unwrap().filter(|e| e.as_ref().unwrap().file_type().unwrap().is_dir()).count();
    assert_eq!(versions, 1, "old versions are gone");
}

#[test]
fn items_choose_keys_paths_and_modes() {
    let mut world = World::new();
    let pod = pod(json!({"name": "s", "secret": {"secretName": "k", "defaultMode": 0o400, "items": [
        {"key": "tls", "path": "deep/er/tls.crt"}, {"key": "key", "path": "tls.key", "mode": 0o600}]}}));
    let cluster = Cluster::default().secret("k", &[("tls", "C"), ("key", "K"), ("other", "O")]);
    let made = world.make(&pod, &cluster).unwrap();
    assert_eq!(shown(&made["s"].path), "deep/er/tls.crt 400 C\ntls.key 600 K");
    assert!(made["s"].read_only);
}

#[test]
fn what_is_missing_is_named_unless_optional() {
    let cases = [
        (json!({"name": "v", "configMap": {"name": "no"}}), Err("volume \"v\": configmap \"no\" not found")),
        (json!({"name": "v", "configMap": {"name": "no", "optional": true}}), Ok("")),
        (json!({"name": "v", "secret": {"secretName": "no"}}), Err("volume \"v\": secret \"no\" not found")),
        (
            json!({"name": "v", "configMap": {"name": "web", "items": [{"key": "x", "path": "x"}]}}),
            Err("volume \"v\": configmap \"web\" references non-existent config key: x"),
        ),
        (
            json!({"name": "v", "configMap": {"name": "web", "optional": true, "items": [{"key": "x", "path": "x"}]}}),
            Ok(""),
        ),
        (
            json!({"name": "v", "configMap": {"name": "web", "items": [{"key": "a", "path": "../x"}]}}),
            Err("volume \"v\": path \"../x\" must be relative, and neither contain nor begin with `..`"),
        ),
        (json!({"name": "../v", "emptyDir": {}}), Err("volume \"../v\": its name must be a DNS label, like `data`")),
    ];
    for (volume, expected) in cases {
        let made = World::new().make(&pod(volume.clone()), &Cluster::default().config_map("web", &[("a", "1")]));
        match (made, expected) {
            (Ok(made), Ok(text)) => assert!(made.len() == 1 && text.is_empty()),
            (Err(error), Err(text)) => assert_eq!(error.to_string(), text),
            (made, _) => panic!("{volume}: {made:?}"),
        }
    }
}

#[test]
fn a_projected_volume_gathers_its_sources() {
    let mut world = World::new();
    let pod = pod(json!({"name": "p", "projected": {"sources": [
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"secret": {"name": "k"}},
        {"downwardAPI": {"items": [{"path": "ns", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
        {"serviceAccountToken": {"path": "token"}},
    ]}}));
    let mut cluster = Cluster::default().secret("k", &[("s", "S")]);
    // A token is waited for the first time, and kept as it is when the next is not to be had.
    assert!(world.make(&pod, &cluster).unwrap_err().to_string().contains("no token for \"token\""));
    cluster.token = Some("T".into());
    let made = world.make(&pod, &cluster).unwrap();
    let all = "ca.crt 644 PEM\nns 644 <metadata.namespace>\ns 644 S\ntoken 644 T for \"\"";
    assert_eq!(shown(&made["p"].path), all);
    cluster.token = None;
    world.make(&pod, &cluster).unwrap();
    assert_eq!(shown(&made["p"].path), all);
}

#[test]
fn an_empty_dir_in_memory_is_bounded_and_taken_away() {
    if !nix::unistd::geteuid().is_root() {
        return; // Mounting needs root; the rest of this file does not.
    }
    let mut world = World::new();
    let pod = pod(json!({"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}));
    let made = world.make(&pod, &Cluster::default()).unwrap();
    let path = made["m"].path.clone();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o777);
    fs::write(path.join("kept"), "x").unwrap();
    assert!(fs::write(path.join("big"), vec![0; 2 << 20]).is_err(), "sizeLimit holds");

    world.make(&pod, &Cluster::default()).unwrap();
    assert_eq!(fs::read_to_string(path.join("kept")).unwrap(), "x", "making it again keeps what is in it");

    tear_down(&world.dir.path().join("pod")).unwrap();
    assert!(!world.dir.path().join("pod").exists());
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(path.to_str().unwrap()));
    tear_down(&world.dir.path().join("pod")).unwrap();
}

#[test]
fn files_belong_to_the_group_of_the_pod() {
    if !nix::unistd::geteuid().is_root() {
        return; // Giving files away needs root.
    }
    let mut pod = pod(json!({"name": "s", "secret": {"secretName": "k", "defaultMode": 0o400}}));
    pod.spec.as_mut().unwrap().security_context = serde_json::from_value(json!({"fsGroup": 4711})).unwrap();
    let made = World::new().make(&pod, &Cluster::default().secret("k", &[])).unwrap();
    assert_eq!(shown_owner(&made["s"].path), None);
    let mut world = World::new();
    let made = world.make(&pod, &Cluster::default().secret("k", &[("a", "1")])).unwrap();
    assert_eq!(shown(&made["s"].path), "a 440 1");
    assert_eq!(shown_owner(&made["s"].path.join("a")), Some(4711));
}

fn shown_owner(path: &Path) -> Option<u32> {
    fs::metadata(path).ok().map(|metadata| metadata.gid())
}

#[test]
fn host_paths_are_what_they_are_said_to_be() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let cases = [
        (at("file"), "File", true),
        (at("file"), "Directory", false),
        (at("no"), "Directory", false),
        (at("made"), "DirectoryOrCreate", true),
        (at("made-file"), "FileOrCreate", true),
        (at("made"), "Socket", false),
        ("/dev/null".into(), "CharDevice", true),
        ("relative".into(), "", false),
        (at("../x"), "", false),
        (at("file"), "Nonsense", false),
    ];
    for (path, kind, works) in cases {
        let made = World::new()
            .make(&pod(json!({"name": "h", "hostPath": {"path": path, "type": kind}})), &Cluster::default());
        assert_eq!(made.is_ok(), works, "{path} {kind}: {made:?}");
    }
    assert!(dir.path().join("made").is_dir() && dir.path().join("made-file").is_file());
}

#[test]
fn a_sub_path_never_leaves_its_volume() {
    let mut world = World::new();
    let made = world.make(&pod(json!({"name": "d", "emptyDir": {}})), &Cluster::default()).unwrap();
    let root = made["d"].path.canonicalize().unwrap();
    symlink("/etc", root.join("out")).unwrap();
    fs::create_dir(root.join("in")).unwrap();
    symlink("in", root.join("link")).unwrap();
    let source = |sub_path: &str| {
        let mount = VolumeMount { name: "d".into(), ..VolumeMount::default() };
        mount_source(&made, &mount, Some(sub_path))
    };
    assert_eq!(source("").unwrap(), made["d"].path);
    assert_eq!(source("a/b").unwrap(), root.join("a/b"));
    assert!(root.join("a/b").is_dir());
    assert_eq!(source("link").unwrap(), root.join("in"));
    assert_eq!(source("link/new").unwrap(), root.join("in/new"));
    for bad in ["out", "out/x", "../x", "/etc", "out/../../x"] {
        assert!(source(bad).is_err(), "{bad}");
    }
    assert!(!Path::new("/etc/x").exists());
}

#[test]
fn a_volume_that_cannot_be_made_here_says_what_can() {
    let made = World::new().make(&pod(json!({"name": "n", "nfs": {"server": "s", "path": "/"}})), &Cluster::default());
    assert!(made.unwrap_err().to_string().contains("use configMap, secret, projected"));
}
