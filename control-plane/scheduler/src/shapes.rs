//! Shapes that are in use, so that equal pods share one.

use std::{collections::BTreeMap, sync::Arc};

use copepod_api::{Object, k8s_openapi::api::core::v1::Pod};

use crate::{shape::Shape, wish::Wish};

/// How many are remembered. Clusters have some hundred workloads; where each pod is another, they come and go.
const SHAPES_MAX: usize = 4096;

#[derive(Default)]
pub struct Shapes {
    known: BTreeMap<String, Shape>,
}

impl Shapes {
    /// The shape of a pod with this wish; `None` if it is no pod that can be read.
    pub fn of(&mut self, wish: &Wish<'_>, pod: &Arc<Object>) -> Option<Shape> {
        let key = wish.key(pod);
        if let Some(shape) = self.known.get(&key) {
            return Some(shape.clone());
        }
        let shape = Shape::of(&pod.decoded::<Pod>().ok()?);
        if self.known.len() >= SHAPES_MAX {
            self.known.clear();
        }
        self.known.insert(key, shape.clone());
        Some(shape)
    }
}
