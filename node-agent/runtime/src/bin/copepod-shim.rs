//! The shim as a program of its own, for this crate's tests; in a release it is `copepod shim`.

fn main() {
    let arguments: Vec<_> = std::env::args_os().collect();
    // As in the real program, the first argument says what to be.
    std::process::exit(copepod_runtime::shim::main(arguments.get(2..).unwrap_or_default()));
}
