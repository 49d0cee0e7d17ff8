//! The control plane: the rooms, assembled into a server.

mod admission;
mod bootstrap;
mod dial;
mod door;
mod driver;
mod error;
mod flows;
mod join;
mod keyed;
mod keys;
mod leading;
mod links;
mod logs;
mod operations;
mod packing;
mod peers;
mod registrations;
mod roles;
mod scheduling;
mod server;

pub use copepod_replica::{Founder, Reborn};
pub use door::ServerDoor;
pub use error::ServerError;
pub use join::{RecoverError, recover};
pub use operations::{BackupError, Summary, check_backup, restore};
pub use server::{JoinServer, ServerConfig, run};

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
