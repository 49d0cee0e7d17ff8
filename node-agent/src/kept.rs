//! Logs of pods that are gone.
//!
//! What a pod wrote is most wanted when it is gone: after a rollout, an eviction, a scale-down. So the logs of ended pods
//! stay for a while, in a ring for each owner, so that a set that restarts all the time pushes out its own logs and nobody
//! else's:
//!
//! ```text
//! kept-logs/<namespace>_<owner>/<seconds>_<pod's log directory>/<container>/<attempt>.log
//! ```
//! The seconds say since when. Nothing else is remembered: what there is, the directories tell.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use copepod_api::Timestamp;
use copepod_proto::nodes::LogRequest;
use k8s_openapi::api::core::v1::Pod;

/// How many pods one owner has in its ring. The last rollout of a small set, or the last few crashes of a large one.
const PODS_MAX: usize = 10;

/// How long a log is of interest: as long as the events that lead to it.
const AGE_MAX_SECONDS: i64 = 7 * 24 * 3600;

/// What one owner's ring may hold on a node.
const OWNER_BYTES_MAX: u64 = 64 << 20;

/// What all rings together may hold on a node.
const BYTES_MAX: u64 = 1 << 30;

/// File names end at 255 bytes, and a namespace is in front.
const OWNER_NAME_MAX: usize = 150;

/// Says which revision of a Deployment a ReplicaSet is; its name ends in the same letters.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// The logs of one pod that is gone.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kept {
    since: i64,
    path: PathBuf,
    n_bytes: u64,
}

fn dir(data_dir: &Path) -> PathBuf {
    data_dir.join("kept-logs")
}

/// Whose ring a pod's logs belong to: its controller's, and for a revision of a Deployment the Deployment's.
fn ring(pod: &Pod) -> String {
    let metadata = &pod.metadata;
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let owner = metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let name = owner.map_or(metadata.name.as_deref().unwrap_or_default(), |owner| &owner.name);
    let hash = metadata.labels.as_ref().and_then(|labels| labels.get(TEMPLATE_HASH));
    let name = hash.and_then(|hash| name.strip_suffix(hash.as_str())?.strip_suffix('-')).unwrap_or(name);
    let end = name.char_indices().map(|(at, _)| at).take_while(|at| *at <= OWNER_NAME_MAX).last().unwrap_or(0);
    let name = if name.len() > OWNER_NAME_MAX { &name[..end] } else { name };
    format!("{namespace}_{name}")
}

