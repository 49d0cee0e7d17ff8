//! The gRPC contracts: what nodes and servers say to each other.

pub mod codec;

/// Between a node agent and the control plane.
pub mod nodes {
    tonic::include_proto!("copepod.nodes.v1");
}

/// Between servers.
pub mod peers {
    tonic::include_proto!("copepod.peers.v1");
}
