//! Removes what has lost its owner.
//!
//! An owner is known by its uid: an object of the same name that came later is somebody else. An object with several
//! owners lives as long as one of them does. Two finalizers tell what an owner wants before it goes: `foregroundDeletion`,
//! that its dependents go first; `orphan`, that they stay and forget it.

use std::collections::BTreeSet;

use copepod_api::{DeleteOptions, Key, Object, Plan, Resource, Timestamp, User, meta::Owner, request::Propagation};
use copepod_store::{Event, EventKind, View};
use serde_json::{Value, json};

use crate::{Controller, owned, time, write};

pub const CONTROLLER: Controller =
    Controller { name: "garbage-collector", wakes, all, reconcile, refused: crate::SILENT };

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// How many dependents one plan touches.
const BURST: usize = 500;

fn all(view: &View) -> Vec<Key> {
    let resources: Vec<&Resource> = view.resources().collect();
    let objects = resources.into_iter().flat_map(|resource| view.objects(resource, None));
    objects.filter(|object| is_concerned(object)).map(|object| object.key.clone()).collect()
}

fn is_concerned(object: &Object) -> bool {
    !object.meta.owner_references().is_empty() || is_waiting(object) || is_orphaning(object)
}

/// It goes when its dependents are gone.
fn is_waiting(object: &Object) -> bool {
    object.meta.is_leaving() && object.meta.finalizers().iter().any(|finalizer| finalizer == FOREGROUND)
}

/// It goes when its dependents have forgotten it.
fn is_orphaning(object: &Object) -> bool {
    object.meta.is_leaving() && object.meta.finalizers().iter().any(|finalizer| finalizer == ORPHAN)
}

fn wakes(view: &View, event: &Event) -> Vec<Key> {
    let object = &event.object;
    let mut keys = Vec::new();
    match event.kind {
        EventKind::Deleted => {
            keys.extend(view.dependents(&object.meta.uid).map(|dependent| dependent.key.clone()));
        }
        EventKind::Added | EventKind::Modified => {
            // What matters here changes rarely, and pods report often.
            let same = event.previous.as_ref().is_some_and(|previous| {
                previous.meta.owner_references() == object.meta.owner_references()
                    && previous.meta.finalizers() == object.meta.finalizers()
                    && previous.meta.is_leaving() == object.meta.is_leaving()
            });
            if same {
                return keys;
            }
            if is_concerned(object) {
                keys.push(object.key.clone());
            }
            if is_waiting(object) {
                keys.extend(view.dependents(&object.meta.uid).map(|dependent| dependent.key.clone()));
            }
        }
    }
    // An owner may wait for just this dependent.
    for owners in [Some(object), event.previous.as_ref()].into_iter().flatten() {
        let owners = owners.meta.owner_references().iter().filter_map(|owner| find(view, object, owner));
        keys.extend(owners.filter(|owner| is_waiting(owner)).map(|owner| owner.key.clone()));
    }
    keys.sort();
    keys.dedup();
    keys
}

fn reconcile(view: &View, key: &Key, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let Some(object) = view.object(key) else {
        return plan;
    };
    let user = User::system("system:controller:generic-garbage-collector");
    if is_orphaning(object) {
        orphan_dependents(&mut plan, view, &user, object);
    } else if is_waiting(object) {
        await_dependents(&mut plan, view, &user, object);
    } else if !object.meta.owner_references().is_empty() && !object.meta.is_leaving() {
        follow_owners(&mut plan, view, &user, object);
    }
    if plan.requests.len() >= BURST {
        plan.look_again_at(time::whole_seconds(now));
    }
    plan
}

fn orphan_dependents(plan: &mut Plan, view: &View, user: &User, object: &Object) {
    let dependents: Vec<_> = view.dependents(&object.meta.uid).collect();
    for dependent in dependents.iter().take(BURST) {
        plan.push(forget(user, dependent, &[&object.meta.uid]));
    }
    if dependents.len() <= BURST {
        plan.push(drop_finalizer(user, object, ORPHAN));
    }
}

fn await_dependents(plan: &mut Plan, view: &View, user: &User, object: &Object) {
    let blocks = |dependent: &&&std::sync::Arc<Object>| {
        let own = |owner: &&Owner| owner.uid == object.meta.uid;
        dependent.meta.owner_references().iter().find(own).is_some_and(|owner| owner.block_owner_deletion == Some(true))
    };
    let dependents: Vec<_> = view.dependents(&object.meta.uid).collect();
    let blocking = dependents.iter().filter(blocks).filter(|it| !awaits(view, it, &object.meta.uid)).count();
    if blocking == 0 {
        plan.push(drop_finalizer(user, object, FOREGROUND));
    } else {
        plan.because(format!("{blocking} dependents of {} are not gone yet", object.key));
    }
}

/// Whether an object waits, over others that wait, for `uid`: a circle, in which nobody would ever go first.
fn awaits(view: &View, object: &Object, uid: &str) -> bool {
    let mut seen = BTreeSet::new();
    let mut open = vec![object];
    while let Some(next) = open.pop() {
        if next.meta.uid == uid {
            return true;
        }
        if is_waiting(next) && seen.insert(next.meta.uid.as_str()) {
            open.extend(view.dependents(&next.meta.uid).map(|dependent| &**dependent));
        }
    }
    false
}

