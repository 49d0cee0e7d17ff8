//! Generates the gRPC code from the contracts in `copepod/`.

fn main() -> std::io::Result<()> {
    tonic_prost_build::configure()
        .bytes(".")
        .compile_protos(&["copepod/nodes.proto", "copepod/peers.proto"], &["copepod"])
}
