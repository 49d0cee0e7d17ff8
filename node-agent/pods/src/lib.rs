//! What to do for one pod, and what to say about it.
//!
//! Pure: a pod as it is wanted, what was seen of it on this machine, and the time go in; actions, a status and the time of
//! the next look come out. The agent carries the actions out, notes what came of them in `Observed`, and asks again.
//! Nothing here knows a runtime, a clock or a file, so every rule of a pod's life is tested as a table.

pub mod action;
pub mod backoff;
pub mod downward;
pub mod env;
pub mod next;
pub mod observed;
pub mod probe;
pub mod qos;
pub mod resize;
pub mod spec;
pub mod status;
pub mod stop;

#[cfg(test)]
mod tests;

pub use action::{Action, Actions, Job};
pub use next::{Desired, next};
pub use observed::{Ended, Image, Observed, Run, RunState, Sandbox, Seen, Step, Trouble, Verdict};
pub use probe::{ProbeKind, ProbeRecord};
pub use qos::QosClass;
pub use status::{is_beginning, is_taken_for_lost, status};
