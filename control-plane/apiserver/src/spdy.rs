//! SPDY/3.1, as far as Kubernetes' clients speak it: streams with headers, and bytes both ways.
//!
//! Clients open streams and servers answer them. Flow control is one-sided, because the peers there are know nothing of
//! it: what is received is told in WINDOW_UPDATE frames for those who listen, and what is sent waits for the connection
//! alone. A stream that is not read on holds the connection up when its few pieces of room are full, so nobody can fill
//! memory.

mod frame;
mod headers;
mod session;

#[cfg(test)]
mod tests;

pub use session::{Session, Stream};
