//! The operator's own terminal, while it is lent to a command elsewhere.

use std::{
    io::{IsTerminal, Read},
    os::fd::AsFd,
};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::remote::Said;

/// How much is read at once.
const PART_BYTES: usize = 16 << 10;

/// A terminal that passes on every key, until this is dropped.
pub struct Raw(Termios);

impl Raw {
    /// None where standard input is no terminal.
    pub fn begin() -> Option<Raw> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return None;
        }
        let before = tcgetattr(stdin.as_fd()).ok()?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &raw).ok()?;
        Some(Raw(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin().as_fd(), SetArg::TCSANOW, &self.0);
    }
}

/// Says what comes on standard input, from a thread of its own: reading it cannot be broken off.
pub fn pass_stdin(said: mpsc::Sender<Said>) {
    std::thread::spawn(move || {
        let mut part = vec![0; PART_BYTES];
        let mut stdin = std::io::stdin().lock();
        while let Ok(n_bytes @ 1..) = stdin.read(&mut part) {
            if said.blocking_send(Said::Stdin(part[..n_bytes].to_vec().into())).is_err() {
                return;
            }
        }
        let _ = said.blocking_send(Said::StdinEnds);
    });
}

/// Says how large the terminal is, now and whenever that changes.
pub fn pass_size(said: mpsc::Sender<Said>) {
    tokio::spawn(async move {
        let Ok(mut changed) = signal(SignalKind::window_change()) else { return };
        loop {
            if let Some((columns, rows)) = size()
                && said.send(Said::Resize { columns, rows }).await.is_err()
            {
                return;
            }
            if changed.recv().await.is_none() {
                return;
            }
        }
    });
}

fn size() -> Option<(u16, u16)> {
    // SAFETY: winsize is plain data, for which zeros are a value; the call writes to it alone.
    let (size, done) = unsafe {
        let mut size: nix::libc::winsize = std::mem::zeroed();
        let done = nix::libc::ioctl(nix::libc::STDIN_FILENO, nix::libc::TIOCGWINSZ, &mut size);
        (size, done)
    };
    (done == 0 && size.ws_col > 0).then_some((size.ws_col, size.ws_row))
}
