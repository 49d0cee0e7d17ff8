//! The definitions that a kind is made of, as JSON schemas with Kubernetes' extensions.
//!
//! Rust types say which fields there are but not how lists merge; that stands in `facts/merging.txt` and is written into
//! the definitions here, as the same `x-kubernetes-…` keys that a CustomResourceDefinition would carry. What is
//! published (`openapi`) and what is checked and merged (`schema`) therefore come from one text.

use std::{collections::BTreeMap, sync::OnceLock};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use crate::{Kind, kind::SchemaSource};

pub(crate) const REF: &str = "#/$defs/";
pub(crate) const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
pub(crate) const TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Time";
pub(crate) const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

const MERGING: &str = include_str!("../../facts/merging.txt");

/// A kind's definition, and all that it refers to.
#[derive(Debug)]
pub struct Definitions {
    pub root: String,
    pub all: BTreeMap<String, Value>,
    /// Whether the kind is described by a Rust type.
    pub is_typed: bool,
}

impl Definitions {
    pub fn of(kind: &Kind) -> Definitions {
        let mut generator = generator();
        let root = name(&kind.group, &kind.version, &kind.name);
        let (definition, is_typed) = match &kind.schema {
            SchemaSource::Type(schema) => (schema(&mut generator).to_value(), true),
            SchemaSource::Document(document) => {
                generator.subschema_for::<ObjectMeta>();
                (with_object_fields((**document).clone()), false)
            }
        };
        let mut all: BTreeMap<String, Value> = generator.take_definitions(false).into_iter().collect();
        // A type may describe itself by a reference.
        match definition.get("$ref").and_then(Value::as_str).and_then(|target| target.strip_prefix(REF)) {
            Some(target) if target != root => {
                let definition = all.get(target).cloned().unwrap_or_default();
                all.insert(root.clone(), definition);
            }
            Some(_) => (),
            None => drop(all.insert(root.clone(), definition)),
        }
        for (name, definition) in &mut all {
            add_facts(name, definition);
        }
        Definitions { root, all, is_typed }
    }

    /// Definitions of Rust types that no served kind refers to, such as options of a request.
    pub fn of_types(add: impl FnOnce(&mut SchemaGenerator)) -> BTreeMap<String, Value> {
        let mut generator = generator();
        add(&mut generator);
        let mut all: BTreeMap<String, Value> = generator.take_definitions(false).into_iter().collect();
        for (name, definition) in &mut all {
            add_facts(name, definition);
        }
        all
    }
}

fn generator() -> SchemaGenerator {
    SchemaSettings::draft2020_12().with(|settings| settings.meta_schema = None).into_generator()
}

/// `io.k8s.api.apps.v1.Deployment`, the name under which Kubernetes publishes a definition.
pub fn name(group: &str, version: &str, kind: &str) -> String {
    let package = match group {
        "" => "io.k8s.api.core".to_owned(),
        "apiextensions.k8s.io" => "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions".to_owned(),
        "apiregistration.k8s.io" => "io.k8s.kube-aggregator.pkg.apis.apiregistration".to_owned(),
        "internal.apiserver.k8s.io" => "io.k8s.api.apiserverinternal".to_owned(),
        // Groups of the project itself; those of add-ons (metrics.k8s.io) have names of their own, which nobody reads.
        group if group.ends_with(".k8s.io") || !group.contains('.') => {
            format!("io.k8s.api.{}", group.split('.').next().unwrap_or_default())
        }
        group => group.rsplit('.').collect::<Vec<_>>().join("."),
    };
    format!("{package}.{version}.{kind}")
}

/// A custom kind says nothing, or little, of the fields that every object has.
fn with_object_fields(mut definition: Value) -> Value {
    if !definition.is_object() {
        definition = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    }
    add_object_fields(&mut definition);
    definition
}

pub(crate) fn add_object_fields(definition: &mut Value) {
    let Some(definition) = definition.as_object_mut() else { return };
    let properties = definition.entry("properties").or_insert_with(|| Value::Object(Map::new()));
    let Some(properties) = properties.as_object_mut() else { return };
    let about = [
        ("apiVersion", "APIVersion defines the group and version of the schema that this object is written in."),
        ("kind", "Kind is what this object is, in CamelCase. It cannot be changed."),
    ];
    for (field, description) in about {
        properties.insert(field.to_owned(), json!({"type": "string", "description": description}));
    }
    let description = "Standard object's metadata: name, labels, owners and such.";
    properties
        .insert("metadata".to_owned(), json!({"$ref": format!("{REF}{OBJECT_META}"), "description": description}));
}

