//! Kinds that users define: from the definition to the last object.

use copepod_api::{Action, DeleteOptions, Key, Patch, Reply, Request, Resource, Status, Target, User, WriteOptions};
use serde_json::{Value, json};

use super::fixture::{Fixture, body, refusal};
use crate::Catalog;

const WIDGETS: Resource = Resource::known("example.com", "widgets");

fn definition(version: Value) -> Value {
    let mut whole = json!({
        "name": "v1", "served": true, "storage": true,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {
            "spec": {"type": "object", "required": ["size"], "properties": {
                "size": {"type": "integer", "minimum": 1, "maximum": 9},
                "colour": {"type": "string", "enum": ["red", "blue"], "default": "red"},
                "parts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                    "items": {"type": "object", "required": ["name"], "properties": {
                        "name": {"type": "string"}, "count": {"type": "integer", "default": 1},
                    }}},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            }},
            "status": {"type": "object", "properties": {"replicas": {"type": "integer"}, "selector": {"type": "string"}}},
        }}},
    });
    for (field, value) in version.as_object().into_iter().flatten() {
        whole[field] = value.clone();
    }
    json!({"metadata": {"name": "widgets.example.com"}, "spec": {
        "group": "example.com", "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"]}, "versions": [whole],
    }})
}

fn request(version: &str, path: &str, action: Action) -> Request {
    let (name, subresource) = path.split_once('/').unwrap_or((path, ""));
    Request {
        user: User::system("tester"),
        target: Target {
            resource: WIDGETS,
            version: version.into(),
            namespace: "default".into(),
            name: name.into(),
            subresource: subresource.into(),
        },
        action,
        options: WriteOptions { field_manager: "test".to_owned(), ..WriteOptions::default() },
    }
}

fn create(world: &mut Fixture, spec: Value) -> Result<Value, Status> {
    let object = json!({"metadata": {"name": "a"}, "spec": spec});
    world.one(request("v1", "", Action::Create { object })).map(|reply: Reply| body(&reply))
}

fn merge(world: &mut Fixture, path: &str, patch: Value) -> Result<Value, Status> {
    world.one(request("v1", path, Action::Patch { patch: Patch::Merge(patch) })).map(|reply| body(&reply))
}

fn defined(version: Value) -> Fixture {
    let mut world = Fixture::new();
    world.create("customresourcedefinitions", definition(version)).unwrap();
    world
}

