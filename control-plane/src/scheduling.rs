//! Runs the scheduler while this server leads: drain all that happened, decide once, commit, and look again. What happens
//! meanwhile is noted.

use std::{pin::pin, sync::Arc, time::Duration};

use copepod_api::Timestamp;
use copepod_scheduler::Scheduler;
use copepod_store::Door;
use futures::future::join_all;

/// Pause after a refused batch of bindings; the view it was decided on is out of date by then.
const RETRY: Duration = Duration::from_millis(20);

pub async fn run(door: Arc<dyn Door>) {
    loop {
        let compacted = session(&door).await;
        tracing::warn!(%compacted, "the scheduler fell behind the log of events and starts over");
    }
}

async fn session(door: &Arc<dyn Door>) -> String {
    let mut scheduler = Scheduler::new();
    let view = door.view();
    let mut cursor = door.watch(None, view.revision());
    let mut events = Vec::new();
    loop {
        let now = Timestamp::now();
        let plans = scheduler.schedule(&door.view(), &events, now);
        events.clear();
        let look_again = plans.iter().filter_map(|plan| plan.look_again).min();
        let submitted = plans.into_iter().map(|plan| plan.requests).filter(|requests| !requests.is_empty());
        let mut answers = pin!(join_all(submitted.map(|requests| door.submit(requests))));
        // A busy server takes seconds to answer, and the log of events goes back a few seconds only.
        let mut is_news = false;
        let outcomes = loop {
            tokio::select! {
                outcomes = &mut answers => break outcomes,
                arrived = cursor.next() => match arrived {
                    Ok(arrived) => scheduler.note(&door.view(), &arrived),
                    Err(compacted) => return compacted.to_string(),
                },
            }
            is_news = true;
        };
        let refused = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).next();
        if let Some(status) = refused {
            tracing::debug!(%status, "bindings were refused; deciding again");
        }
        let pause = match (refused.is_some(), look_again) {
            (true, _) => RETRY,
            (false, _) if is_news => Duration::ZERO,
            (false, Some(at)) => Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO).max(RETRY),
            (false, None) => Duration::from_secs(3600),
        };
        tokio::select! {
            arrived = cursor.next() => match arrived {
                Ok(arrived) => events = arrived,
                Err(compacted) => return compacted.to_string(),
            },
            () = tokio::time::sleep(pause) => (),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use copepod_api::{
        Body, Expect, Key, Op, Reply, Request, Resource, Revision, Status, Txn,
        resource::{NODES, PODS},
    };
    use copepod_store::{Compacted, Cursor, Event, Leader, View, door::Async};
    use serde_json::{Value, json};
    use tokio::sync::{Semaphore, mpsc};

    use super::*;

    /// Names the pods of each transaction it is asked for, and takes it when there is a permit.
    struct Slow {
        view: Mutex<View>,
        events: Mutex<Option<mpsc::UnboundedReceiver<Event>>>,
        asked: mpsc::UnboundedSender<Vec<String>>,
        permits: Semaphore,
    }

    impl Door for Slow {
        fn view(&self) -> View {
            self.view.lock().unwrap().clone()
        }

        fn fresh(&self) -> Async<'_, Result<View, Status>> {
            Box::pin(async { Ok(self.view()) })
        }

        fn reached(&self, _: Revision) -> Async<'_, Result<View, Status>> {
            self.fresh()
        }

        fn submit(&self, requests: Vec<Request>) -> Async<'_, Result<Vec<Reply>, Status>> {
            Box::pin(async move {
                self.asked.send(requests.iter().map(|it| it.target.key().name().to_owned()).collect()).unwrap();
                self.permits.acquire().await.unwrap().forget();
                Ok(Vec::new())
            })
        }

        fn watch(&self, _: Option<Resource>, _: Revision) -> Box<dyn Cursor> {
            Box::new(News(self.events.lock().unwrap().take().unwrap()))
        }

        fn leader(&self) -> Leader {
            Leader::Here
        }
    }

    struct News(mpsc::UnboundedReceiver<Event>);

    impl Cursor for News {
        fn next(&mut self) -> Async<'_, Result<Vec<Event>, Compacted>> {
            Box::pin(async { Ok(vec![self.0.recv().await.unwrap()]) })
        }

        fn position(&self) -> Revision {
            Revision::ZERO
        }
    }

    fn put(view: &View, key: Key, object: &Value) -> (View, Vec<Event>) {
        let op = Op::Put { key, body: Body::encode(object), expect: Expect::Any };
        view.apply(&Txn { ops: vec![op] }, Timestamp::UNIX_EPOCH).unwrap()
    }

    fn pod(view: &View, name: &str) -> (View, Vec<Event>) {
        let object = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "uid": name},
            "spec": {"containers": [{"name": "c"}]},
        });
        put(view, Key::new(PODS, "default", name), &object)
    }

    #[tokio::test]
    async fn what_happens_while_bindings_are_written_is_noted_and_decided_after_them() {
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
            "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"},
                       "conditions": [{"type": "Ready", "status": "True"}]},
        });
        let (view, _) = put(&View::default(), Key::new(NODES, "", "n1"), &node);
        let (view, _) = pod(&view, "a");
        let (news, events) = mpsc::unbounded_channel();
        let (asked, mut asks) = mpsc::unbounded_channel();
        let events = Mutex::new(Some(events));
        let door = Arc::new(Slow { view: Mutex::new(view), events, asked, permits: Semaphore::new(0) });
        let talk = async {
            assert_eq!(asks.recv().await.unwrap(), ["a"]);
            let (view, events) = pod(&door.view(), "b");
            *door.view.lock().unwrap() = view;
            events.into_iter().for_each(|event| news.send(event).unwrap());
            for _ in 0..8 {
                tokio::task::yield_now().await;
            }
            assert!(asks.try_recv().is_err(), "the first is not answered");
            door.permits.add_permits(1);
            let mut second = asks.recv().await.unwrap();
            second.sort();
            assert_eq!(second, ["a", "b"], "the other has happened, and nothing has come of the first");
        };
        tokio::select! {
            () = run(door.clone()) => (),
            () = talk => (),
        }
    }
}