/// Keeps the logs of a pod that ends, and lets older ones go. `log_dir` is gone after this.
pub fn keep(data_dir: &Path, pod: &Pod, log_dir: &Path, now: Timestamp) -> io::Result<()> {
    match size(log_dir) {
        Ok(0) => return fs::remove_dir_all(log_dir),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    let Some(name) = log_dir.file_name().and_then(|name| name.to_str()) else { return Ok(()) };
    let ring = dir(data_dir).join(ring(pod));
    fs::create_dir_all(&ring)?;
    fs::rename(log_dir, ring.join(format!("{}_{name}", now.as_second())))?;
    shrink(&dir(data_dir), now)
}

/// Takes away what is too old or too much.
fn shrink(dir: &Path, now: Timestamp) -> io::Result<()> {
    let mut left = Vec::new();
    for ring in entries(dir)? {
        let mut ring = pods(&ring)?;
        ring.sort();
        let mut n_bytes = 0;
        for (place, pod) in ring.into_iter().rev().enumerate() {
            n_bytes += pod.n_bytes;
            let is_old = now.as_second() - pod.since > AGE_MAX_SECONDS;
            // The newest stays even where it alone is too much: rotation bounds it.
            if is_old || place >= PODS_MAX || (place > 0 && n_bytes > OWNER_BYTES_MAX) {
                remove(&pod)?;
            } else {
                left.push(pod);
            }
        }
    }
    left.sort();
    let mut n_bytes: u64 = left.iter().map(|pod| pod.n_bytes).sum();
    for pod in &left {
        if n_bytes <= BYTES_MAX {
            break;
        }
        n_bytes -= pod.n_bytes;
        remove(pod)?;
    }
    Ok(())
}

fn remove(pod: &Kept) -> io::Result<()> {
    fs::remove_dir_all(&pod.path)?;
    match pod.path.parent().map(fs::remove_dir) {
        // Others are in the ring.
        Some(Err(error)) if error.kind() != io::ErrorKind::DirectoryNotEmpty => Err(error),
        _ => Ok(()),
    }
}

/// The log of a pod that is gone. Where no container is asked for, it must have had only one.
pub fn find(data_dir: &Path, asked: &LogRequest) -> io::Result<Result<PathBuf, String>> {
    let end = format!("_{}_{}_{}", asked.namespace, asked.pod, asked.uid);
    let mut found = None;
    for ring in entries(&dir(data_dir))? {
        found = found.or(entries(&ring)?.into_iter().find(|pod| pod.to_string_lossy().ends_with(&end)));
    }
    let gone = format!("pod {:?} is gone, and its node keeps no logs of it (any more)", asked.pod);
    let Some(found) = found else { return Ok(Err(gone)) };
    let containers: Vec<PathBuf> = entries(&found)?;
    let names: Vec<String> =
        containers.iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect();
    let container = match (asked.container.as_str(), names.as_slice()) {
        ("", [_]) => &containers[0],
        (name, _) if names.iter().any(|known| known == name) => &found.join(name),
        ("", _) => {
            let names = names.join(" ");
            return Ok(Err(format!(
                "a container name must be specified for pod {}, choose one of: [{names}]",
                asked.pod
            )));
        }
        (name, _) => {
            let names = names.join(" ");
            return Ok(Err(format!("container {name} wrote nothing in pod {}: choose one of: [{names}]", asked.pod)));
        }
    };
    let mut attempts: Vec<(u32, PathBuf)> = entries(container)?
        .into_iter()
        .filter_map(|log| Some((log.file_name()?.to_str()?.strip_suffix(".log")?.parse().ok()?, log)))
        .collect();
    attempts.sort();
    if asked.previous {
        attempts.pop();
    }
    Ok(attempts.pop().map(|(_, log)| log).ok_or(gone))
}

/// What lies in a directory; nothing where there is none.
fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Ok(entries) => {
            let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
            paths.sort();
            Ok(paths)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn pods(ring: &Path) -> io::Result<Vec<Kept>> {
    let pods = entries(ring)?.into_iter().map(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // What has no time is not ours to date, and goes first.
        let since = name.split('_').next().and_then(|seconds| seconds.parse().ok()).unwrap_or(0);
        Ok(Kept { since, n_bytes: size(&path)?, path })
    });
    pods.collect()
}

fn size(dir: &Path) -> io::Result<u64> {
    let mut n_bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        n_bytes += if entry.file_type()?.is_dir() { size(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(n_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    struct World(tempfile::TempDir);

    impl World {
        /// A pod ends at a second, having written so many bytes.
        fn ends(&self, name: &str, metadata: Value, second: i64, n_bytes: usize) {
            let log_dir = self.0.path().join(format!("logs/d_{name}_u"));
            fs::create_dir_all(log_dir.join("c")).unwrap();
            fs::write(log_dir.join("c/0.log"), vec![b'x'; n_bytes]).unwrap();
            let mut pod = json!({"metadata": metadata});
            pod["metadata"]["name"] = json!(name);
            pod["metadata"]["namespace"] = json!("d");
            let pod: Pod = serde_json::from_value(pod).unwrap();
            keep(self.0.path(), &pod, &log_dir, Timestamp::from_second(second).unwrap()).unwrap();
            assert!(!log_dir.exists());
        }

        fn kept(&self) -> Vec<String> {
            let dir = dir(self.0.path());
            let rings = entries(&dir).unwrap();
            let pods = rings.iter().flat_map(|ring| entries(ring).unwrap());
            pods.map(|pod| pod.strip_prefix(&dir).unwrap().to_string_lossy().into_owned()).collect()
        }
    }

    fn of(kind: &str, name: &str, hash: &str) -> Value {
        let owner = json!({"apiVersion": "v1", "kind": kind, "name": name, "uid": "o", "controller": true});
        json!({"ownerReferences": [owner], "labels": {TEMPLATE_HASH: hash}})
    }

    #[test]
    fn revisions_share_a_ring_and_bare_pods_have_their_own() {
        let world = World(tempfile::tempdir().unwrap());
        world.ends("web-1-a", of("ReplicaSet", "web-1", "1"), 100, 5);
        world.ends("web-2-b", of("ReplicaSet", "web-2", "2"), 101, 5);
        world.ends("alone", json!({}), 102, 5);
        world.ends("silent", json!({}), 103, 0);
        assert_eq!(world.kept(), ["d_alone/102_d_alone_u", "d_web/100_d_web-1-a_u", "d_web/101_d_web-2-b_u"]);
    }

    #[test]
    fn a_ring_forgets_its_oldest_and_everything_after_a_week() {
        let world = World(tempfile::tempdir().unwrap());
        world.ends("alone", json!({}), 0, 5);
        for n in 0..PODS_MAX as i64 + 2 {
            world.ends(&format!("p{n}"), of("Job", "many", ""), 1000 + n, 5);
        }
        let kept = world.kept();
        assert_eq!(kept.len(), PODS_MAX + 1, "{kept:?}");
        assert!(!kept.iter().any(|pod| pod.contains("_p0_") || pod.contains("_p1_")), "{kept:?}");
        world.ends("late", json!({}), AGE_MAX_SECONDS + 1, 5);
        assert!(!world.kept().iter().any(|pod| pod.contains("alone")), "a week old");
    }

    #[test]
    fn a_loud_owner_pushes_out_its_own_logs_only() {
        let world = World(tempfile::tempdir().unwrap());
        world.ends("quiet", json!({}), 1, 5);
        let much = OWNER_BYTES_MAX as usize / 2;
        for n in 0..3 {
            world.ends(&format!("p{n}"), of("Job", "loud", ""), 10 + n, much);
        }
        assert_eq!(world.kept(), ["d_loud/11_d_p1_u", "d_loud/12_d_p2_u", "d_quiet/1_d_quiet_u"]);
    }

    #[test]
    fn what_was_asked_for_is_found_or_told() {
        let world = World(tempfile::tempdir().unwrap());
        let log_dir = world.0.path().join("logs/d_two_u");
        for (container, attempt) in [("a", 0), ("a", 9), ("a", 10), ("b", 0)] {
            fs::create_dir_all(log_dir.join(container)).unwrap();
            fs::write(log_dir.join(container).join(format!("{attempt}.log")), "x").unwrap();
        }
        let pod: Pod = serde_json::from_value(json!({"metadata": {"namespace": "d", "name": "two"}})).unwrap();
        keep(world.0.path(), &pod, &log_dir, Timestamp::UNIX_EPOCH).unwrap();
        let find = |pod: &str, container: &str, previous: bool| {
            let (namespace, uid) = ("d".into(), "u".into());
            let (pod, container) = (pod.into(), container.into());
            let asked = LogRequest { namespace, pod, uid, container, previous, ..LogRequest::default() };
            match find(world.0.path(), &asked).unwrap() {
                Ok(path) => path.file_name().unwrap().to_string_lossy().into_owned(),
                Err(why) => why,
            }
        };
        assert_eq!(find("two", "a", false), "10.log");
        assert_eq!(find("two", "a", true), "9.log");
        assert_eq!(find("two", "", false), "a container name must be specified for pod two, choose one of: [a b]");
        assert_eq!(find("two", "c", false), "container c wrote nothing in pod two: choose one of: [a b]");
        assert!(find("three", "", false).contains("keeps no logs"));
        assert!(find("two", "b", true).contains("keeps no logs"));
    }
}
