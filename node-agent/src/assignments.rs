//! What this node was told, on disk.
//!
//! An agent stands alone: every object that it receives is written down before it acts on it, one file each, so that it
//! goes on with the same world after a restart, whether or not anybody answers. A pod that the control plane no longer
//! knows stays in `leaving` until nothing of it is left on this machine, because how it must be stopped stands in it.
//!
//! Files are replaced by renaming. The revision is written last, together with the number of objects: should a power cut
//! lose some files, the numbers differ and the node asks for everything again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use copepod_proto::nodes::Delta;
use serde::{Deserialize, Serialize};

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
        let safe = |text: &str| !text.contains(['/', '_', '\0']) && !text.starts_with("..");
        safe(&self.plural) && safe(&self.namespace) && safe(&self.name) && !self.name.is_empty()
    }
}

#[derive(Serialize, Deserialize)]
struct Mark {
    revision: u64,
    objects: usize,
}

pub struct Assignments {
    dir: PathBuf,
    revision: u64,
    objects: BTreeMap<Place, Bytes>,
    /// Pods that are no longer assigned and not yet gone, by uid.
    leaving: BTreeMap<String, Bytes>,
}

/// What a delta changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changed {
    pub places: BTreeSet<Place>,
}

impl Assignments {
    pub fn open(dir: &Path) -> io::Result<Assignments> {
        let mut builder = fs::DirBuilder::new();
        // Secrets are among the objects.
        builder.recursive(true).mode(0o700);
        builder.create(dir.join("objects"))?;
        builder.create(dir.join("leaving"))?;
        let mut opened =
            Assignments { dir: dir.to_path_buf(), revision: 0, objects: BTreeMap::new(), leaving: BTreeMap::new() };
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
        opened.revision = mark.filter(|mark| mark.objects == opened.objects.len()).map_or(0, |mark| mark.revision);
        Ok(opened)
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

    /// Takes a delta over, first to disk.
    pub fn apply(&mut self, delta: Delta) -> io::Result<Changed> {
        let mut changed = Changed::default();
        let mut named = BTreeSet::new();
        for change in delta.changes {
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
        self.revision = delta.revision;
        let mark = Mark { revision: self.revision, objects: self.objects.len() };
        write(&self.dir, "revision", &serde_json::to_vec(&mark).map_err(io::Error::other)?)?;
        Ok(changed)
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

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use copepod_proto::nodes::Change;

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
        Delta { revision, reset, changes: changes.collect() }
    }

    fn told(assignments: &Assignments) -> String {
        let objects = assignments.objects.iter().map(|(p, o)| format!("{}/{}={}", p.plural, p.name, uid(o).unwrap()));
        let leaving = assignments.leaving.keys().map(|uid| format!("-{uid}"));
        format!("{}: {}", assignments.revision, objects.chain(leaving).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn what_was_told_outlives_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        let mut assignments = Assignments::open(dir.path()).unwrap();
        assert_eq!(told(&assignments), "0: ");
        assignments
            .apply(delta(5, true, &[("pods/d/a", Some("1")), ("pods/d/b", Some("2")), ("nodes//n", Some("3"))]))
            .unwrap();
        let changed = assignments.apply(delta(6, false, &[("pods/d/a", None), ("pods/d/b", Some("2"))])).unwrap();
        assert_eq!(changed.places.len(), 1, "what is the same has not changed");
        assert_eq!(told(&assignments), "6: nodes/n=3 pods/b=2 -1");

        let mut again = Assignments::open(dir.path()).unwrap();
        assert_eq!(told(&again), told(&assignments));
        again.is_gone("1").unwrap();
        // Another pod of the same name, and a reset that does not name the node.
        again.apply(delta(9, true, &[("pods/d/b", Some("4"))])).unwrap();
        assert_eq!(told(&Assignments::open(dir.path()).unwrap()), "9: pods/b=4 -2");
    }

    #[test]
    fn a_lost_file_means_asking_for_everything() {
        let dir = tempfile::tempdir().unwrap();
        let mut assignments = Assignments::open(dir.path()).unwrap();
        assignments.apply(delta(5, true, &[("pods/d/a", Some("1")), ("pods/d/b", Some("2"))])).unwrap();
        fs::write(dir.path().join("objects/pods_d_a.json"), "").unwrap();
        assert_eq!(told(&Assignments::open(dir.path()).unwrap()), "0: pods/b=2");
    }

    #[test]
    fn names_cannot_lead_out_of_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let mut assignments = Assignments::open(dir.path()).unwrap();
        let mut bad = delta(5, false, &[("pods/d/a", Some("1"))]);
        bad.changes[0].name = "../../x".into();
        assignments.apply(bad).unwrap();
        assert_eq!(told(&assignments), "5: ");
    }
}