/// The extensions of one definition and of its fields, as words: `list:map:name`.
#[derive(Default)]
struct Facts {
    own: Vec<&'static str>,
    fields: BTreeMap<&'static str, Vec<&'static str>>,
}

fn facts() -> &'static BTreeMap<&'static str, Facts> {
    static FACTS: OnceLock<BTreeMap<&'static str, Facts>> = OnceLock::new();
    FACTS.get_or_init(|| {
        let mut all: BTreeMap<&str, Facts> = BTreeMap::new();
        let mut definition = "";
        for line in MERGING.lines().filter(|line| !line.starts_with('#')) {
            let mut words = line.split_whitespace();
            let Some(name) = words.next() else { continue };
            if line.starts_with(' ') {
                all.entry(definition).or_default().fields.insert(name, words.collect());
            } else {
                definition = name;
                all.entry(definition).or_default().own = words.collect();
            }
        }
        all
    })
}

fn add_facts(name: &str, definition: &mut Value) {
    let Some(facts) = facts().get(name) else { return };
    let Some(definition) = definition.as_object_mut() else { return };
    add_words(definition, &facts.own);
    let Some(properties) = definition.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for (field, words) in &facts.fields {
        if let Some(property) = properties.get_mut(*field).and_then(Value::as_object_mut) {
            add_words(property, words);
        }
    }
}

fn add_words(schema: &mut Map<String, Value>, words: &[&str]) {
    for word in words {
        let mut parts = word.split(':');
        let (what, first, second) = (parts.next(), parts.next().unwrap_or_default(), parts.next());
        let mut set = |key: &str, value: Value| drop(schema.insert(key.to_owned(), value));
        match what {
            Some("list") => {
                set("x-kubernetes-list-type", first.into());
                if let Some(keys) = second {
                    set("x-kubernetes-list-map-keys", keys.split(',').collect());
                }
            }
            Some("map") => set("x-kubernetes-map-type", first.into()),
            Some("patch") => {
                set("x-kubernetes-patch-strategy", first.into());
                if let Some(key) = second {
                    set("x-kubernetes-patch-merge-key", key.into());
                }
            }
            Some("default") => {
                let (key, value) = first.split_once('=').unwrap_or((first, ""));
                set(KEY_DEFAULTS, json!({key: value}));
            }
            _ => (),
        }
    }
}

/// Ours: what missing keys of a list's entries count as. Kubernetes has these defaults in the definition of the entry.
pub(crate) const KEY_DEFAULTS: &str = "x-copepod-list-map-key-defaults";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::testing;

    #[test]
    fn definitions_have_kubernetes_names() {
        assert_eq!(name("", "v1", "Pod"), "io.k8s.api.core.v1.Pod");
        assert_eq!(name("rbac.authorization.k8s.io", "v1", "Role"), "io.k8s.api.rbac.v1.Role");
        assert_eq!(name("flowcontrol.apiserver.k8s.io", "v1", "FlowSchema"), "io.k8s.api.flowcontrol.v1.FlowSchema");
        assert_eq!(name("stable.example.com", "v1", "CronTab"), "com.example.stable.v1.CronTab");
    }

    #[test]
    fn facts_are_in_the_definitions() {
        let definitions = Definitions::of(&testing::deployment());
        assert_eq!(definitions.root, "io.k8s.api.apps.v1.Deployment");
        let containers = &definitions.all["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(
            definitions.all["io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector"]["x-kubernetes-map-type"],
            "atomic"
        );
    }

    #[test]
    fn every_fact_is_about_a_field_that_exists() {
        let definitions = Definitions::of(&testing::pod());
        for (name, definition) in &definitions.all {
            let Some(facts) = facts().get(name.as_str()) else { continue };
            for field in facts.fields.keys() {
                assert!(definition["properties"].get(field).is_some(), "{name} has no field {field}");
            }
        }
    }
}
