//! A pod that names its node takes no other.

use crate::{
    place::Scene,
    refusal::{Check, Reason},
};

pub fn check(scene: &Scene<'_>, row: usize) -> Check {
    match &scene.shape.node_name {
        Some(name) if **name != *scene.table.name(row) => {
            Err(vec![Reason::plain("node(s) didn't match the requested node name")])
        }
        _ => Ok(()),
    }
}
