//! Noticing that containers end. The interface has no call that waits for one.
//!
//! Newer runtimes stream events, and an event means: look. The others are looked at again and again, sooner when
//! something has just happened and seldom when nothing does. One listing serves everybody who waits, and when nobody
//! waits nothing is asked.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};
use tonic::{Code, transport::Channel};

use super::{
    config::NODE,
    proto::{self, runtime_service_client::RuntimeServiceClient},
    within,
};

/// The first look after something happened. Containers that do little end about so soon.
const LOOK_SOON: Duration = Duration::from_millis(50);

/// The longest pause between two looks; kubelets look as often.
const LOOK_SELDOM: Duration = Duration::from_secs(1);

/// The pause between looks where events say when to look. Events may be lost: one runtime gives each to one listener.
const LOOK_WITH_EVENTS: Duration = Duration::from_secs(5);

/// How long a look may take.
const LOOK_MAX: Duration = Duration::from_secs(30);

pub struct Watch {
    seen: watch::Receiver<Seen>,
    wanted: Arc<Notify>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

#[derive(Clone, Default)]
struct Seen {
    /// How many looks there were.
    looks: u64,
    running: Arc<BTreeSet<String>>,
}

/// Somebody's interest in what happens from now on.
pub struct News<'a> {
    watch: &'a Watch,
    seen: watch::Receiver<Seen>,
    looks: u64,
}

impl Watch {
    pub fn new(runtime: RuntimeServiceClient<Channel>, node: &str) -> Watch {
        let (sender, seen) = watch::channel(Seen::default());
        let wanted = Arc::new(Notify::new());
        let events = Arc::new(AtomicBool::new(false));
        let follower = follow_events(runtime.clone(), wanted.clone(), events.clone());
        let looker = Looker { runtime, node: node.to_owned(), wanted: wanted.clone(), events, sender };
        Watch { seen, wanted, tasks: [tokio::spawn(looker.look_forever()), tokio::spawn(follower)] }
    }

    pub fn begin(&self) -> News<'_> {
        let seen = self.seen.clone();
        let looks = seen.borrow().looks;
        News { watch: self, seen, looks }
    }

    /// Something has probably changed.
    pub fn look(&self) {
        self.wanted.notify_one();
    }
}

impl News<'_> {
    /// Returns when a look that began after this was made did not find the container running.
    pub async fn until_not_running(&mut self, id: &str) {
        self.watch.look();
        // A look that was under way may have begun before; the one after it did not.
        let enough = self.looks + 2;
        // The looker lives as long as the watch that is borrowed here.
        let _ = self.seen.wait_for(|seen| seen.looks >= enough && !seen.running.contains(id)).await;
    }
}

struct Looker {
    runtime: RuntimeServiceClient<Channel>,
    node: String,
    wanted: Arc<Notify>,
    /// Events come, and with them the looks that are needed.
    events: Arc<AtomicBool>,
    sender: watch::Sender<Seen>,
}

impl Looker {
    async fn look_forever(mut self) {
        let mut pause = LOOK_SOON;
        loop {
            // The watch itself holds one receiver.
            if self.sender.receiver_count() <= 1 {
                self.wanted.notified().await;
                pause = LOOK_SOON;
            }
            match self.look().await {
                Ok(running) => {
                    let same = *self.sender.borrow().running == running;
                    pause = if same { (pause * 2).min(LOOK_SELDOM) } else { LOOK_SOON };
                    self.sender.send_modify(|seen| {
                        seen.looks += 1;
                        if !same {
                            seen.running = running.into();
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(error, "the runtime does not say what runs");
                    pause = LOOK_SELDOM;
                }
            }
            let is_told = self.events.load(Ordering::Relaxed) && pause == LOOK_SELDOM;
            tokio::select! {
                () = tokio::time::sleep(if is_told { LOOK_WITH_EVENTS } else { pause }) => (),
                () = self.wanted.notified() => pause = LOOK_SOON,
            }
        }
    }

    async fn look(&mut self) -> Result<BTreeSet<String>, String> {
        let filter = proto::ContainerFilter {
            state: Some(proto::ContainerStateValue { state: proto::ContainerState::ContainerRunning.into() }),
            label_selector: HashMap::from([(NODE.into(), self.node.clone())]),
            ..proto::ContainerFilter::default()
        };
        let asked = proto::ListContainersRequest { filter: Some(filter) };
        let answer = within(LOOK_MAX, asked, |request| self.runtime.list_containers(request)).await;
        let containers = answer.map_err(|refusal| refusal.text)?.containers;
        Ok(containers.into_iter().map(|container| container.id).collect())
    }
}

/// Turns events into looks, for as long as the runtime has any.
async fn follow_events(mut runtime: RuntimeServiceClient<Channel>, wanted: Arc<Notify>, are_there: Arc<AtomicBool>) {
    loop {
        // Runtimes answer with the first event and not before: until then there is nothing to see here.
        match runtime.get_container_events(proto::GetEventsRequest {}).await {
            Ok(answer) => {
                are_there.store(true, Ordering::Relaxed);
                let mut events = answer.into_inner();
                while let Ok(Some(_)) = events.message().await {
                    wanted.notify_one();
                }
                are_there.store(false, Ordering::Relaxed);
                wanted.notify_one();
            }
            Err(status) if status.code() == Code::Unimplemented => return,
            Err(status) => tracing::debug!(error = status.message(), "the runtime's events cannot be had"),
        }
        tokio::time::sleep(LOOK_SELDOM).await;
    }
}
