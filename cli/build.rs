//! Links the binary to a fixed address.
//!
//! A binary that can be loaded anywhere has its tables of pointers written at each start, so each process has a copy of
//! them for itself: one and a half megabytes of each shim, which there is one of for each pod. Kubernetes' own programs
//! are linked the same way. Heap, stack and libraries still lie where nobody can guess.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg-bins=-no-pie");
    println!("cargo:rustc-link-arg-bins=-Wl,--icf=all");
}
