//! Images: fetched, verified, stored once, unpacked once, and mounted for every container that wants them.
//!
//! ```text
//! registry ─ pull ─┐
//! archive ─ import ┼─▶ blobs ──▶ layers (unpacked, shared, read only) ──▶ a container's root (overlay)
//! files ──── build ┘      ▲
//!                references (name → manifest)
//! ```
//! A [`Store`] is a directory and nothing else: no daemon owns it and nothing about it is kept in memory. Several agents
//! of one machine and the command line work on one store at the same moment; what one of them adds, the others see with
//! their next look. That rests on three habits: content appears by renaming a finished file or directory to its final
//! name, work that two processes would do twice is done under a lock on that blob or layer, and whoever adds or mounts
//! holds the store's lock shared, which garbage collection wants for itself alone.
//!
//! What is deliberately absent: nothing is executed, nothing is pushed, and no image is ever changed.

mod build;
mod digest;
mod document;
mod error;
mod garbage;
mod import;
mod layer;
mod login;
mod proxy;
mod pull;
mod reference;
mod registry;
mod snapshot;
mod store;
mod unpack;

#[cfg(test)]
mod tests;

pub use build::{BuildSpec, Content};
pub use digest::Digest;
pub use document::Platform;
pub use error::ImageError;
pub use garbage::Collected;
pub use login::{Credential, matching};
pub use pull::{EnsureError, PullPolicy, Puller};
pub use reference::Reference;
pub use snapshot::Snapshots;
pub use store::{Config, Image, Layer, Listed, Store};
