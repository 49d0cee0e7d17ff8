//! How many connections one address may have.
//!
//! Connections are bounded together (`serve`), and without this the first who opens that many would be alone. Beyond its
//! share an address is still answered, so that its owner sees why: with 429, and then the connection is closed.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{Router, extract::Request, response::Response};
use copepod_api::Status;
use http::{HeaderValue, Version, header::CONNECTION};

use crate::{accept, answer};

/// A fifth of all. Many clients may share an address (behind a gateway, or in one test), but not everybody.
pub const CONNECTIONS_MAX: usize = 4_000;

/// How long a connection beyond that is there to be told so.
pub const REFUSAL_MAX: Duration = Duration::from_secs(5);

/// Who is connected how often.
pub struct Crowd {
    most: usize,
    by_address: Mutex<BTreeMap<IpAddr, usize>>,
}

/// A connection of an address, until it is dropped.
pub struct Place {
    crowd: Arc<Crowd>,
    address: IpAddr,
    /// The address has more than its share.
    pub is_beyond: bool,
}

impl Crowd {
    pub fn new(most: usize) -> Arc<Crowd> {
        Arc::new(Crowd { most, by_address: Mutex::default() })
    }

    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Place {
        let mut counts = self.lock();
        let count = counts.entry(address).or_default();
        *count += 1;
        Place { crowd: self.clone(), address, is_beyond: *count > self.most }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<IpAddr, usize>> {
        self.by_address.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.crowd.lock();
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

/// Answers everything with 429.
pub fn refusing() -> Router {
    Router::new().fallback(async |request: Request| -> Response {
        let status = Status::too_many_requests("your address has too many connections; close some of them", 5);
        let mut response = answer::refusal(&status, accept::of_refusal(request.headers(), request.uri()));
        if request.version() < Version::HTTP_2 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    })
}
