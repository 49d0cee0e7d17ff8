//! Sandboxes and containers.
//!
//! A sandbox is a set of namespaces that containers of one pod share; a container is a process in it with a root
//! directory, limits and privileges of its own. The embedded runtime needs no daemon: a tiny shim a pod holds what must
//! outlive the agent (exit codes, output, the namespaces), and everything else is on disk below the run directory.
//! The other one asks a runtime that is there already, over its CRI socket. Both answer the same calls.

mod capabilities;
mod cgroup;
pub mod cri;
pub mod embedded;
mod oci;
mod process;
mod seccomp;
pub mod shim;
mod spec;
mod wire;

pub use cri::{Cri, ImageConfig, Login};
pub use embedded::Embedded;
pub use process::{Process, Reader, Size, Wanted, Writer};
pub use spec::{
    Capabilities, ContainerSpec, ContainerState, ExecOutput, Exit, HostPort, Mount, Pod, Propagation, Resources,
    RuntimeError, SandboxSpec, SandboxState, Seccomp, StartError, State, Usage, UserAsked, UserIds,
};
