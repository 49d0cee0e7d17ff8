//! What each pod asked of the network, a file a pod, so that an agent that starts again knows it before it has spoken to
//! anybody: a rule that is made anew must not leave out the port of a pod that runs.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{dns::Search, files, services::HostPort};

const VERSION: u32 = 1;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wishes {
    /// Ports of the node that lead to it.
    pub host_ports: Vec<HostPort>,
    /// Which names it tries for one that is not complete.
    pub search: Search,
}

#[derive(Serialize, Deserialize)]
struct Written {
    version: u32,
    #[serde(flatten)]
    wishes: Wishes,
}

pub struct Pods {
    directory: PathBuf,
    wishes: BTreeMap<String, Wishes>,
}

impl Pods {
    pub fn open(directory: &Path) -> io::Result<Pods> {
        let mut wishes = BTreeMap::new();
        for (pod, bytes) in files::read(directory)? {
            match serde_json::from_slice::<Written>(&bytes) {
                Ok(written) if written.version == VERSION => drop(wishes.insert(pod, written.wishes)),
                // The pod says it again as soon as somebody takes it over.
                _ => tracing::warn!(pod, "what a pod asked of the network cannot be read"),
            }
        }
        Ok(Pods { directory: directory.to_owned(), wishes })
    }

    /// False if that was known already.
    pub fn keep(&mut self, pod: &str, wishes: &Wishes) -> io::Result<bool> {
        if self.wishes.get(pod) == Some(wishes) {
            return Ok(false);
        }
        let written = serde_json::to_vec(&Written { version: VERSION, wishes: wishes.clone() })?;
        files::write(&self.directory, pod, &written)?;
        self.wishes.insert(pod.to_owned(), wishes.clone());
        Ok(true)
    }

    pub fn forget(&mut self, pod: &str) -> io::Result<Option<Wishes>> {
        files::remove(&self.directory, pod)?;
        Ok(self.wishes.remove(pod))
    }

    pub fn all(&self) -> impl Iterator<Item = (&str, &Wishes)> {
        self.wishes.iter().map(|(pod, wishes)| (pod.as_str(), wishes))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::Protocol;

    #[test]
    fn wishes_outlive_the_process_and_damage_is_no_reason_to_stop() {
        let directory = tempfile::tempdir().unwrap();
        let port = HostPort { protocol: Protocol::Tcp, host_ip: None, host_port: 80, container_port: 8080 };
        let wishes = Wishes { host_ports: vec![port], search: Search::of("search example.org\n") };
        let mut pods = Pods::open(directory.path()).unwrap();
        assert_eq!([pods.keep("a", &wishes).unwrap(), pods.keep("a", &wishes).unwrap()], [true, false]);
        fs::write(directory.path().join("b"), "{").unwrap();
        fs::write(directory.path().join("c"), r#"{"version":9,"host_ports":[],"search":{"suffixes":[],"dots":1}}"#)
            .unwrap();
        let mut pods = Pods::open(directory.path()).unwrap();
        assert_eq!(pods.all().collect::<Vec<_>>(), [("a", &wishes)]);
        assert_eq!(pods.forget("a").unwrap(), Some(wishes));
        assert_eq!(Pods::open(directory.path()).unwrap().all().count(), 0);
    }
}
