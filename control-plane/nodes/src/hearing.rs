//! Hears what an agent says in its session, answers, and has it written down.

use copepod_api::Request;
use copepod_proto::nodes::{FromNode, Heard, from_node, to_node};
use copepod_store::Door;
use futures::{FutureExt, Stream, StreamExt, future::OptionFuture};
use tonic::Status;

use crate::{Hub, backlog::Backlog, hub::Session, lost, service::user_of};

/// Hears what the agent says until the session is over; whether its machine does not answer any more. What is to be
/// written is written meanwhile, one transaction after the other, and after all that earlier sessions of the node write.
pub async fn listen(
    door: &dyn Door,
    hub: &Hub,
    session: &Session,
    mut inbound: impl Stream<Item = Result<FromNode, Status>> + Unpin,
) -> bool {
    let user = user_of(&session.node);
    let mut backlog = Backlog::default();
    let mut writing = None;
    let mut pen = None;
    let is_lost = loop {
        if pen.is_some() && writing.is_none() && !backlog.is_empty() {
            let requests = backlog.take(&door.view(), &user, &session.node);
            writing = Some(Box::pin(submit(door, requests)));
        }
        let message = tokio::select! {
            message = inbound.next(), if !backlog.is_full() => match message {
                Some(Ok(message)) => message,
                Some(Err(status)) => break lost::is_lost(&status),
                None => break false,
            },
            () = OptionFuture::from(writing.as_mut()).map(drop), if writing.is_some() => {
                writing = None;
                continue;
            }
            free = session.pen.clone().lock_owned(), if pen.is_none() => {
                pen = Some(free);
                continue;
            }
            () = replaced(hub, session) => break false,
        };
        hub.beat(session);
        match message.message {
            Some(from_node::Message::Acknowledged(acknowledged)) => hub.acknowledge(session, acknowledged.revision),
            Some(from_node::Message::Statuses(batch)) => backlog.add(batch),
            Some(from_node::Message::Event(event)) => backlog.add_event(event),
            Some(from_node::Message::Heartbeat(_)) => {
                // One whose queue is full is told enough.
                let _ = session.try_send(to_node::Message::Heard(Heard {}));
            }
            Some(from_node::Message::Hello(_)) | None => (),
        }
    };
    // What it has said before it went counts, and what is under way is waited for: whoever is next builds on it.
    if let Some(writing) = writing {
        writing.await;
    }
    if pen.is_none() && hub.is_current(session) {
        pen = Some(session.pen.clone().lock_owned().await);
    }
    while !backlog.is_empty() && hub.is_current(session) {
        submit(door, backlog.take(&door.view(), &user, &session.node)).await;
    }
    drop(pen);
    is_lost
}

/// Another session of the node has begun, or this server leads no more.
async fn replaced(hub: &Hub, session: &Session) {
    while hub.is_current(session) {
        session.ended.notified().await;
    }
}

