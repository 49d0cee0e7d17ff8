//! What this node was told, on disk.
//!
//! An agent stands alone: every object that it receives is written down before it acts on it, one file each, so that it
//! goes on with the same world after a restart, whether or not anybody answers. A pod that the control plane no longer
//! knows stays in `leaving` until nothing of it is left on this machine, because how it must be stopped stands in it.
//!
//! Files are replaced by renaming. The revision is written last, together with the number of objects: should a power cut
//! lose some files, the numbers differ and the node asks for everything again. What only the data path is made of
//! (`paths.rs`) is written later; until then the revision on disk stays behind.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use copepod_proto::nodes::Delta;
use serde::{Deserialize, Serialize};

use crate::{
    paths::Paths,
    surface::{Peers, Slices},
};

/// Where an object stands: its collection, namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub plural: String,
    pub namespace: String,
    pub name: String,
}

impl Place {
    pub fn new(plural: &str, namespace: &str, name: &str) -> Place {
        Place { plural: plural.into(), namespace: namespace.into(), name: name.into() }
    }

    /// Names of objects never contain `_` or `/`, so a file name says all.
    fn file_name(&self) -> String {
        format!("{}_{}_{}.json", self.plural, self.namespace, self.name)
    }

    fn of_file(name: &str) -> Option<Place> {
        let mut parts = name.strip_suffix(".json")?.splitn(3, '_');
        Some(Place::new(parts.next()?, parts.next()?, parts.next()?))
    }

    fn is_safe(&self) -> bool {
        is_safe(&self.plural) && is_safe(&self.namespace) && is_safe(&self.name) && !self.name.is_empty()
    }
}

/// Whether a name can be a part of a file's.
pub(crate) fn is_safe(text: &str) -> bool {
    !text.contains(['/', '_', '\0']) && !text.starts_with("..")
}

#[derive(Serialize, Deserialize)]
struct Mark {
    revision: u64,
    objects: usize,
}

pub struct Assignments {
    dir: PathBuf,
    revision: u64,
    /// The revision that all of what is written down contains.
    written: u64,
    paths: Paths,
    objects: BTreeMap<Place, Bytes>,
    /// Pods that are no longer assigned and not yet gone, by uid.
    leaving: BTreeMap<String, Bytes>,
}

/// What a delta changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changed {
    pub places: BTreeSet<Place>,
    /// The ways to others.
    pub paths: bool,
}

impl Assignments {
    /// What the node called `node` was told, and the ways to others among it.
    pub fn open(dir: &Path, node: &str) -> io::Result<(Assignments, Slices, Peers)> {
        let mut builder = fs::DirBuilder::new();
        // Secrets are among the objects.
        builder.recursive(true).mode(0o700);
        builder.create(dir.join("objects"))?;
        builder.create(dir.join("leaving"))?;
        let (paths, slices, peers, is_whole) = Paths::open(dir, node)?;
        let (objects, leaving) = (BTreeMap::new(), BTreeMap::new());
        let mut opened = Assignments { dir: dir.to_path_buf(), revision: 0, written: 0, paths, objects, leaving };
        for (name, bytes) in read_all(&dir.join("objects"))? {
            match Place::of_file(&name) {
                Some(place) if is_json(&bytes) => drop(opened.objects.insert(place, bytes)),
                _ => tracing::warn!(name, "an assignment on disk cannot be read; asking for everything again"),
            }
        }
        for (name, bytes) in read_all(&dir.join("leaving"))? {
            if let Some(uid) = name.strip_suffix(".json").filter(|_| is_json(&bytes)) {
                opened.leaving.insert(uid.into(), bytes);
            }
        }
        let mark = fs::read(dir.join("revision")).ok().and_then(|text| serde_json::from_slice::<Mark>(&text).ok());
        let mark = mark.filter(|mark| is_whole && mark.objects == opened.objects.len());
        opened.revision = mark.map_or(0, |mark| mark.revision);
        opened.written = opened.revision;
        Ok((opened, slices, peers))
    }

