//! OpenAPI v3 documents: what the API offers, for programs.
//!
//! There is one document a group and version, and an index of them. Clients read little of it, but depend on that:
//! `kubectl explain` finds a kind by its path and prints its definition; `kubectl apply` looks for the `fieldValidation`
//! parameter of its patch operation and for the merge keys of lists; generators of clients read all. The index names
//! each document by its content's hash, so that clients keep documents for good and fetch only what changed.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{authentication::v1::TokenRequest, autoscaling::v1::Scale, core::v1::Binding, policy::v1::Eviction},
    apimachinery::pkg::apis::meta::v1 as meta,
};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha512};

use crate::{
    Kind,
    schema::definition::{self, Definitions},
};

/// A kind and what one can do with it.
#[derive(Clone, Copy, Debug)]
pub struct Served<'a> {
    pub kind: &'a Kind,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verbs: &'a [&'a str],
}

/// Everything that can be done with most kinds.
pub const ALL_VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const PATCHES: [&str; 4] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];
const SCHEMAS: &str = "#/components/schemas/";

/// The document of one group and version.
pub fn document(group: &str, version: &str, served: &[Served<'_>]) -> Value {
    let mut schemas: BTreeMap<String, Value> = Definitions::of_types(|generator| {
        generator.subschema_for::<meta::Status>();
        generator.subschema_for::<meta::DeleteOptions>();
        generator.subschema_for::<meta::ListMeta>();
    });
    let mut paths = Map::new();
    let prefix = group_path(group, version);
    for served in served {
        let kind = served.kind;
        let definitions = Definitions::of(kind);
        let list = format!("{}List", definitions.root);
        schemas.insert(list.clone(), list_definition(kind, &definitions.root));
        schemas.extend(definitions.all);
        if let Some(root) = schemas.get_mut(&definitions.root).and_then(Value::as_object_mut) {
            root.insert(GROUP_VERSION_KIND.to_owned(), json!([group_version_kind(kind)]));
        }
        add_paths(&mut paths, &mut schemas, &prefix, *served, &definitions.root, &list);
    }
    let schemas: Map<String, Value> =
        schemas.iter().map(|(name, definition)| (name.clone(), published(name, definition))).collect();
    let bearer = json!({"type": "apiKey", "description": "Bearer token authentication", "name": "authorization", "in": "header"});
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"BearerToken": bearer}},
        "security": [{"BearerToken": []}],
    })
}

/// The index: for each document its path, `apis/apps/v1` or `api/v1`, and the hash of its content.
pub fn index<'a>(documents: impl IntoIterator<Item = (&'a str, &'a str)>) -> Value {
    let paths: Map<String, Value> = documents
        .into_iter()
        .map(|(path, hash)| (path.to_owned(), json!({"serverRelativeURL": location(path, hash)})))
        .collect();
    json!({"paths": paths})
}

/// Where a document is, by its path and hash.
pub fn location(path: &str, hash: &str) -> String {
    format!("/openapi/v3/{path}?hash={hash}")
}

/// The hash by which the index names a document.
pub fn hash(document: &[u8]) -> String {
    Sha512::digest(document).iter().map(|byte| format!("{byte:02X}")).collect()
}

/// `/apis/apps/v1`, or `/api/v1` for the core group.
pub fn group_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") }
}

const GROUP_VERSION_KIND: &str = "x-kubernetes-group-version-kind";

fn group_version_kind(kind: &Kind) -> Value {
    json!({"group": kind.group, "version": kind.version, "kind": kind.name})
}

fn list_definition(kind: &Kind, item: &str) -> Value {
    let name = format!("{}List", kind.name);
    json!({
        "description": format!("{name} is a list of {} objects.", kind.name),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": "The group and version of the schema of this list."},
            "kind": {"type": "string", "description": "The kind of this list, in CamelCase."},
            "metadata": {"$ref": format!("{}{LIST_META}", definition::REF), "description": "The revision of the list, and how to continue it."},
            "items": {"type": "array", "items": {"$ref": format!("{}{item}", definition::REF)}, "description": "The objects."},
        },
        GROUP_VERSION_KIND: [{"group": kind.group, "version": kind.version, "kind": name}],
    })
}

const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";

