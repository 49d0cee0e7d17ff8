//! How the text of an object is held: as it is, or packed.
//!
//! A cluster has many pods that say nearly the same. What one says beyond others of its kind is a tenth of it, so once an
//! object is at rest it may be held as what it says beyond a dictionary: a few samples of its kind. An object is packed in
//! place, for all views and events that share it. Whoever reads a packed one gets a copy, byte for byte what was stored;
//! that takes a few microseconds and decodes nothing.

use std::{
    cell::RefCell,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use zstd::zstd_safe::{CCtx, CDict, DCtx, DDict, compress_bound};

use crate::Object;

/// The fastest of the usual levels: what is gained is what stands in the dictionary, and any level finds that.
const LEVEL: i32 = 1;

/// What is held packed saves at least one byte in so many; else it is held as it is.
const GAIN_MIN: usize = 4;

thread_local! {
    static UNPACKER: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
}

/// What objects of a kind have in common. Each packed object keeps the one that it was packed with.
struct Dictionary(DDict<'static>);

/// Packs objects that resemble the samples it is made from.
pub struct Packer {
    dictionary: Arc<Dictionary>,
    writing: CDict<'static>,
    context: CCtx<'static>,
    frame: Vec<u8>,
}

/// What came of packing an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// It is held in so many bytes now.
    Packed(usize),
    /// It was already.
    Already,
    /// It says too much that the samples do not say.
    Strange,
}

impl Packer {
    /// The later a sample stands, the cheaper it is to resemble it.
    pub fn new(samples: &[u8]) -> Packer {
        Packer {
            dictionary: Arc::new(Dictionary(DDict::create(samples))),
            writing: CDict::create(samples, LEVEL),
            context: CCtx::create(),
            frame: Vec::new(),
        }
    }

    pub fn pack(&mut self, object: &Object) -> Packing {
        let Some(text) = object.held().plain() else { return Packing::Already };
        self.frame.clear();
        self.frame.reserve(compress_bound(text.len()));
        let packed = self.context.compress_using_cdict(&mut self.frame, &text, &self.writing);
        let is_worth_it = packed.is_ok() && self.frame.len() + text.len() / GAIN_MIN <= text.len();
        // What cannot be read again byte for byte is not let go of.
        if !is_worth_it || unpacked(&self.frame, text.len(), &self.dictionary).is_none_or(|copy| copy != text) {
            return Packing::Strange;
        }
        object.held().set(Form::Packed { frame: self.frame.as_slice().into(), dictionary: self.dictionary.clone() });
        Packing::Packed(self.frame.len())
    }
}

fn unpacked(frame: &[u8], size: usize, dictionary: &Dictionary) -> Option<Bytes> {
    let mut text = Vec::with_capacity(size);
    UNPACKER
        .with_borrow_mut(|context| context.decompress_using_ddict(&mut text, frame, &dictionary.0))
        .is_ok_and(|written| written == size)
        .then(|| text.into())
}

#[derive(Clone)]
enum Form {
    Plain(Bytes),
    Packed { frame: Box<[u8]>, dictionary: Arc<Dictionary> },
}

pub(crate) struct Held(Mutex<Form>);

impl Held {
    pub fn new(text: Bytes) -> Held {
        Held(Mutex::new(Form::Plain(text)))
    }

    /// The text; `size` is how many bytes it has.
    pub fn text(&self, size: usize) -> Bytes {
        match &*self.form() {
            Form::Plain(text) => text.clone(),
            Form::Packed { frame, dictionary } => {
                unpacked(frame, size, dictionary).expect("a frame that was read when it was made is read again")
            }
        }
    }

    /// How many bytes hold the text.
    pub fn size(&self) -> usize {
        match &*self.form() {
            Form::Plain(text) => text.len(),
            Form::Packed { frame, .. } => frame.len(),
        }
    }

    /// The text, unless it is packed.
    pub fn plain(&self) -> Option<Bytes> {
        match &*self.form() {
            Form::Plain(text) => Some(text.clone()),
            Form::Packed { .. } => None,
        }
    }

    fn set(&self, form: Form) {
        // The text it takes the place of is freed when others can read again.
        let former = std::mem::replace(&mut *self.form(), form);
        drop(former);
    }

    fn form(&self) -> MutexGuard<'_, Form> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clone for Held {
    fn clone(&self) -> Held {
        Held(Mutex::new(self.form().clone()))
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::{Body, Key, Revision, resource};

    fn object(name: &str, said: &str) -> Arc<Object> {
        let container = json!({
            "name": "web", "image": "registry.example/web:1", "env": [{"name": "SAID", "value": said}],
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}}, "imagePullPolicy": "IfNotPresent",
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
        });
        let body = Body::encode(&json!({
            "apiVersion": "v1", "kind": "Pod", "spec": {"containers": [container], "restartPolicy": "Always"},
            "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "web"}},
        }));
        Arc::new(Object::store(Key::new(resource::PODS, "default", name), &body, Revision(7)).unwrap())
    }

    fn packer() -> Packer {
        Packer::new(&[object("one", "a").bytes(), object("other", "b").bytes()].concat())
    }

    #[test]
    fn a_packed_object_is_read_as_it_was_stored() {
        let pod = object("web-5d4f", "c");
        let (text, body) = (pod.bytes(), pod.body());
        let Packing::Packed(size) = packer().pack(&pod) else { panic!("it resembles the samples") };
        assert!(size * 5 < text.len(), "{size} of {}", text.len());
        assert_eq!((pod.held_size(), pod.size()), (size, text.len()));
        assert_eq!((pod.bytes(), pod.body(), pod.apart().bytes()), (text.clone(), body, text.clone()));
        assert_eq!(pod.at(Revision(1234)).value()["metadata"]["resourceVersion"], "1234");
        assert_eq!(pod.decoded::<Pod>().unwrap().metadata.name.as_deref(), Some("web-5d4f"));
        assert_eq!(packer().pack(&pod), Packing::Already);
        assert_eq!(pod.held_size(), size, "reading does not unpack it for good");

        let open = pod.open();
        assert_eq!((open.held_size(), open.bytes(), open.revision), (text.len(), text, pod.revision));
        assert!(Arc::ptr_eq(&open, &open.open()), "one that is not packed is not copied");
    }

    #[test]
    fn what_says_something_else_is_held_as_it_is() {
        let mut state = 1u64;
        let mut noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b'!' + (state >> 33) as u8 % 90)
        };
        let noise: String = (0..4_000).map(|_| noise()).collect();
        let pod = object("odd", &noise);
        let text = pod.bytes();
        assert_eq!(Packer::new(b"").pack(&pod), Packing::Strange);
        assert_eq!((pod.held_size(), pod.bytes()), (text.len(), text));
    }

    #[test]
    fn an_object_can_be_read_while_it_is_packed() {
        let mut packer = packer();
        let pods: Vec<_> = (0..200).map(|number| object(&format!("web-{number}"), "c")).collect();
        let texts: Vec<_> = pods.iter().map(|pod| pod.bytes()).collect();
        std::thread::scope(|scope| {
            scope.spawn(|| pods.iter().for_each(|pod| assert!(matches!(packer.pack(pod), Packing::Packed(_)))));
            for _ in 0..20 {
                assert!(pods.iter().zip(&texts).all(|(pod, text)| pod.bytes() == text));
            }
        });
        assert!(pods.iter().zip(&texts).all(|(pod, text)| pod.bytes() == text));
    }

    proptest! {
        #[test]
        fn every_object_is_read_as_it_was_stored(samples in any::<Vec<u8>>(), said in ".{0,2000}") {
            let pod = object("any", &said);
            let text = pod.bytes();
            let packing = Packer::new(&samples).pack(&pod);
            prop_assert_eq!(pod.held_size() == pod.size(), packing == Packing::Strange);
            prop_assert_eq!(pod.bytes(), text);
        }
    }
}
