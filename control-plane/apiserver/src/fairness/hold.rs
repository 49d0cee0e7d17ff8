//! A long answer keeps its seat while it is sent.
//!
//! What a client does not read waits in memory, so long answers under way are bounded like requests are. A client that
//! reads slowly loses its seat in the end, or a few of them would keep all others of their level from being served.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::Seat;

/// As long as upstream lets a request take.
const SEND_MAX: Duration = Duration::from_secs(60);

/// The body of an answer, with the seat that it is sent from.
struct Held {
    body: Body,
    seat: Arc<Mutex<Option<Seat>>>,
}

/// Lets the answer keep the seat.
pub fn until_sent(seat: Seat, response: Response) -> Response {
    let seat = Arc::new(Mutex::new(Some(seat)));
    let weak = Arc::downgrade(&seat);
    tokio::spawn(async move {
        tokio::time::sleep(SEND_MAX).await;
        if let Some(seat) = weak.upgrade() {
            seat.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    });
    response.map(|body| Body::new(Held { body, seat }))
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(None) = polled {
            self.seat.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
