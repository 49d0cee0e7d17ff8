//! Clients that write while things fail, and remember what they were promised.
//!
//! Each asks one server, and another when that does not answer: what any client of a cluster with several servers does. A
//! write that was tried again and is there already took place before; what counts is that it is acknowledged in the end,
//! and found afterwards.

use std::{
    collections::BTreeSet,
    fmt, fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, Config,
    api::PostParams,
    config::{KubeConfigOptions, Kubeconfig},
};

use super::harness::{Cluster, string};

/// A try that takes longer goes to another server.
const TRY_MAX: Duration = Duration::from_secs(2);

/// Between two writes of one client, so that the machine has time for the rest.
const PAUSE: Duration = Duration::from_millis(5);

pub struct Writers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Written>>,
}

/// What became of the writes.
#[derive(Default)]
pub struct Written {
    pub acknowledged: BTreeSet<String>,
    pub n_tries_again: usize,
    /// From one acknowledgement to the next, of one client.
    pub longest_gap: Duration,
}

impl Writers {
    pub fn on(cluster: &Cluster, n: usize) -> Writers {
        let stop = Arc::new(AtomicBool::new(false));
        let write = |number| {
            let (stop, directory) = (stop.clone(), cluster.directory());
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime.block_on(write(number, directory, stop))
            })
        };
        Writers { threads: (0..n).map(write).collect(), stop }
    }

    /// Ends them, and asserts that everything acknowledged is there.
    pub fn end(self, cluster: &Cluster) -> Written {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Written::default();
        for thread in self.threads {
            let written = thread.join().expect("a writer");
            all.acknowledged.extend(written.acknowledged);
            all.n_tries_again += written.n_tries_again;
            all.longest_gap = all.longest_gap.max(written.longest_gap);
        }
        let objects = cluster.items(&["configmaps"]);
        let found: BTreeSet<String> = objects.iter().map(|object| string(&object["metadata"]["name"])).collect();
        let lost: Vec<&String> = all.acknowledged.difference(&found).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        assert!(!all.acknowledged.is_empty(), "nothing was written");
        all
    }
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.acknowledged.len();
        write!(f, "{n} writes acknowledged, {n} found; {} tried again; ", self.n_tries_again)?;
        write!(f, "longest without an answer: {:.1} s", self.longest_gap.as_secs_f64())
    }
}

async fn write(number: usize, directory: PathBuf, stop: Arc<AtomicBool>) -> Written {
    let mut written = Written::default();
    let mut last = Instant::now();
    let (mut turn, mut api) = (number, None);
    for count in 0.. {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(format!("w{number}-{count}"));
        loop {
            if stop.load(Ordering::Relaxed) {
                return written;
            }
            if api.is_none() {
                api = connect(&directory, turn).await;
            }
            if let Some(api) = &api
                && create(api, &object).await
            {
                break;
            }
            written.n_tries_again += 1;
            turn += 1;
            api = None;
            tokio::time::sleep(PAUSE * 10).await;
        }
        written.longest_gap = written.longest_gap.max(last.elapsed());
        last = Instant::now();
        written.acknowledged.extend(object.metadata.name.take());
        tokio::time::sleep(PAUSE).await;
    }
    written
}

async fn create(api: &Api<ConfigMap>, object: &ConfigMap) -> bool {
    match tokio::time::timeout(TRY_MAX, api.create(&PostParams::default(), object)).await {
        Ok(Ok(_)) => true,
        // From an earlier try. That it is seen does not say that a majority has it: a write of something else does.
        Ok(Err(kube::Error::Api(status))) => status.code == 409,
        _ => false,
    }
}

/// One of the servers that there are, in turn.
async fn connect(directory: &std::path::Path, turn: usize) -> Option<Api<ConfigMap>> {
    let entries = fs::read_dir(directory).ok()?.flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path().join("admin.kubeconfig")).collect();
    files.retain(|file| file.exists());
    files.sort();
    let kubeconfig = Kubeconfig::read_from(files.get(turn % files.len().max(1))?).ok()?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.ok()?;
    config.connect_timeout = Some(TRY_MAX);
    Some(Api::default_namespaced(Client::try_from(config).ok()?))
}