fn add_paths(
    paths: &mut Map<String, Value>,
    schemas: &mut BTreeMap<String, Value>,
    prefix: &str,
    served: Served<'_>,
    object: &str,
    list: &str,
) {
    let kind = served.kind;
    let collection = if kind.is_namespaced() {
        format!("{prefix}/namespaces/{{namespace}}/{}", kind.plural)
    } else {
        format!("{prefix}/{}", kind.plural)
    };
    let operations = Operations { kind, gvk: group_version_kind(kind), subresource: "", kind_name: &kind.name };
    let of = |verbs: &[&'static str]| -> Vec<&'static str> {
        verbs.iter().filter(|verb| served.verbs.contains(verb)).copied().collect()
    };

    let mut add = |path: String, operations: &Operations<'_>, verbs: Vec<&str>, object: &str, is_everywhere: bool| {
        if verbs.is_empty() {
            return;
        }
        let mut item: Map<String, Value> = verbs
            .into_iter()
            .map(|verb| (method(verb).to_owned(), operations.operation(verb, object, list, is_everywhere)))
            .collect();
        item.insert("parameters".to_owned(), path_parameters(&path));
        paths.insert(path, Value::Object(item));
    };
    add(collection.clone(), &operations, of(&["list", "create", "deletecollection"]), object, false);
    add(format!("{collection}/{{name}}"), &operations, of(&["get", "update", "patch", "delete"]), object, false);
    if kind.is_namespaced() {
        add(format!("{prefix}/{}", kind.plural), &operations, of(&["list"]), object, true);
    }
    for subresource in kind.subresources.iter() {
        let (gvk, name, own) = match subresource.kind {
            Some((group, version, name)) => {
                let definition = subresource_definition(name, schemas);
                (json!({"group": group, "version": version, "kind": name}), name, definition)
            }
            None => (group_version_kind(kind), &*kind.name, None),
        };
        let operations = Operations { kind, gvk, subresource: subresource.name, kind_name: name };
        // A connection (exec, port-forward) is none of the methods that have a body.
        let verbs = subresource.verbs.iter().filter(|verb| !matches!(**verb, "connect" | "watch" | "list")).copied();
        let path = format!("{collection}/{{name}}/{}", subresource.name);
        add(path, &operations, verbs.collect(), own.as_deref().unwrap_or(object), false);
    }
}

/// The definition of a kind that only travels on subresources, added to the document.
fn subresource_definition(kind: &str, schemas: &mut BTreeMap<String, Value>) -> Option<String> {
    let definitions = Definitions::of_types(|generator| match kind {
        "Scale" => drop(generator.subschema_for::<Scale>()),
        "Eviction" => drop(generator.subschema_for::<Eviction>()),
        "Binding" => drop(generator.subschema_for::<Binding>()),
        "TokenRequest" => drop(generator.subschema_for::<TokenRequest>()),
        _ => (),
    });
    let name = definitions.keys().find(|name| name.rsplit('.').next() == Some(kind)).cloned();
    schemas.extend(definitions);
    name
}

fn method(verb: &str) -> &'static str {
    match verb {
        "create" => "post",
        "update" => "put",
        "patch" => "patch",
        "delete" | "deletecollection" => "delete",
        _ => "get",
    }
}

fn path_parameters(path: &str) -> Value {
    let mut parameters = Vec::new();
    for (name, description) in [("namespace", "the namespace of the objects"), ("name", "the name of the object")] {
        if path.contains(&format!("{{{name}}}")) {
            parameters.push(json!({"name": name, "in": "path", "required": true, "description": description,
                "schema": {"type": "string", "uniqueItems": true}}));
        }
    }
    parameters.push(query("pretty", "string", "If 'true', the output is printed with white space."));
    parameters.into()
}

fn query(name: &str, value_type: &str, description: &str) -> Value {
    json!({"name": name, "in": "query", "description": description, "schema": {"type": value_type, "uniqueItems": true}})
}

struct Operations<'a> {
    kind: &'a Kind,
    gvk: Value,
    subresource: &'a str,
    /// The kind that travels here.
    kind_name: &'a str,
}