/// All in one transaction; where one of them is refused, each alone, so that one deleted pod does not hide the status of
/// the others.
async fn submit(door: &dyn Door, requests: Vec<Request>) {
    if requests.len() > 1 && door.submit(requests.clone()).await.is_ok() {
        return;
    }
    for request in requests {
        let target = request.target.key();
        if let Err(status) = door.submit(vec![request]).await
            && status.code() != 404
        {
            tracing::warn!(%target, %status, "a report was refused");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use copepod_api::{Reply, Resource, Revision};
    use copepod_proto::nodes::Heartbeat;
    use copepod_store::{Compacted, Cursor, Event, Leader, View, door::Async};
    use serde_json::json;
    use tokio::sync::{Semaphore, mpsc};
    use tokio_stream::wrappers::UnboundedReceiverStream;

    use super::*;

    /// Takes transactions, each of which waits for a permit.
    struct Busy {
        permits: Semaphore,
        taken: mpsc::UnboundedSender<usize>,
    }

    impl Door for Busy {
        fn view(&self) -> View {
            View::default()
        }

        fn fresh(&self) -> Async<'_, Result<View, copepod_api::Status>> {
            Box::pin(async { Ok(self.view()) })
        }

        fn reached(&self, _: Revision) -> Async<'_, Result<View, copepod_api::Status>> {
            self.fresh()
        }

        fn submit(&self, requests: Vec<Request>) -> Async<'_, Result<Vec<Reply>, copepod_api::Status>> {
            Box::pin(async move {
                self.permits.acquire().await.unwrap().forget();
                self.taken.send(requests.len()).unwrap();
                Ok(Vec::new())
            })
        }

        fn watch(&self, _: Option<Resource>, _: Revision) -> Box<dyn Cursor> {
            Box::new(Silent)
        }

        fn leader(&self) -> Leader {
            Leader::Here
        }
    }

    struct Silent;

    impl Cursor for Silent {
        fn next(&mut self) -> Async<'_, Result<Vec<Event>, Compacted>> {
            Box::pin(std::future::pending())
        }

        fn position(&self) -> Revision {
            Revision::ZERO
        }
    }

    fn event(name: &str) -> from_node::Message {
        let event = json!({"metadata": {"namespace": "d", "name": name}}).to_string();
        from_node::Message::Event(Bytes::from(event))
    }

    #[tokio::test]
    async fn an_agent_is_heard_and_answered_while_what_it_said_waits_to_be_written() {
        let (taken, mut transactions) = mpsc::unbounded_channel();
        let door = Busy { permits: Semaphore::new(0), taken };
        let hub = Hub::new();
        let (outbox, mut told) = mpsc::channel(8);
        let session: Arc<Session> = hub.open("n1", outbox);
        let (says, said) = mpsc::unbounded_channel();
        let say = move |message| says.send(Ok(FromNode { message: Some(message) })).unwrap();
        let listening = listen(&door, &hub, &session, UnboundedReceiverStream::new(said));
        let talk = async {
            say(event("a"));
            say(from_node::Message::Heartbeat(Heartbeat::default()));
            assert!(matches!(told.recv().await.as_deref(), Some(to_node::Message::Heard(_))), "the first is under way");
            ["b", "c", "d"].into_iter().for_each(|name| say(event(name)));
            say(from_node::Message::Heartbeat(Heartbeat::default()));
            assert!(matches!(told.recv().await.as_deref(), Some(to_node::Message::Heard(_))));
            door.permits.add_permits(1);
            assert_eq!(transactions.recv().await, Some(1));
            // It goes before the rest is written, and the rest is written all the same.
            drop(say);
            door.permits.add_permits(1);
            assert_eq!(transactions.recv().await, Some(3), "what waited is one transaction");
        };
        let (is_lost, ()) = tokio::join!(listening, talk);
        assert!(!is_lost && transactions.try_recv().is_err());
    }

    #[tokio::test]
    async fn what_a_session_says_is_written_after_what_the_one_before_it_said() {
        let (taken, mut transactions) = mpsc::unbounded_channel();
        let door = Busy { permits: Semaphore::new(0), taken };
        let hub = Hub::new();
        let open = || {
            let (outbox, told) = mpsc::channel(8);
            let (says, said) = mpsc::unbounded_channel();
            let say = move |message| says.send(Ok(FromNode { message: Some(message) })).unwrap();
            (hub.open("n1", outbox), told, say, UnboundedReceiverStream::new(said))
        };
        let beat = || from_node::Message::Heartbeat(Heartbeat::default());
        let (first, mut told, say, said) = open();
        let talk = async {
            say(event("a"));
            say(beat());
            told.recv().await.unwrap();
            let (second, mut told, say, said) = open();
            let talk = async {
                for name in ["b", "c"] {
                    say(event(name));
                    say(beat());
                    told.recv().await.unwrap();
                }
                door.permits.add_permits(1);
                assert_eq!(transactions.recv().await, Some(1), "of the session that is over");
                door.permits.add_permits(1);
                assert_eq!(transactions.recv().await, Some(2), "what waited for that is together");
                drop(say);
            };
            tokio::join!(listen(&door, &hub, &second, said), talk)
        };
        let (first, (second, ())) = tokio::join!(listen(&door, &hub, &first, said), talk);
        assert!(!first && !second && transactions.try_recv().is_err());
    }
}
