//! The network for real: packets through kernels' namespaces, with nothing in their place.

mod names;
mod policies;
mod traffic;
mod world;