impl Operations<'_> {
    fn operation(&self, verb: &str, object: &str, list: &str, is_everywhere: bool) -> Value {
        let of = if self.subresource.is_empty() { String::new() } else { format!("{} of the ", self.subresource) };
        let name = &self.kind.name;
        let (action, description) = match verb {
            "create" => ("post", format!("create {of}{name}")),
            "update" => ("put", format!("replace {of}the specified {name}")),
            "patch" => ("patch", format!("partially update {of}the specified {name}")),
            "delete" => ("delete", format!("delete {name}")),
            "deletecollection" => ("deletecollection", format!("delete a collection of {name}")),
            "list" => ("list", format!("list or watch objects of kind {name}")),
            _ => ("get", format!("read {of}the specified {name}")),
        };
        let answer = match verb {
            "list" => list,
            "delete" | "deletecollection" => STATUS,
            _ => object,
        };
        let mut operation = json!({
            "tags": [self.tag()],
            "description": description,
            "operationId": self.operation_id(verb, is_everywhere),
            "parameters": parameters(verb),
            "responses": {
                "200": {"description": "OK", "content": content(&[JSON, YAML], reference(answer))},
                "401": {"description": "Unauthorized"},
            },
            "x-kubernetes-action": action,
            GROUP_VERSION_KIND: self.gvk,
        });
        let body = match verb {
            "create" | "update" => Some((content(&["*/*"], reference(object)), true)),
            "patch" => Some((content(&PATCHES, json!({"type": "object"})), true)),
            "delete" | "deletecollection" => Some((content(&["*/*"], reference(DELETE_OPTIONS)), false)),
            _ => None,
        };
        if let Some((content, is_required)) = body {
            operation["requestBody"] = json!({"content": content});
            if is_required {
                operation["requestBody"]["required"] = true.into();
            }
        }
        operation
    }

    /// `apps_v1`, `core_v1`.
    fn tag(&self) -> String {
        let group = if self.kind.group.is_empty() { "core" } else { self.kind.group.trim_end_matches(".k8s.io") };
        format!("{}_{}", camel(group, false), self.kind.version)
    }

    /// `createAppsV1NamespacedDeployment`, the name of a function in generated clients.
    fn operation_id(&self, verb: &str, is_everywhere: bool) -> String {
        let (verb, collection) = match verb {
            "get" => ("read", ""),
            "update" => ("replace", ""),
            "deletecollection" => ("delete", "Collection"),
            verb => (verb, ""),
        };
        let group = if self.kind.group.is_empty() { "core" } else { self.kind.group.trim_end_matches(".k8s.io") };
        let version = camel(&self.kind.version, true);
        let namespaced = if self.kind.is_namespaced() && !is_everywhere { "Namespaced" } else { "" };
        let everywhere = if is_everywhere { "ForAllNamespaces" } else { "" };
        let own = if self.subresource.is_empty() { self.kind_name } else { &self.kind.name };
        let subresource = camel(self.subresource, true);
        format!("{verb}{}{version}{collection}{namespaced}{own}{subresource}{everywhere}", camel(group, true))
    }
}

fn camel(text: &str, starts_upper: bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut is_upper = starts_upper;
    for c in text.chars() {
        if c == '.' || c == '-' || c == '/' {
            is_upper = true;
        } else if std::mem::take(&mut is_upper) {
            out.extend(c.to_uppercase());
        } else {
            out.push(c);
        }
    }
    out
}

