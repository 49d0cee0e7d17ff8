//! Links the binary to a fixed address.
//!
//! A binary that can be loaded anywhere has its tables of pointers written at each start, so each process has a copy of
//! them for itself: one and a half megabytes of each shim, which there is one of for each pod. Kubernetes' own programs
//! are linked the same way. Heap, stack and libraries still lie where nobody can guess.
//!
//! Functions that came out as the same instructions are one function: every agent and shim has less of them to map. Only
//! `rust-lld` folds, which is the linker of rustc on x86-64.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg-bins=-no-pie");
    if std::env::var("TARGET").is_ok_and(|target| target == "x86_64-unknown-linux-gnu") {
        println!("cargo:rustc-link-arg-bins=-Wl,--icf=all");
    }
}
