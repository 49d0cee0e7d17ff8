//! Packs objects that resemble each other.
//!
//! The dictionary of a kind is made of objects that were there: of the first that came, and again of later ones when too
//! many do not resemble them. So nothing is assumed about what pods look like here.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use copepod_api::{Object, Packer, Packing, Resource};

/// Shorter ones have little to gain.
const SIZE_MIN: usize = 400;

/// Samples in a dictionary, and what they have together. Half of them are left from the dictionary before.
const N_SAMPLES: usize = 16;
const SAMPLES_BYTES_MAX: usize = 64 * 1024;

/// So many objects that the dictionary does not know make another; each time it takes twice as many, so that a kind whose
/// objects have nothing in common costs little.
const STRANGERS: usize = 64;
const STRANGERS_MAX: usize = 65_536;

/// An object that is held in more than the so manieth part of its size is one that the dictionary does not know.
const KNOWN: usize = 4;

#[derive(Default)]
pub struct Resting {
    kinds: BTreeMap<Resource, Kind>,
}

impl Resting {
    /// Holds an object packed, if that is worth it.
    pub fn pack(&mut self, object: &Object) {
        if object.size() >= SIZE_MIN {
            self.kinds.entry(object.key.resource.clone()).or_default().pack(object);
        }
    }
}

struct Kind {
    packer: Option<Packer>,
    samples: VecDeque<Bytes>,
    n_strangers: usize,
    strangers_max: usize,
}

impl Default for Kind {
    fn default() -> Kind {
        Kind { packer: None, samples: VecDeque::new(), n_strangers: 0, strangers_max: STRANGERS }
    }
}

impl Kind {
    fn pack(&mut self, object: &Object) {
        match self.packer.as_mut().map(|packer| packer.pack(object)) {
            Some(Packing::Already) => return,
            Some(Packing::Packed(size)) if size * KNOWN <= object.size() => return,
            _ => self.n_strangers += 1,
        }
        if self.n_strangers.is_multiple_of(self.strangers_max * 2 / N_SAMPLES) {
            self.remember(object.bytes());
        }
        if self.n_strangers >= self.strangers_max {
            self.n_strangers = 0;
            self.strangers_max = (self.strangers_max * 2).min(STRANGERS_MAX);
            self.packer = Some(Packer::new(&self.samples.iter().flatten().copied().collect::<Vec<_>>()));
        }
    }

    fn remember(&mut self, sample: Bytes) {
        self.samples.push_back(sample);
        while self.samples.len() > N_SAMPLES || self.samples.iter().map(Bytes::len).sum::<usize>() > SAMPLES_BYTES_MAX {
            self.samples.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use copepod_api::{Body, Key, Revision, resource::PODS};
    use serde_json::{Value, json};

    use super::*;

    fn pod(number: usize, status: &Value) -> Arc<Object> {
        let name = format!("web-{:08x}", (number as u32).wrapping_mul(0x9e37_79b9));
        let container = json!({
            "name": "web", "image": "registry.example/web:1", "imagePullPolicy": "IfNotPresent",
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
        });
        let body = Body::encode(&json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "web"}},
            "spec": {"containers": [container], "restartPolicy": "Always"}, "status": status,
        }));
        Arc::new(Object::store(Key::new(PODS, "default", &*name), &body, Revision(number as u64)).unwrap())
    }

    /// Packs them all; which part of their size they are held in.
    fn part(resting: &mut Resting, pods: &[Arc<Object>]) -> f64 {
        let texts: Vec<Bytes> = pods.iter().map(|pod| pod.bytes()).collect();
        pods.iter().for_each(|pod| resting.pack(pod));
        assert!(pods.iter().zip(texts).all(|(pod, text)| pod.bytes() == text), "each is read as it was stored");
        let sum = |size: fn(&Object) -> usize| pods.iter().map(|pod| size(pod)).sum::<usize>() as f64;
        sum(Object::held_size) / sum(Object::size)
    }

    /// How many dictionaries were made.
    fn n_dictionaries(resting: &Resting) -> u32 {
        resting.kinds.values().map(|kind| (kind.strangers_max / STRANGERS).ilog2()).sum()
    }

    #[test]
    fn pods_of_one_workload_are_held_in_a_fraction() {
        let mut resting = Resting::default();
        let pods: Vec<_> = (0..2_000).map(|number| pod(number, &json!({}))).collect();
        let part = part(&mut resting, &pods);
        assert!(part < 0.25, "{part}");
        assert_eq!(n_dictionaries(&resting), 1);
    }

    #[test]
    fn what_they_come_to_say_later_is_learned() {
        let mut resting = Resting::default();
        let pods: Vec<_> = (0..2_000).map(|number| pod(number, &json!({}))).collect();
        part(&mut resting, &pods);
        let running = |number: usize| {
            let conditions: Vec<_> = ["Ready", "ContainersReady", "Initialized", "PodReadyToStartContainers"]
                .iter()
                .map(|kind| json!({"type": kind, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}))
                .collect();
            let address = format!("10.0.{}.{}", number / 250, number % 250);
            pod(
                number,
                &json!({"phase": "Running", "podIP": address, "conditions": conditions, "message": "x".repeat(40)}),
            )
        };
        let running: Vec<_> = (0..2_000).map(running).collect();
        let part_running = part(&mut resting, &running);
        assert!(part_running < 0.25, "{part_running}");
        let again: Vec<_> = (2_000..4_000).map(|number| pod(number, &json!({}))).collect();
        let part_again = part(&mut resting, &again);
        assert!(part_again < 0.25, "what was known before is not forgotten: {part_again}");
        assert!(n_dictionaries(&resting) <= 3, "{}", n_dictionaries(&resting));
    }

    #[test]
    fn those_that_have_nothing_in_common_make_few_dictionaries() {
        let mut resting = Resting::default();
        let noise = |number: usize| -> String {
            let mut state = number as u64 + 1;
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                char::from(b'!' + (state >> 33) as u8 % 90)
            };
            (0..4_000).map(|_| next()).collect()
        };
        let pods: Vec<_> = (0..3_000).map(|number| pod(number, &json!({"message": noise(number)}))).collect();
        part(&mut resting, &pods);
        assert!(n_dictionaries(&resting) <= 6, "{}", n_dictionaries(&resting));
    }

    #[test]
    fn few_objects_and_short_ones_stay_as_they_are() {
        let mut resting = Resting::default();
        let pods: Vec<_> = (0..STRANGERS).map(|number| pod(number, &json!({}))).collect();
        assert_eq!(part(&mut resting, &pods), 1.0);
        let key = Key::new(PODS, "default", "short");
        let short = Object::store(key, &Body::encode(&json!({"metadata": {"name": "short"}})), Revision(1)).unwrap();
        resting.pack(&short);
        assert_eq!(short.held_size(), short.size());
    }
}
