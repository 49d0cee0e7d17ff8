//! Tokens of the service accounts of this node's pods, for the volumes that show them.
//!
//! A server issues them, to the node that runs the pod and to nobody else. They are asked for before a volume is made and
//! again when most of their life is over, and are kept in memory only: after a restart the file that stands is left as it
//! is until a server answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use copepod_api::Timestamp;
use copepod_proto::nodes::{TokenRequest, nodes_client::NodesClient};
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{Notify, watch};
use tonic::transport::Channel;

use crate::worker::pod_ref;

/// Which part of its life a token has had when the next is asked for.
const RENEW_AFTER: f64 = 0.8;

/// However long it lives, it is not kept for longer than this.
const AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// How long a server may take, and how long to wait before it is asked again.
const ANSWER_MAX: Duration = Duration::from_secs(5);
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// Whose token: the pod's uid, the audience, and the seconds it is asked for.
type Key = (String, String, i64);

#[derive(Default)]
pub struct Tokens {
    kept: Mutex<BTreeMap<Key, Kept>>,
    changed: Notify,
    /// The connection of the session, while there is one.
    channel: watch::Sender<Option<Channel>>,
}

struct Kept {
    /// `None` where no server has answered yet.
    text: Option<String>,
    renew_at: Timestamp,
    /// When it was last told that it is due.
    told_at: Option<Timestamp>,
}

impl Tokens {
    fn kept(&self) -> MutexGuard<'_, BTreeMap<Key, Kept>> {
        // Every change is one insert or remove, so a panic while the lock was held has changed nothing half.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on servers are asked over this connection; `None` when it ended.
    pub fn connect(&self, channel: Option<Channel>) {
        self.channel.send_replace(channel);
    }

    pub fn get(&self, uid: &str, audience: &str, seconds: i64) -> Option<String> {
        self.kept().get(&(uid.to_owned(), audience.to_owned(), seconds))?.text.clone()
    }

    /// Asks for those that the pod's volumes show and that are not here or old. What cannot be had now is noted.
    pub async fn obtain(&self, pod: &Pod) {
        let reference = pod_ref(pod);
        for (audience, seconds) in copepod_volumes::tokens(pod) {
            let key = (reference.uid.clone(), audience, seconds);
            let now = Timestamp::now();
            if self.kept().get(&key).is_some_and(|kept| kept.text.is_some() && now < kept.renew_at) {
                continue;
            }
            let request = TokenRequest {
                namespace: reference.namespace.clone(),
                pod: reference.name.clone(),
                uid: key.0.clone(),
                audience: key.1.clone(),
                expiration_seconds: key.2,
            };
            match self.ask(request).await {
                Ok((text, expires_at)) => {
                    let kept = Kept { text: Some(text), renew_at: renew_at(now, expires_at), told_at: None };
                    self.kept().insert(key, kept);
                }
                Err(why) => {
                    tracing::debug!(pod = reference.name, why, "no token to be had");
                    let nothing = Kept { text: None, renew_at: now, told_at: None };
                    self.kept().entry(key).or_insert(nothing).told_at = Some(now);
                }
            }
            self.changed.notify_one();
        }
    }

    async fn ask(&self, request: TokenRequest) -> Result<(String, i64), String> {
        let channel = self.channel.borrow().clone().ok_or("no server is connected")?;
        let mut client = NodesClient::new(channel);
        let answer = tokio::time::timeout(ANSWER_MAX, client.token(request)).await;
        let reply = answer.map_err(|_| "no answer")?.map_err(|status| status.message().to_owned())?.into_inner();
        Ok((reply.token, reply.expires_at))
    }

    /// Waits until tokens are to be renewed; gives the uids of their pods. Each is told once, and again after a while
    /// should nothing come of it.
    pub async fn due(&self) -> BTreeSet<String> {
        loop {
            let now = Timestamp::now();
            let mut due = BTreeSet::new();
            let mut next = now + AGE_MAX;
            for ((uid, ..), kept) in self.kept().iter_mut() {
                let at = kept.told_at.map_or(kept.renew_at, |told| kept.renew_at.max(told + ASK_AGAIN));
                if at <= now {
                    due.insert(uid.clone());
                    kept.told_at = Some(now);
                    next = next.min(now + ASK_AGAIN);
                } else {
                    next = next.min(at);
                }
            }
            if !due.is_empty() {
                return due;
            }
            let pause = Duration::try_from(next.duration_since(now)).unwrap_or(ASK_AGAIN);
            tokio::select! {
                () = tokio::time::sleep(pause) => (),
                () = self.changed.notified() => (),
            }
        }
    }

    /// The pod is gone.
    pub fn forget(&self, uid: &str) {
        self.kept().retain(|(own, ..), _| own != uid);
    }
}

fn renew_at(now: Timestamp, expires_at: i64) -> Timestamp {
    let life = Duration::from_secs(u64::try_from(expires_at - now.as_second()).unwrap_or(0));
    now + life.mul_f64(RENEW_AFTER).min(AGE_MAX)
}
