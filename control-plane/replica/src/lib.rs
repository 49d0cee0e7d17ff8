//! The store, replicated: Raft, its log and its snapshots around the pure state machine.
//!
//! One machine owns everything that changes. It takes what waits (proposals, messages, ticks), lets Raft decide, writes
//! one frame with one fdatasync, and applies what is committed; everybody else reads shared, immutable views. The disk,
//! the network, ticks and dice are arguments. A thread runs it; a simulator can run it as well.

mod codec;
mod core;
mod cursor;
mod disk;
mod local;
mod log;
mod machine;
mod membership;
mod rebirth;
mod replica;
mod snapshot;
mod storage;
mod synced;
#[cfg(test)]
mod tests;

pub use cursor::ReplicaCursor;
pub use disk::{Archive, Directory, Disk, Draft};
pub use local::Local;
pub use machine::{Dice, Input, Machine, Outlet, Settled, SnapshotWork, TICK};
pub use membership::Member;
pub use rebirth::{Founder, RebirthError, Reborn, recover, restore};
pub use replica::{ChangeError, Config, OpenError, ProposeError, ReadError, Replica, Role, Sent, Transport};
pub use snapshot::{Contents, SnapshotError, check};

/// The checksum of everything this crate writes and sends (CRC-32C, RFC 3720 appendix B.4).
pub fn crc32c(data: &[u8]) -> u32 {
    ::crc32c::crc32c(data)
}

/// The checksum of what had this one, and then `data`.
pub fn crc32c_append(checksum: u32, data: &[u8]) -> u32 {
    ::crc32c::crc32c_append(checksum, data)
}
