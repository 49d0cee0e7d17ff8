//! DefaultStorageClass and DefaultIngressClass: what names no class gets the one marked as the default.

use copepod_api::{Resource, StatusResult};
use serde_json::Value;

use super::{NONE, Plugin, Write};
use crate::{
    json::{object, set, text},
    pipeline::World,
};

pub const PLUGIN: Plugin = Plugin { complete, ..NONE };

/// A kind with a class: where it says it, how it said it in earlier times, and how a class is marked.
struct Classed {
    of: Resource,
    field: &'static str,
    annotation: &'static str,
    classes: Resource,
    marks: &'static [&'static str],
}

const CLASSED: &[Classed] = &[
    Classed {
        of: Resource::known("", "persistentvolumeclaims"),
        field: "storageClassName",
        annotation: "volume.beta.kubernetes.io/storage-class",
        classes: Resource::known("storage.k8s.io", "storageclasses"),
        marks: &["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"],
    },
    Classed {
        of: Resource::known("networking.k8s.io", "ingresses"),
        field: "ingressClassName",
        annotation: "kubernetes.io/ingress.class",
        classes: Resource::known("networking.k8s.io", "ingressclasses"),
        marks: &["ingressclass.kubernetes.io/is-default-class"],
    },
];

fn complete(world: &mut World<'_>, write: &Write<'_>, made: &mut Value) -> StatusResult<()> {
    let Some(classed) = CLASSED.iter().find(|classed| write.is_new(&classed.of)) else {
        return Ok(());
    };
    // An empty name is an answer: no class at all.
    let says = made.get("spec").is_some_and(|spec| spec.get(classed.field).is_some_and(Value::is_string))
        || made.pointer("/metadata/annotations").is_some_and(|own| own.get(classed.annotation).is_some());
    if says {
        return Ok(());
    }
    let is_default = |class: &Value| {
        let annotations = class.pointer("/metadata/annotations");
        classed.marks.iter().any(|mark| annotations.and_then(|own| own.get(*mark)).is_some_and(|said| said == "true"))
    };
    // Of several the newest, and of those the first by name: whoever marks a new one means to replace the old.
    let mut best: Option<(Option<&str>, &str)> = None;
    for class in world.view.objects(&classed.classes, None).filter(|class| is_default(class.value())) {
        let since = text(class.value(), "/metadata/creationTimestamp");
        if best.is_none_or(|(newest, _)| since > newest) {
            best = Some((since, class.key.name()));
        }
    }
    if let (Some((_, name)), Some(spec)) = (best, object(made, "spec")) {
        set(spec, classed.field, name);
    }
    Ok(())
}
