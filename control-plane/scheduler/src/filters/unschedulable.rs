//! A cordoned node takes nobody, except who tolerates just that.

use copepod_api::k8s_openapi::api::core::v1::Taint;

use super::taints::tolerates;
use crate::{
    place::Scene,
    refusal::{Check, Reason},
};

pub fn check(scene: &Scene<'_>, row: usize) -> Check {
    if !scene.table.cordoned[row] {
        return Ok(());
    }
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    if scene.shape.tolerations.iter().any(|toleration| tolerates(toleration, &taint)) {
        return Ok(());
    }
    Err(vec![Reason::told("node(s) were unschedulable", "it is cordoned")])
}
