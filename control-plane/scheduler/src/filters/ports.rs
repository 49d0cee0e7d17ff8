//! A port of a node has one user.

use crate::{
    place::Scene,
    refusal::{Check, Reason},
};

pub fn check(scene: &Scene<'_>, row: usize) -> Check {
    let taken = scene.shape.ports.iter().find(|wanted| {
        scene.table.ports[row].keys().any(|used| {
            used.port == wanted.port
                && used.protocol == wanted.protocol
                && (used.ip == wanted.ip || used.ip.is_empty() || wanted.ip.is_empty())
        })
    });
    match taken {
        None => Ok(()),
        Some(port) => Err(vec![Reason::told(
            "node(s) didn't have free ports for the requested pod ports",
            format!("its port {}/{} is in use", port.port, port.protocol),
        )]),
    }
}
