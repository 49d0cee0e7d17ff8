//! A cordoned node takes nobody, except who tolerates just that.

use copepod_api::k8s_openapi::api::core::v1::Taint;

use super::{Filter, taints::tolerates};
use crate::{place::Scene, refusal::Reason};

pub const FILTER: Filter = Filter { fits, why };

fn fits(scene: &Scene<'_>, row: usize) -> bool {
    if !scene.table.cordoned[row] {
        return true;
    }
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    scene.shape.tolerations.iter().any(|toleration| tolerates(toleration, &taint))
}

fn why<'a>(scene: &Scene<'a>, row: usize, reasons: &mut Vec<Reason<'a>>) {
    reasons.extend((!fits(scene, row)).then_some(Reason::Cordoned));
}
