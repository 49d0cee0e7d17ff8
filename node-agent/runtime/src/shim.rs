//! The shim: one small process a pod, the same binary run again, that holds what must outlive the agent.
//!
//! It makes the pod's namespaces, is the parent of its containers, keeps their exit codes, and writes their output into
//! log files. It has one thread and no runtime: a loop over `poll(2)`. An agent may go and come back; the shim answers
//! whoever connects to its socket, and what it knows is on disk as well.

mod attach;
mod children;
mod logs;
mod sandbox;
mod server;
mod session;

use std::{ffi::OsString, path::PathBuf};

pub(crate) use children::state_path;

/// Runs `copepod shim <sandbox directory>`. Called before anything else of the program, with a single thread.
pub fn main(arguments: &[OsString]) -> i32 {
    let [directory] = arguments else {
        eprintln!("usage: copepod shim DIRECTORY (started by the agent, not by people)");
        return 2;
    };
    let directory = PathBuf::from(directory);
    tell_of_errors();
    match sandbox::make(&directory).and_then(|sandbox| server::run(&directory, sandbox)) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("shim of {}: {error}", directory.display());
            1
        }
    }
}

/// What libcontainer says of a failure in a process on its way to be a container comes as a log line only. Such a process
/// has the container's standard error already, so the lines go to a copy of the shim's own, which is a file.
fn tell_of_errors() {
    let Ok(own) = std::os::fd::AsFd::as_fd(&std::io::stderr()).try_clone_to_owned() else { return };
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::ERROR)
        .with_writer(std::sync::Mutex::new(std::fs::File::from(own)))
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .init();
}
