//! The network for real: packets through kernels' namespaces, with nothing in their place.

mod names;
mod traffic;
mod world;