fn parameters(verb: &str) -> Value {
    let dry_run = ("dryRun", "string", "'All' carries the request out without storing anything.");
    let field_manager = ("fieldManager", "string", "The name of the program that makes these changes.");
    let field_validation = (
        "fieldValidation",
        "string",
        "What unknown and duplicate fields lead to: 'Ignore', 'Warn' (a warning in the answer) or 'Strict' (an error).",
    );
    let selection = [
        ("continue", "string", "Continues a list where the one before ended, as its metadata says."),
        ("fieldSelector", "string", "Restricts the objects by their fields."),
        ("labelSelector", "string", "Restricts the objects by their labels."),
        ("limit", "integer", "The most objects in one answer; the answer says how to get the others."),
        ("resourceVersion", "string", "The revision to read at."),
        ("resourceVersionMatch", "string", "How resourceVersion is meant: 'Exact' or 'NotOlderThan'."),
        ("sendInitialEvents", "boolean", "Starts a watch with the objects that are there."),
        ("timeoutSeconds", "integer", "Ends the answer after this time."),
    ];
    let deletion = [
        ("gracePeriodSeconds", "integer", "The time the object has to end; zero is at once."),
        ("orphanDependents", "boolean", "Deprecated: use propagationPolicy."),
        ("propagationPolicy", "string", "What becomes of dependents: 'Orphan', 'Background' or 'Foreground'."),
    ];
    let mut all: Vec<(&str, &str, &str)> = match verb {
        "create" | "update" => vec![dry_run, field_manager, field_validation],
        "patch" => {
            let force = ("force", "boolean", "Apply: takes fields over from other managers.");
            vec![dry_run, field_manager, field_validation, force]
        }
        "delete" => [&[dry_run][..], &deletion].concat(),
        "deletecollection" => [&[dry_run][..], &deletion, &selection].concat(),
        "list" => {
            let watch = [
                ("allowWatchBookmarks", "boolean", "Allows events that only tell a revision."),
                ("watch", "boolean", "Follows the changes."),
            ];
            [&selection[..], &watch].concat()
        }
        _ => Vec::new(),
    };
    all.sort_unstable();
    all.into_iter().map(|(name, value_type, description)| query(name, value_type, description)).collect()
}

fn content(types: &[&str], schema: Value) -> Value {
    types.iter().map(|media_type| (media_type.to_string(), json!({"schema": schema}))).collect::<Map<_, _>>().into()
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("{SCHEMAS}{name}")})
}

/// A definition as OpenAPI v3 wants it.
fn published(name: &str, definition: &Value) -> Value {
    let one_of = match name.rsplit('.').next() {
        Some("Quantity") if name == definition::QUANTITY => json!([{"type": "string"}, {"type": "number"}]),
        Some("IntOrString") => json!([{"type": "integer"}, {"type": "string"}]),
        _ => return rewritten(definition, Within::Value),
    };
    let mut published = json!({"description": definition["description"], "oneOf": one_of});
    if name != definition::QUANTITY {
        published["format"] = "int-or-string".into();
    }
    published
}

/// Whether the keys of a map are words of the schema language, or names of fields.
#[derive(Clone, Copy, PartialEq)]
enum Within {
    Value,
    Fields,
    /// Alternatives, in which a reference stands alone.
    Alternatives,
    /// Data: defaults, examples, allowed values.
    Data,
}

