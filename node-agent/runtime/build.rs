//! Generates the client of the Container Runtime Interface from `cri/runtime.proto`; its server is for tests.

fn main() -> std::io::Result<()> {
    tonic_prost_build::configure()
        .generate_default_stubs(true)
        .server_mod_attribute(".", "#[cfg(test)]")
        .compile_protos(&["cri/runtime.proto"], &["cri"])
}
