//! Whether a session ended because the other machine does not answer.
//!
//! A process that ends, however it does, closes its connections, and its machine is there. From a machine that is dead or
//! cut off comes nothing, until the kernel gives the connection up.

use std::{error::Error, io};

/// Whether the kernel gave up the connection under a stream.
pub fn is_lost(status: &tonic::Status) -> bool {
    let mut error: Option<&(dyn Error + 'static)> = Some(status);
    while let Some(cause) = error {
        // h2 keeps what happened below it apart from the chain of sources.
        let io = cause.downcast_ref::<io::Error>().or_else(|| cause.downcast_ref::<h2::Error>()?.get_io());
        if io.is_some_and(|error| gave_up(error.kind())) {
            return true;
        }
        error = cause.source();
    }
    false
}

fn gave_up(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{HostUnreachable, NetworkUnreachable, TimedOut};
    matches!(kind, TimedOut | HostUnreachable | NetworkUnreachable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_gave_up_is_told_from_what_was_closed() {
        let status = |kind| tonic::Status::from_error(Box::new(io::Error::from(kind)));
        assert!(is_lost(&status(io::ErrorKind::TimedOut)) && is_lost(&status(io::ErrorKind::HostUnreachable)));
        assert!(!is_lost(&status(io::ErrorKind::ConnectionReset)) && !is_lost(&tonic::Status::unavailable("closed")));
        assert!(!is_lost(&tonic::Status::from_error(Box::new(h2::Error::from(h2::Reason::NO_ERROR)))));
    }
}