fn rewritten(value: &Value, within: Within) -> Value {
    match value {
        Value::Object(map) => {
            let mut out = Map::new();
            for (key, value) in map {
                if within == Within::Data {
                    return Value::Object(map.clone());
                }
                if within == Within::Fields {
                    out.insert(key.clone(), rewritten(value, Within::Value));
                    continue;
                }
                match (key.as_str(), value) {
                    (definition::KEY_DEFAULTS, _) => (),
                    ("$ref", Value::String(target)) => {
                        let target = reference(target.strip_prefix(definition::REF).unwrap_or(target));
                        if within == Within::Alternatives && map.len() == 1 {
                            return target;
                        }
                        // Siblings of a reference are ignored by the standard, so it is wrapped.
                        out.insert("allOf".to_owned(), json!([target]));
                    }
                    ("properties" | "patternProperties", value) => {
                        out.insert(key.clone(), rewritten(value, Within::Fields));
                    }
                    ("oneOf" | "anyOf" | "allOf", value) => {
                        out.insert(key.clone(), rewritten(value, Within::Alternatives));
                    }
                    ("default" | "enum" | "example" | "const", value) => {
                        out.insert(key.clone(), rewritten(value, Within::Data));
                    }
                    (_, value) => drop(out.insert(key.clone(), rewritten(value, Within::Value))),
                }
            }
            Value::Object(out)
        }
        Value::Array(list) => list.iter().map(|value| rewritten(value, within)).collect(),
        value => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{kind::Subresource, schema::testing};

    fn apps() -> Value {
        let mut deployment = testing::deployment();
        deployment.subresources = vec![
            Subresource { name: "status", kind: None, verbs: &["get", "update", "patch"] },
            Subresource {
                name: "scale",
                kind: Some(("autoscaling", "v1", "Scale")),
                verbs: &["get", "update", "patch"],
            },
        ];
        document("apps", "v1", &[Served { kind: &deployment, verbs: ALL_VERBS }])
    }

    #[test]
    fn kubectl_finds_what_it_looks_for() {
        let document = apps();
        let object = "/apis/apps/v1/namespaces/{namespace}/deployments/{name}";
        let patch = &document["paths"][object]["patch"];
        assert_eq!(
            patch["x-kubernetes-group-version-kind"],
            json!({"group": "apps", "version": "v1", "kind": "Deployment"})
        );
        let names: Vec<&str> =
            patch["parameters"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["dryRun", "fieldManager", "fieldValidation", "force"]);
        let schemas = &document["components"]["schemas"];
        let deployment = &schemas["io.k8s.api.apps.v1.Deployment"];
        assert_eq!(deployment["x-kubernetes-group-version-kind"][0]["kind"], "Deployment");
        assert_eq!(
            deployment["properties"]["spec"]["allOf"],
            json!([{"$ref": "#/components/schemas/io.k8s.api.apps.v1.DeploymentSpec"}])
        );
        let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(containers["x-kubernetes-list-type"], "map");
        assert_eq!(schemas["io.k8s.apimachinery.pkg.util.intstr.IntOrString"]["format"], "int-or-string");
    }

    #[test]
    fn paths_and_operations() {
        let document = apps();
        let mut lines = Vec::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap().iter().filter(|(method, _)| *method != "parameters") {
                lines.push(format!("{method} {path} {}", operation["operationId"].as_str().unwrap()));
            }
        }
        insta::assert_snapshot!(lines.join("\n"), @r#"
        get /apis/apps/v1/deployments listAppsV1DeploymentForAllNamespaces
        delete /apis/apps/v1/namespaces/{namespace}/deployments deleteAppsV1CollectionNamespacedDeployment
        get /apis/apps/v1/namespaces/{namespace}/deployments listAppsV1NamespacedDeployment
        post /apis/apps/v1/namespaces/{namespace}/deployments createAppsV1NamespacedDeployment
        delete /apis/apps/v1/namespaces/{namespace}/deployments/{name} deleteAppsV1NamespacedDeployment
        get /apis/apps/v1/namespaces/{namespace}/deployments/{name} readAppsV1NamespacedDeployment
        patch /apis/apps/v1/namespaces/{namespace}/deployments/{name} patchAppsV1NamespacedDeployment
        put /apis/apps/v1/namespaces/{namespace}/deployments/{name} replaceAppsV1NamespacedDeployment
        get /apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale readAppsV1NamespacedDeploymentScale
        patch /apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale patchAppsV1NamespacedDeploymentScale
        put /apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale replaceAppsV1NamespacedDeploymentScale
        get /apis/apps/v1/namespaces/{namespace}/deployments/{name}/status readAppsV1NamespacedDeploymentStatus
        patch /apis/apps/v1/namespaces/{namespace}/deployments/{name}/status patchAppsV1NamespacedDeploymentStatus
        put /apis/apps/v1/namespaces/{namespace}/deployments/{name}/status replaceAppsV1NamespacedDeploymentStatus
        "#);
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn check(value: &Value, schemas: &Value) {
            match value {
                Value::Object(map) => {
                    if let Some(target) = map.get("$ref").and_then(Value::as_str) {
                        let name = target.strip_prefix(SCHEMAS).unwrap_or_else(|| panic!("{target}"));
                        assert!(schemas.get(name).is_some(), "{name}");
                    }
                    map.values().for_each(|value| check(value, schemas));
                }
                Value::Array(list) => list.iter().for_each(|value| check(value, schemas)),
                _ => (),
            }
        }
        let widget = testing::custom();
        let custom = document("example.com", "v1", &[Served { kind: &widget, verbs: &["get", "list", "patch"] }]);
        assert!(custom["components"]["schemas"]["com.example.v1.Widget"]["properties"]["metadata"]["allOf"].is_array());
        for document in [apps(), custom] {
            check(&document, &document["components"]["schemas"]);
        }
    }

    #[test]
    fn the_index_names_documents_by_content() {
        let hash = hash(b"{}");
        assert_eq!(hash.len(), 128);
        let index = index([("api/v1", "AB"), ("apis/apps/v1", hash.as_str())]);
        assert_eq!(index["paths"]["api/v1"]["serverRelativeURL"], "/openapi/v3/api/v1?hash=AB");
    }
}