#[test]
fn a_kind_can_be_used_as_soon_as_it_is_defined() {
    let mut world = Fixture::new();
    assert_eq!(refusal(create(&mut world, json!({"size": 2}))).split(':').next(), Some("404 NotFound"));
    let made = world.create("customresourcedefinitions", definition(json!({}))).unwrap();
    assert_eq!(made["spec"]["names"]["listKind"], "WidgetList");
    let conditions: Vec<(&Value, &Value)> = made["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|condition| (&condition["type"], &condition["status"]))
        .collect();
    assert_eq!(conditions, [(&json!("NamesAccepted"), &json!("True")), (&json!("Established"), &json!("True"))]);
    assert_eq!(made["status"]["storedVersions"], json!(["v1"]));

    let made = create(&mut world, json!({"size": 2, "parts": [{"name": "p"}], "free": {"any": 1}, "typo": 1})).unwrap();
    assert_eq!(
        made["spec"],
        json!({"size": 2, "colour": "red", "parts": [{"name": "p", "count": 1}], "free": {"any": 1}})
    );
    assert_eq!((&made["apiVersion"], &made["metadata"]["generation"]), (&json!("example.com/v1"), &json!(1)));
}

#[test]
fn objects_are_held_against_the_schema() {
    let mut world = defined(json!({}));
    let cases = [
        (json!({}), "spec.size: Required value"),
        (json!({"size": 12}), "spec.size: Invalid value: 12"),
        (json!({"size": "two"}), "spec.size"),
        (json!({"size": 2, "colour": "green"}), "spec.colour: Unsupported value: \"green\""),
        (json!({"size": 2, "parts": [{"count": 3}]}), "spec.parts[0].name: Required value"),
    ];
    for (spec, expected) in cases {
        let said = refusal(create(&mut world, spec.clone()));
        assert!(
            said.starts_with("422 Invalid: Widget.example.com \"a\" is invalid") && said.contains(expected),
            "{spec}: {said}"
        );
    }
}

#[test]
fn status_and_scale_are_parts_of_their_own() {
    let mut world = defined(json!({"subresources": {"status": {}, "scale": {
        "specReplicasPath": ".spec.size", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector",
    }}}));
    create(&mut world, json!({"size": 2})).unwrap();
    let after = merge(&mut world, "a", json!({"status": {"replicas": 7}, "spec": {"size": 3}})).unwrap();
    assert_eq!((&after["status"], &after["metadata"]["generation"]), (&Value::Null, &json!(2)));
    let after =
        merge(&mut world, "a/status", json!({"status": {"replicas": 7, "selector": "a=b"}, "spec": {"size": 4}}))
            .unwrap();
    assert_eq!(
        (&after["status"]["replicas"], &after["spec"]["size"], &after["metadata"]["generation"]),
        (&json!(7), &json!(3), &json!(2))
    );
    let scale = merge(&mut world, "a/scale", json!({"spec": {"replicas": 5}})).unwrap();
    assert_eq!(
        (&scale["kind"], &scale["spec"]["replicas"], &scale["status"]),
        (&json!("Scale"), &json!(5), &json!({"replicas": 7, "selector": "a=b"}),)
    );
    let refused = refusal(merge(&mut world, "a/scale", json!({"spec": {"replicas": 50}})));
    assert!(refused.contains("spec.size"), "{refused}");
}

#[test]
fn columns_and_selectable_fields_are_read_by_their_paths() {
    let mut world = defined(json!({
        "additionalPrinterColumns": [
            {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
            {"name": "Part", "type": "string", "jsonPath": ".spec.parts[?(@.count==2)].name", "priority": 1},
        ],
        "selectableFields": [{"jsonPath": ".spec.colour"}],
    }));
    create(&mut world, json!({"size": 2, "parts": [{"name": "p"}, {"name": "q", "count": 2}]})).unwrap();
    let catalog = Catalog::of(&world.view);
    let row = catalog.row(&WIDGETS, "v1").unwrap();
    let names: Vec<&str> = row.table_columns().iter().map(|column| column.name.as_ref()).collect();
    assert_eq!(names, ["Name", "Size", "Part"]);
    let object = world.view.object(&Key::new(WIDGETS, "default", "a")).unwrap();
    assert_eq!(row.table_row(object, world.now), [json!("a"), json!(2), json!("q")]);
    assert!(row.fields().any(|field| field == "spec.colour"));
    assert_eq!(row.field(object, "spec.colour").as_deref(), Some("red"));
}

#[test]
fn versions_show_the_same_objects() {
    let mut two = definition(json!({}));
    let mut old = two["spec"]["versions"][0].clone();
    old["name"] = json!("v1beta1");
    old["storage"] = json!(false);
    two["spec"]["versions"].as_array_mut().unwrap().push(old);
    let mut world = Fixture::new();
    world.create("customresourcedefinitions", two).unwrap();
    let object = json!({"metadata": {"name": "a"}, "spec": {"size": 2}});
    let made = world.one(request("v1beta1", "", Action::Create { object })).map(|reply| body(&reply)).unwrap();
    assert_eq!(made["apiVersion"], "example.com/v1beta1");
    let stored = world.view.object(&Key::new(WIDGETS, "default", "a")).unwrap();
    assert_eq!(stored.value()["apiVersion"], "example.com/v1");
    let catalog = Catalog::of(&world.view);
    let versions: Vec<&str> = catalog
        .rows()
        .iter()
        .filter(|row| row.kind.group == "example.com")
        .map(|row| row.kind.version.as_ref())
        .collect();
    assert_eq!(versions, ["v1", "v1beta1"], "the stable one is preferred");
}

#[test]
fn a_default_that_was_stated_later_is_shown_of_what_was_stored_before() {
    let mut world = defined(json!({}));
    create(&mut world, json!({"size": 2})).unwrap();
    let mut later = definition(json!({}));
    later["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["weight"] =
        json!({"type": "integer", "default": 7});
    let patch = json!({"spec": {"versions": later["spec"]["versions"]}});
    world.merge("customresourcedefinitions/widgets.example.com", patch).unwrap();
    let stored = world.view.object(&Key::new(WIDGETS, "default", "a")).unwrap();
    assert!(stored.value()["spec"]["weight"].is_null());
    let catalog = Catalog::of(&world.view);
    let row = catalog.rows().iter().find(|row| row.kind.group == "example.com").unwrap();
    assert_eq!(row.show(stored).value()["spec"], json!({"size": 2, "colour": "red", "weight": 7}));
}

#[test]
fn names_that_are_taken_are_not_accepted() {
    let mut world = defined(json!({}));
    let mut other = definition(json!({}));
    other["metadata"]["name"] = json!("gadgets.example.com");
    other["spec"]["names"] = json!({"plural": "gadgets", "singular": "gadget", "kind": "Widget"});
    let made = world.create("customresourcedefinitions", other).unwrap();
    assert_eq!(made["status"]["conditions"][0]["reason"], "KindConflict");
    assert_eq!(made["status"]["conditions"][1]["status"], "False");
    let gadgets = Resource::known("example.com", "gadgets");
    assert!(Catalog::of(&world.view).row(&gadgets, "v1").is_none());
}

#[test]
fn a_definition_that_leaves_takes_no_new_objects() {
    let mut world = defined(json!({}));
    create(&mut world, json!({"size": 2})).unwrap();
    let left = world.delete("customresourcedefinitions/widgets.example.com", DeleteOptions::default()).unwrap();
    assert!(left["metadata"]["deletionTimestamp"].is_string(), "its objects hold it");
    let object = json!({"metadata": {"name": "b"}, "spec": {"size": 2}});
    let said = refusal(world.one(request("v1", "", Action::Create { object })).map(|reply| body(&reply)));
    assert!(said.contains("create not allowed while custom resource definition is terminating"), "{said}");
    world.one(request("v1", "a", Action::Delete { options: DeleteOptions::default() })).unwrap();
}

#[test]
fn a_definition_without_sense_is_told_what_is_wrong() {
    let cases = [
        (json!({"schema": null}), "spec.versions[0].schema.openAPIV3Schema: Required value: schemas are required"),
        (json!({"storage": false}), "must have exactly one version marked as storage version"),
        (json!({"schema": {"openAPIV3Schema": {"type": "string"}}}), "must be object at the root"),
        (
            json!({"schema": {"openAPIV3Schema": {"type": "object", "properties": {"a": {}}}}}),
            "spec.versions[0].schema.openAPIV3Schema.properties[a].type: Required value",
        ),
        (
            json!({"additionalPrinterColumns": [{"name": "a", "type": "string", "jsonPath": "spec"}]}),
            "spec.versions[0].additionalPrinterColumns[0].jsonPath: Invalid value: \"spec\": must begin with `.`",
        ),
        (
            json!({"subresources": {"scale": {"specReplicasPath": ".status.a", "statusReplicasPath": ".status.b"}}}),
            "should be a json path under .spec",
        ),
    ];
    for (version, expected) in cases {
        let said = refusal(Fixture::new().create("customresourcedefinitions", definition(version)));
        assert!(said.starts_with("422 Invalid") && said.contains(expected), "{said}");
    }
}

#[test]
fn values_are_held_against_patterns_formats_and_combinations() {
    let spec = json!({
        "type": "object", "properties": {
            "name": {"type": "string", "pattern": "^[a-z]+$"},
            "address": {"type": "string", "format": "ipv4"},
            "step": {"type": "integer", "multipleOf": 5},
            "port": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
            "size": {"type": "integer", "not": {"enum": [13]}, "allOf": [{"minimum": 1}, {"maximum": 99}]},
            "a": {"type": "string"}, "b": {"type": "string"},
        },
        "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
    });
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}});
    let cases = [
        (json!({"a": "x", "name": "abc", "address": "10.0.0.1", "step": 10, "port": "http", "size": 7}), ""),
        (
            json!({"a": "x", "name": "Abc"}),
            "spec.name: Invalid value: \"Abc\": spec.name in body should match '^[a-z]+$'",
        ),
        (
            json!({"b": "x", "address": "ten"}),
            "spec.address: Invalid value: \"ten\": spec.address in body must be of type ipv4: \"ten\"",
        ),
        (json!({"a": "x", "step": 7}), "spec.step in body should be a multiple of 5"),
        (json!({"a": "x", "size": 13}), "\"spec.size\" must not validate the schema (not)"),
        (json!({"a": "x", "size": 100}), "\"spec.size\" must validate all the schemas (allOf)"),
        (json!({}), "\"spec\" must validate one and only one schema (oneOf). Found none valid"),
        (json!({"a": "x", "b": "y"}), "(oneOf). Found 2 valid alternatives"),
    ];
    for (sent, expected) in cases {
        let mut world = Fixture::new();
        world.create("customresourcedefinitions", definition(json!({"schema": schema}))).unwrap();
        match (create(&mut world, sent.clone()), expected) {
            (Ok(made), "") => assert_eq!(made["spec"], sent, "combinations take nothing away"),
            (outcome, expected) => {
                let said = refusal(outcome);
                assert!(said.contains(expected), "{sent}: {said}");
            }
        }
    }
}

