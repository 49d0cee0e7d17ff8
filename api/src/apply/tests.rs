//! Conversations between managers about one object.

use std::fmt::Write;

use serde_json::{Value, json};

use super::*;
use crate::schema::testing;

/// One object, and a clock that ticks with every step.
struct World {
    schema: std::sync::Arc<Schema>,
    live: Option<Value>,
    second: i64,
}

impl World {
    fn of(kind: &crate::Kind) -> World {
        World { schema: Schema::of(kind), live: None, second: 0 }
    }

    fn tick(&mut self) -> Timestamp {
        self.second += 1;
        Timestamp::from_second(1_700_000_000 + self.second).unwrap()
    }

    fn manager(name: &str) -> Manager {
        let (name, subresource) = name.split_once('/').unwrap_or((name, ""));
        Manager { name: name.into(), subresource: subresource.into(), api_version: "apps/v1".into() }
    }

    fn apply(&mut self, manager: &str, applied: Value) -> Result<(), ApplyError> {
        let now = self.tick();
        let force = manager.ends_with('!');
        let manager = World::manager(manager.trim_end_matches('!'));
        self.live = Some(apply(&self.schema, self.live.as_ref(), &applied, &manager, force, now)?);
        Ok(())
    }

    fn update(&mut self, manager: &str, change: impl FnOnce(&mut Value)) {
        let now = self.tick();
        let mut after = self.live.clone().unwrap_or_else(|| json!({}));
        change(&mut after);
        track(&self.schema, self.live.as_ref(), &mut after, &World::manager(manager), now);
        self.live = Some(after);
    }

    fn spec(&self) -> Value {
        self.live.as_ref().unwrap()["spec"].clone()
    }

    /// `Apply kubectl @1: .spec.replicas .spec.paused`, a line a manager.
    fn owners(&self) -> String {
        let mut out = String::new();
        for entry in self.live.as_ref().unwrap()["metadata"]["managedFields"].as_array().into_iter().flatten() {
            let second = entry["time"].as_str().unwrap().parse::<Timestamp>().unwrap().as_second() - 1_700_000_000;
            let fields = fields::Set::from_value(&entry["fieldsV1"]).unwrap().paths().join(" ");
            let (operation, manager) = (entry["operation"].as_str().unwrap(), entry["manager"].as_str().unwrap());
            writeln!(out, "{operation} {manager} @{second}: {fields}").unwrap();
        }
        out
    }
}

fn deployment(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "labels": {"app": "web"}}, "spec": spec})
}

fn containers(list: Value) -> Value {
    deployment(json!({"template": {"spec": {"containers": list}}}))
}