/// Lives on with a living owner, goes with the last one.
fn follow_owners(plan: &mut Plan, view: &View, user: &User, object: &Object) {
    let mut lost: Vec<&str> = Vec::new();
    let mut is_awaited = false;
    let mut lives = false;
    for owner in object.meta.owner_references() {
        match find(view, object, owner) {
            None => lost.push(&owner.uid),
            Some(found) if is_waiting(found) => {
                lost.push(&owner.uid);
                is_awaited = true;
            }
            Some(_) => lives = true,
        }
    }
    if lost.is_empty() {
        return;
    }
    if lives {
        plan.push(forget(user, object, &lost));
        return;
    }
    // Whoever waits for this object waits for what hangs on it too.
    let has_dependents = view.dependents(&object.meta.uid).next().is_some();
    let asked = |finalizer: &str| object.meta.finalizers().iter().any(|own| own == finalizer);
    let propagation = if is_awaited && has_dependents || asked(FOREGROUND) {
        Propagation::Foreground
    } else if asked(ORPHAN) {
        Propagation::Orphan
    } else {
        Propagation::Background
    };
    let options = DeleteOptions {
        propagation: Some(propagation),
        // If somebody gives it a new owner meanwhile, it stays.
        revision: Some(object.revision),
        ..DeleteOptions::default()
    };
    plan.push(write::delete(user, object, options));
}

/// The owner that a reference means. The uid alone decides; the rest of the reference says where to look.
fn find<'a>(view: &'a View, dependent: &Object, owner: &Owner) -> Option<&'a std::sync::Arc<Object>> {
    let group = owner.api_version.rsplit_once('/').map_or("", |(group, _)| group);
    let namespace = dependent.key.namespace();
    let resources: Vec<&Resource> = view.resources().filter(|resource| resource.group == group).collect();
    let at = |namespace: &str| {
        let objects =
            resources.iter().filter_map(|r| view.object(&Key::new((*r).clone(), namespace, owner.name.as_str())));
        objects.into_iter().find(|object| object.meta.uid == owner.uid)
    };
    at(namespace).or_else(|| at("")).or_else(|| {
        // An owner in a namespace cannot be named from outside of all; but removing for that would be rash.
        let anywhere = |resource: &&Resource| view.objects(resource, None).find(|object| object.meta.uid == owner.uid);
        if namespace.is_empty() { resources.iter().find_map(anywhere) } else { None }
    })
}

fn forget(user: &User, object: &Object, uids: &[&str]) -> copepod_api::Request {
    let mut owners: Vec<Value> = owned::references(object);
    owners.retain(|owner| !uids.iter().any(|uid| owner["uid"] == **uid));
    write::patch(user, object, json!({"metadata": {"ownerReferences": owners}}))
}

fn drop_finalizer(user: &User, object: &Object, finalizer: &str) -> copepod_api::Request {
    let finalizers: Vec<&String> = object.meta.finalizers().iter().filter(|own| *own != finalizer).collect();
    write::patch(user, object, json!({"metadata": {"finalizers": finalizers}}))
}

#[cfg(test)]
mod tests {
    use crate::world::World;
    use insta::assert_snapshot;

    fn plan(fixture: &str, key: &str) -> String {
        let world = World::read(fixture);
        world.print(&world.plan(&super::CONTROLLER, key))
    }

    #[test]
    fn a_dependent_goes_with_its_owner() {
        let mut world = World::read("configmap a | configmap b owner=configmaps/a");
        assert_eq!(world.print(&world.plan(&super::CONTROLLER, "configmaps default/b")), "");
        world.delete("configmaps default/a");
        assert_snapshot!(world.print(&world.plan(&super::CONTROLLER, "configmaps default/b")), @"delete configmap b Background");
    }

    #[test]
    fn an_owner_of_the_same_name_is_somebody_else() {
        let mut world = World::read("configmap a | configmap b owner=configmaps/a");
        world.delete("configmaps default/a");
        world.add("configmap a");
        assert_snapshot!(world.print(&world.plan(&super::CONTROLLER, "configmaps default/b")), @"delete configmap b Background");
    }

    #[test]
    fn foreground_owners_wait_for_blocking_dependents() {
        let mut world = World::read(
            "configmap a leaving finalizer=foregroundDeletion | configmap b owner=configmaps/a | configmap c owner=configmaps/b",
        );
        assert_snapshot!(world.print(&world.plan(&super::CONTROLLER, "configmaps default/a")), @"because 1 dependents of configmaps default/a are not gone yet");
        assert_snapshot!(world.print(&world.plan(&super::CONTROLLER, "configmaps default/b")), @"delete configmap b Foreground");
        world.settle();
        assert_snapshot!(world.summary_of("configmaps"), @"");
    }

    #[test]
    fn a_circle_of_owners_does_not_hold_itself() {
        let mut world = World::read(
            "configmap a | configmap b owner=configmaps/a | configmap c owner=configmaps/b | configmap d owner=configmaps/c",
        );
        let last = world.value(&world.key("configmaps default/c"));
        world.edit("configmaps default/a", |object| {
            object["metadata"]["ownerReferences"] = serde_json::json!([{
                "apiVersion": "v1", "kind": "ConfigMap", "name": "c", "uid": last["metadata"]["uid"],
                "blockOwnerDeletion": true,
            }]);
            object["metadata"]["finalizers"] = serde_json::json!(["foregroundDeletion"]);
            object["metadata"]["deletionTimestamp"] = serde_json::json!("2001-09-09T01:46:40Z");
        });
        world.settle();
        assert_eq!(world.summary_of("configmaps"), "");
    }

    #[test]
    fn orphans_forget_their_owner() {
        assert_snapshot!(
            plan("configmap a leaving finalizer=orphan | configmap b owner=configmaps/a", "configmaps default/a"), @r"
            patch configmap b {metadata:{ownerReferences:[]}}
            patch configmap a {metadata:{finalizers:[]}}
        ");
    }
}