    /// The revision of the last delta; zero when everything must be asked for.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub fn get(&self, place: &Place) -> Option<&Bytes> {
        self.objects.get(place)
    }

    pub fn of<'a>(&'a self, plural: &'a str) -> impl Iterator<Item = (&'a Place, &'a Bytes)> {
        let first = Place::new(plural, "", "");
        self.objects.range(first..).take_while(move |(place, _)| place.plural == plural)
    }

    pub fn leaving(&self) -> &BTreeMap<String, Bytes> {
        &self.leaving
    }

    /// Takes a delta over, first to disk, but for the ways to others.
    pub fn apply(&mut self, mut delta: Delta, slices: &mut Slices, peers: &mut Peers) -> io::Result<Changed> {
        let mut changed = Changed::default();
        let mut named = BTreeSet::new();
        for change in std::mem::take(&mut delta.changes) {
            let place = Place { plural: change.plural, namespace: change.namespace, name: change.name };
            if !place.is_safe() {
                tracing::warn!(?place, "an object with an impossible name was ignored");
                continue;
            }
            named.insert(place.clone());
            match change.object {
                Some(object) if self.objects.get(&place) == Some(&object) => (),
                Some(object) => {
                    self.keep_if_replaced(&place, Some(&object))?;
                    write(&self.dir.join("objects"), &place.file_name(), &object)?;
                    self.objects.insert(place.clone(), object);
                    changed.places.insert(place);
                }
                None => self.forget(place, &mut changed)?,
            }
        }
        if delta.reset {
            let others: Vec<Place> = self.objects.keys().filter(|place| !named.contains(*place)).cloned().collect();
            for place in others {
                self.forget(place, &mut changed)?;
            }
        }
        let revision = delta.revision;
        match self.paths.apply(delta, slices, peers) {
            Ok(paths) => changed.paths = paths,
            Err(missing) => {
                self.revision = 0;
                self.mark(0)?;
                return Err(io::Error::other(missing));
            }
        }
        self.revision = revision;
        // That a revision is not written down yet means no more than to hear some of it again; but what is written must
        // have its number.
        if !changed.places.is_empty() {
            self.mark(if self.paths.is_written() { revision } else { self.written })?;
        }
        Ok(changed)
    }

    /// Whether all of it is on disk.
    pub fn is_written(&self) -> bool {
        self.written == self.revision
    }

    /// Whether some of what is not on disk yet says who is behind a service.
    pub fn has_unwritten_slices(&self) -> bool {
        self.paths.has_unwritten_slices()
    }

    /// Writes down what has not been yet; how many bytes.
    pub fn write(&mut self, slices: &Slices, peers: &Peers) -> io::Result<usize> {
        let n_bytes = self.paths.write(slices, peers)?;
        self.mark(self.revision)?;
        Ok(n_bytes)
    }

    fn mark(&mut self, revision: u64) -> io::Result<()> {
        let mark = Mark { revision, objects: self.objects.len() };
        write(&self.dir, "revision", &serde_json::to_vec(&mark).map_err(io::Error::other)?)?;
        self.written = revision;
        Ok(())
    }

    fn forget(&mut self, place: Place, changed: &mut Changed) -> io::Result<()> {
        if self.objects.contains_key(&place) {
            self.keep_if_replaced(&place, None)?;
            remove(&self.dir.join("objects").join(place.file_name()))?;
            self.objects.remove(&place);
            changed.places.insert(place);
        }
        Ok(())
    }

    /// A pod whose object goes away, or is another pod of the same name now, is remembered until it is gone.
    fn keep_if_replaced(&mut self, place: &Place, by: Option<&Bytes>) -> io::Result<()> {
        if place.plural != "pods" {
            return Ok(());
        }
        let Some(old) = self.objects.get(place).cloned() else { return Ok(()) };
        let Some(uid) = uid(&old) else { return Ok(()) };
        if by.and_then(self::uid).as_ref() != Some(&uid) && Place::new("", "", &uid).is_safe() {
            write(&self.dir.join("leaving"), &format!("{uid}.json"), &old)?;
            self.leaving.insert(uid, old);
        }
        Ok(())
    }

    /// Nothing is left of a pod that was leaving.
    pub fn is_gone(&mut self, uid: &str) -> io::Result<()> {
        match self.leaving.remove(uid) {
            Some(_) => remove(&self.dir.join("leaving").join(format!("{uid}.json"))),
            None => Ok(()),
        }
    }
}

#[derive(Deserialize)]
struct Named {
    metadata: NamedMeta,
}

#[derive(Deserialize)]
struct NamedMeta {
    uid: String,
}

fn uid(object: &Bytes) -> Option<String> {
    serde_json::from_slice::<Named>(object).ok().map(|named| named.metadata.uid)
}

fn is_json(bytes: &Bytes) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok()
}

fn read_all(dir: &Path) -> io::Result<Vec<(String, Bytes)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".tmp") {
            remove(&entry.path())?;
        } else {
            found.push((name, fs::read(entry.path())?.into()));
        }
    }
    Ok(found)
}

/// Replaces a file in one step, readable by its owner alone.
pub(crate) fn write(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    use io::Write;
    let fresh = dir.join(format!("{name}.tmp"));
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(&fresh)?.write_all(bytes)?;
    fs::rename(&fresh, dir.join(name))
}

pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use copepod_proto::nodes::{self, Change};

    fn delta(revision: u64, reset: bool, changes: &[(&str, Option<&str>)]) -> Delta {
        let changes = changes.iter().map(|(place, object)| {
            let parts: Vec<&str> = place.split('/').collect();
            Change {
                group: String::new(),
                plural: parts[0].into(),
                namespace: parts[1].into(),
                name: parts[2].into(),
                object: object.map(|uid| Bytes::from(format!(r#"{{"metadata":{{"uid":"{uid}"}}}}"#))),
            }
        });
        Delta { revision, reset, changes: changes.collect(), ..Delta::default() }
    }

    fn opened(dir: &Path) -> Assignments {
        Assignments::open(dir, "n1").unwrap().0
    }

    fn apply(assignments: &mut Assignments, delta: Delta) -> io::Result<Changed> {
        assignments.apply(delta, &mut Slices::default(), &mut Peers::default())
    }

    fn told(assignments: &Assignments) -> String {
        let objects = assignments.objects.iter().map(|(p, o)| format!("{}/{}={}", p.plural, p.name, uid(o).unwrap()));
        let leaving = assignments.leaving.keys().map(|uid| format!("-{uid}"));
        format!("{}: {}", assignments.revision, objects.chain(leaving).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn what_was_told_outlives_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        let mut assignments = opened(dir.path());
        assert_eq!(told(&assignments), "0: ");
        let three = [("pods/d/a", Some("1")), ("pods/d/b", Some("2")), ("services/d/n", Some("3"))];
        apply(&mut assignments, delta(5, true, &three)).unwrap();
        let two = [("pods/d/a", None), ("pods/d/b", Some("2"))];
        let changed = apply(&mut assignments, delta(6, false, &two)).unwrap();
        assert_eq!(changed.places.len(), 1, "what is the same has not changed");
        assert_eq!(told(&assignments), "6: pods/b=2 services/n=3 -1");

        let mut again = opened(dir.path());
        assert_eq!(told(&again), told(&assignments));
        again.is_gone("1").unwrap();
        // Another pod of the same name, and a reset that does not name the node.
        apply(&mut again, delta(9, true, &[("pods/d/b", Some("4"))])).unwrap();
        assert_eq!(told(&opened(dir.path())), "9: pods/b=4 -2");
    }

    #[test]
    fn a_lost_file_means_asking_for_everything() {
        let dir = tempfile::tempdir().unwrap();
        let mut assignments = opened(dir.path());
        apply(&mut assignments, delta(5, true, &[("pods/d/a", Some("1")), ("pods/d/b", Some("2"))])).unwrap();
        fs::write(dir.path().join("objects/pods_d_a.json"), "").unwrap();
        assert_eq!(told(&opened(dir.path())), "0: pods/b=2");
    }

    #[test]
    fn names_cannot_lead_out_of_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let mut assignments = opened(dir.path());
        let mut bad = delta(5, false, &[("pods/d/a", Some("1"))]);
        bad.changes[0].name = "../../x".into();
        apply(&mut assignments, bad).unwrap();
        assert_eq!(told(&assignments), "5: ");
    }

    #[test]
    fn the_revision_on_disk_waits_for_the_ways_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let (mut assignments, mut slices, mut peers) = Assignments::open(dir.path(), "n1").unwrap();
        let pod = |revision, peers| Delta { peers, ..delta(revision, false, &[("pods/d/a", Some("1"))]) };
        assignments.apply(pod(5, vec![]), &mut slices, &mut peers).unwrap();
        assert!(assignments.is_written());
        let peer = nodes::Peer { node: "n2".into(), range: "10.1.2.0/24".into(), address: "10.0.0.2".into() };
        let told = Delta { peers: vec![peer.clone()], ..delta(6, false, &[("pods/d/b", Some("2"))]) };
        assert!(assignments.apply(told, &mut slices, &mut peers).unwrap().paths);
        assert_eq!((assignments.revision(), opened(dir.path()).revision()), (6, 5));
        assert!(assignments.write(&slices, &peers).unwrap() > 0);
        assert_eq!((assignments.is_written(), opened(dir.path()).revision()), (true, 6));

        let slice = nodes::Slice { namespace: "d".into(), name: "s".into(), base: 4, ..nodes::Slice::default() };
        let told = Delta { slices: vec![slice], ..delta(7, false, &[]) };
        let refused = assignments.apply(told, &mut slices, &mut peers).unwrap_err();
        assert!(refused.to_string().contains("d/s"), "{refused}");
        assert_eq!((assignments.revision(), opened(dir.path()).revision()), (0, 0), "it asks for everything");
    }
}