#[test]
fn a_schema_whose_pattern_is_none_or_whose_combination_says_what_there_is_is_refused() {
    let cases = [
        (
            json!({"type": "string", "pattern": "("}),
            "pattern: Invalid value: \"(\": must be a valid regular expression",
        ),
        (
            json!({"type": "object", "anyOf": [{"type": "object"}]}),
            "anyOf[0].type: Forbidden: must be empty to be structural",
        ),
        (
            json!({"type": "string", "not": {"default": "x"}}),
            "not.default: Forbidden: must be undefined to be structural",
        ),
    ];
    for (field, expected) in cases {
        let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": field}}});
        let said = refusal(Fixture::new().create("customresourcedefinitions", definition(json!({"schema": schema}))));
        assert!(said.contains(expected), "{field}: {said}");
    }
}

#[test]
fn a_webhook_for_conversion_is_named_in_full_or_not_at_all() {
    let with = |conversion: Value| {
        let mut definition = definition(json!({}));
        definition["spec"]["conversion"] = conversion;
        refusal(Fixture::new().create("customresourcedefinitions", definition))
    };
    let client = json!({"url": "https://example.com/"});
    for (conversion, why) in [
        (json!({"strategy": "Webhook"}), "spec.conversion.webhook: Required value: required when strategy is set"),
        (
            json!({"strategy": "Webhook", "webhook": {"clientConfig": client}}),
            "spec.conversion.webhook.conversionReviewVersions: Required value: must specify one of v1, v1beta1",
        ),
        (
            json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"]}}),
            "spec.conversion.webhook.clientConfig: Required value: exactly one of url or service is required",
        ),
        (
            json!({"strategy": "None", "webhook": {"clientConfig": client}}),
            "spec.conversion.webhook: Forbidden: should not be set when strategy is not set to Webhook",
        ),
        (json!({"strategy": "Magic"}), "spec.conversion.strategy: Unsupported value: \"Magic\""),
    ] {
        let said = with(conversion);
        assert!(said.contains(why), "{said}");
    }
}