#[test]
fn who_owns_what_after_an_apply_and_an_update() {
    let mut world = World::of(&testing::deployment());
    let web = json!([{"name": "c", "image": "1", "args": ["a"], "ports": [{"containerPort": 80}]}]);
    world.apply("kubectl", containers(web)).unwrap();
    world.update("scaler", |object| object["spec"]["replicas"] = 3.into());
    world.update("controller/status", |object| object["status"] = json!({"replicas": 3}));
    insta::assert_snapshot!(world.owners(), @r#"
        Apply kubectl @1: .metadata.labels.app .spec.template.spec.containers[name="c"] .spec.template.spec.containers[name="c"].args .spec.template.spec.containers[name="c"].image .spec.template.spec.containers[name="c"].name .spec.template.spec.containers[name="c"].ports[containerPort=80,protocol="TCP"] .spec.template.spec.containers[name="c"].ports[containerPort=80,protocol="TCP"].containerPort
        Update scaler @2: .spec.replicas
        Update controller @3: .status .status.replicas
        "#);
}

#[test]
fn applying_twice_changes_nothing_not_even_times() {
    let mut world = World::of(&testing::deployment());
    world.apply("kubectl", deployment(json!({"replicas": 1, "paused": null}))).unwrap();
    let once = world.live.clone();
    world.apply("kubectl", deployment(json!({"replicas": 1}))).unwrap();
    assert_eq!(world.live, once);
    world.update("someone", |_| ());
    assert_eq!(world.live, once);
}

#[test]
fn what_is_no_longer_applied_goes_unless_somebody_else_owns_it() {
    let mut world = World::of(&testing::deployment());
    let full = json!([{"name": "a", "image": "1", "ports": [{"containerPort": 80}]}, {"name": "b", "image": "1"}]);
    world.apply("kubectl", containers(full)).unwrap();
    world.update("defaults", |object| {
        object["spec"]["template"]["spec"]["containers"][1]["imagePullPolicy"] = "Always".into()
    });
    world.apply("other", containers(json!([{"name": "a", "ports": [{"containerPort": 80}]}]))).unwrap();
    world.apply("kubectl", containers(json!([{"name": "a", "image": "1"}]))).unwrap();
    assert_eq!(
        world.spec()["template"]["spec"]["containers"],
        json!([{"name": "a", "image": "1", "ports": [{"containerPort": 80}]}])
    );
    world.apply("other", deployment(json!({}))).unwrap();
    assert_eq!(world.spec()["template"]["spec"]["containers"], json!([{"name": "a", "image": "1"}]));
}

#[test]
fn others_fields_are_not_overwritten_unless_forced() {
    let mut world = World::of(&testing::deployment());
    world.apply("kubectl", deployment(json!({"replicas": 1}))).unwrap();
    world.update("scaler", |object| object["spec"]["replicas"] = 3.into());
    world.apply("argo", deployment(json!({"replicas": 3}))).unwrap();
    let error = world.apply("kubectl", deployment(json!({"replicas": 1}))).unwrap_err();
    let status = Status::from(error);
    assert_eq!((status.code(), status.reason()), (409, "Conflict"));
    insta::assert_snapshot!(status.message(), @r#"
        Apply failed with 2 conflicts: conflicts with "argo":
        - .spec.replicas
        conflicts with "scaler" using apps/v1:
        - .spec.replicas
        "#);
    let causes = status.details().unwrap().causes.as_ref().unwrap();
    assert_eq!(causes[0].reason.as_deref(), Some("FieldManagerConflict"));
    assert_eq!(causes[1].message.as_deref(), Some("conflict with \"scaler\" using apps/v1"));
    assert_eq!(causes[1].field.as_deref(), Some(".spec.replicas"));

    world.apply("kubectl!", deployment(json!({"replicas": 1}))).unwrap();
    assert_eq!(world.spec()["replicas"], 1);
    insta::assert_snapshot!(world.owners(), @r#"
        Apply argo @3: .metadata.labels.app
        Apply kubectl @5: .metadata.labels.app .spec.replicas
        "#);

    world.update("scaler", |object| object["spec"]["replicas"] = 3.into());
    let error = world.apply("kubectl", deployment(json!({"replicas": 2}))).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"scaler\" using apps/v1: .spec.replicas"
    );
}

#[test]
fn lists_and_maps_by_their_types() {
    let mut world = World::of(&testing::custom());
    let widget = |spec: Value| json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": spec});
    let one = json!({"size": 1, "tags": ["a", "b"], "rules": [{"id": "x", "weight": 1}], "whole": {"k": "1"}, "free": {"deep": {"a": 1}}});
    world.apply("one", widget(one)).unwrap();
    let two = json!({"tags": ["c", "b"], "rules": [{"id": "x", "zone": "b"}, {"id": "x", "zone": "a"}], "free": {"deep": {"b": 1}}});
    world.apply("two", widget(two)).unwrap();
    assert_eq!(
        world.spec(),
        json!({"size": 1, "tags": ["a", "c", "b"], "rules": [{"id": "x", "zone": "b"}, {"id": "x", "weight": 1, "zone": "a"}],
            "whole": {"k": "1"}, "free": {"deep": {"a": 1, "b": 1}}})
    );
    insta::assert_snapshot!(world.owners(), @r#"
        Apply one @1: .spec.free.deep .spec.free.deep.a .spec.rules[id="x",zone="a"] .spec.rules[id="x",zone="a"].id .spec.rules[id="x",zone="a"].weight .spec.size .spec.tags[="a"] .spec.tags[="b"] .spec.whole
        Apply two @2: .spec.free.deep .spec.free.deep.b .spec.rules[id="x",zone="a"] .spec.rules[id="x",zone="a"].id .spec.rules[id="x",zone="a"].zone .spec.rules[id="x",zone="b"] .spec.rules[id="x",zone="b"].id .spec.rules[id="x",zone="b"].zone .spec.tags[="b"] .spec.tags[="c"]
        "#);
    assert!(world.apply("two", widget(json!({"whole": {"k": "1", "l": "2"}}))).is_err());
    world.apply("one", widget(json!({"size": 1}))).unwrap();
    assert_eq!(
        world.spec(),
        json!({"size": 1, "tags": ["c", "b"], "rules": [{"id": "x", "zone": "b"}, {"id": "x", "zone": "a"}],
            "free": {"deep": {"b": 1}}})
    );
    world.apply("two", widget(json!({}))).unwrap();
    assert_eq!(world.spec(), json!({"size": 1}));
}

#[test]
fn lists_that_cannot_be_merged_are_refused() {
    let mut world = World::of(&testing::deployment());
    let error = |result: Result<(), ApplyError>| result.unwrap_err().to_string();
    assert_eq!(
        error(world.apply("a", containers(json!([{"name": "a"}, {"name": "a"}])))),
        "failed to create typed patch object: .spec.template.spec.containers: duplicate entries for key [name=\"a\"]"
    );
    assert!(error(world.apply("a", containers(json!([{"image": "a"}])))).contains("omits key field \"name\""));
    let mut applied = deployment(json!({}));
    applied["metadata"]["managedFields"] = json!([{"manager": "x"}]);
    assert!(error(world.apply("a", applied)).contains("managedFields must be nil"));
}

#[test]
fn objects_without_books_get_an_owner_and_books_can_be_cleared() {
    let mut world = World::of(&testing::deployment());
    world.live = Some(deployment(json!({"replicas": 1, "paused": true})));
    world.apply("kubectl", deployment(json!({"paused": true}))).unwrap();
    insta::assert_snapshot!(world.owners(), @r#"
        Apply kubectl @1: .metadata.labels.app .spec.paused
        Update before-first-apply @1: .metadata.labels .metadata.labels.app .spec .spec.paused .spec.replicas
        "#);
    world.update("x", |object| object["metadata"]["managedFields"] = json!([{}]));
    assert_eq!(world.owners(), "");
    world.update("x", |object| object["spec"]["replicas"] = 2.into());
    assert_eq!(world.owners(), "Update x @3: .spec.replicas\n");
    world.update("y", |object| object["metadata"]["managedFields"] = json!([]));
    assert_eq!(world.owners(), "Update x @3: .spec.replicas\n");
}

#[test]
fn removed_fields_lose_their_owners_and_old_owners_are_forgotten() {
    let mut world = World::of(&testing::deployment());
    world.update("a", |object| *object = deployment(json!({"replicas": 1})));
    world.update("b", |object| drop(object["metadata"].as_object_mut().unwrap().remove("labels")));
    assert_eq!(world.owners(), "Update a @1: .spec .spec.replicas\n");
    for n in 0..30 {
        world.update(&format!("m{n:02}"), |object| object["metadata"]["annotations"][format!("k{n}")] = "v".into());
    }
    let owners = world.owners();
    assert_eq!(owners.lines().count(), 10, "{owners}");
    assert!(owners.contains("ancient-changes") && owners.contains("m29"));
}

proptest::proptest! {
    /// Small objects of the custom kind, applied by two managers in any order.
    #[test]
    fn any_conversation_ends_in_agreement(steps in proptest::collection::vec((0..2usize, 0..4u8, 0..4u8, 0..4u8), 1..8)) {
        let mut world = World::of(&testing::custom());
        for (manager, size, tags, rules) in steps {
            let mut spec = json!({});
            if size > 0 {
                spec["size"] = size.into();
            }
            if tags > 0 {
                spec["tags"] = (0..tags).map(|n| format!("t{n}")).collect();
                spec["whole"] = json!({"k": tags.to_string()});
            }
            if rules > 0 {
                spec["rules"] = (0..rules).map(|n| json!({"id": n.to_string(), "weight": rules})).collect();
            }
            let applied = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": spec});
            let manager = ["one!", "two!"][manager];
            world.apply(manager, applied.clone()).unwrap();
            let once = world.live.clone();
            world.apply(manager, applied.clone()).unwrap();
            proptest::prop_assert_eq!(&world.live, &once);
            // All that was applied is there: merging it in again changes nothing.
            let live = once.unwrap();
            proptest::prop_assert_eq!(&combine::merge(world.schema.root(), &live, &applied), &live);
        }
        // Who applies nothing owns nothing; when nobody does, nothing is left.
        let nothing = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}});
        world.apply("one", nothing.clone()).unwrap();
        world.apply("two", nothing).unwrap();
        proptest::prop_assert_eq!(world.owners(), "");
        let spec = world.live.unwrap()["spec"].take();
        proptest::prop_assert!(spec.is_null() || spec == json!({}), "{}", spec);
    }
}
