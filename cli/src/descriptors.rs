//! How many files and connections this process may have open.
//!
//! Systems give a process a thousand and let it ask for more, so that old programs which number them by `select` are not
//! harmed. A server has a connection for each node, watcher and client.

use nix::sys::resource::{Resource::RLIMIT_NOFILE, getrlimit, setrlimit};

/// Asks for as many as the system allows. Where it does not, the process has what it has.
pub fn raise_limit() {
    let Ok((soft, hard)) = getrlimit(RLIMIT_NOFILE) else { return };
    if soft < hard
        && let Err(error) = setrlimit(RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(soft, hard, %error, "the limit of open files cannot be raised");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_the_system_allows() {
        let (_, hard) = getrlimit(RLIMIT_NOFILE).unwrap();
        setrlimit(RLIMIT_NOFILE, 256, hard).unwrap();
        raise_limit();
        assert_eq!(getrlimit(RLIMIT_NOFILE).unwrap(), (hard, hard));
        raise_limit();
        assert_eq!(getrlimit(RLIMIT_NOFILE).unwrap(), (hard, hard));
    }
}
