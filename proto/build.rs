//! Generates the gRPC code from the contracts in `copepod/`.

fn main() -> std::io::Result<()> {
    let contracts = || tonic_prost_build::configure().bytes(".");
    contracts().codec_path("crate::codec::Small").compile_protos(&["copepod/nodes.proto"], &["copepod"])?;
    contracts().compile_protos(&["copepod/peers.proto"], &["copepod"])
}
