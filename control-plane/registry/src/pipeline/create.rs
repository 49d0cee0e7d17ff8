//! A new object.

use std::sync::Arc;

use copepod_api::{Object, Reply, Request, Status, StatusResult, resource, time};
use serde_json::Value;

use super::{World, check, managed, node_restriction, update::Tracking};
use crate::{
    Row,
    admission::{self, Write},
    asking::{self, Attempt, Operation},
    json,
    json::text,
};

/// How often a generated name is drawn again when it is taken. With five letters of 27, eight collisions in a row do not
/// happen before a namespace holds millions of objects.
const NAME_DRAWS_MAX: usize = 8;

/// Letters that make no words and are not mistaken for each other.
const NAME_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const NAME_SUFFIX: usize = 5;

/// The longest generated name is a DNS label, because pods' names become host names.
const GENERATED_NAME_MAX: usize = 63;

pub fn create(world: &mut World<'_>, row: &Row, request: &Request, sent: &Value) -> StatusResult<Reply> {
    let object = create_object(world, row, request, sent)?;
    Ok(world.reply(object, true))
}

/// Creates an object; also for objects that come into being together with another.
pub(crate) fn create_object(
    world: &mut World<'_>,
    row: &Row,
    request: &Request,
    sent: &Value,
) -> StatusResult<Arc<Object>> {
    let object = check::admit(world, row, request, sent)?;
    create_admitted(world, row, request, object, Tracking::Update)
}

/// Creates an object whose fields are known to be its kind's.
pub fn create_admitted(
    world: &mut World<'_>,
    row: &Row,
    request: &Request,
    mut object: Value,
    tracking: Tracking,
) -> StatusResult<Arc<Object>> {
    if text(&object, "/metadata/resourceVersion").is_some() {
        return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
    }
    if row.is_closing() {
        let why = "create not allowed while custom resource definition is terminating";
        return Err(Status::method_not_allowed(why));
    }
    open_namespace(world, row, request, &object)?;
    row.fill(&mut object);
    let write = Write { row, request, old: None };
    admission::complete(world, &write, &mut object)?;
    row.fill(&mut object);
    let attempt = Attempt { operation: Operation::Create, ..Attempt::of(row, request, None) };
    if asking::mutate(world, &attempt, &mut object)? {
        // What somebody put in gets what the cluster says of it, too: the limits and the token of a container.
        admission::complete(world, &write, &mut object)?;
    }
    begin(world, row, &mut object)?;
    (row.hooks.stamp)(world, request, &mut object);
    row.fill(&mut object);
    (row.hooks.guard)(world, request, &object, None)?;
    node_restriction::check(row, request, Some(&object), None)?;
    (row.hooks.admit)(world, &mut object)?;
    check::validate(row, &object, None, None)?;
    admission::judge(world, &write, &object)?;
    asking::validate(world, &attempt, &object)?;
    admission::charge(world, &write, &object)?;
    if matches!(tracking, Tracking::Update) {
        managed::track(world, row, request, None, &mut object);
    }

    let name = text(&object, "/metadata/name").unwrap_or_default();
    let stored = world.create(row, &request.target.namespace, name, &object)?;
    (row.hooks.created)(world, &stored)?;
    Ok(stored)
}

/// The namespace exists and takes new objects.
fn open_namespace(world: &World<'_>, row: &Row, request: &Request, object: &Value) -> StatusResult<()> {
    if !row.kind.is_namespaced() {
        return Ok(());
    }
    let namespace = &request.target.namespace;
    let Some(found) = world.get(&resource::NAMESPACES, "", namespace) else {
        return Err(Status::not_found(&resource::NAMESPACES, namespace));
    };
    if found.meta.is_leaving() {
        let name = text(object, "/metadata/name").unwrap_or_default();
        let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
        return Err(Status::forbidden(&row.kind.resource(), name, why).with_cause(
            "NamespaceTerminating",
            "metadata.namespace",
            format!("namespace {namespace} is being terminated"),
        ));
    }
    Ok(())
}

/// What the system says about a new object, whatever the client said.
fn begin(world: &mut World<'_>, row: &Row, object: &mut Value) -> StatusResult<()> {
    if row.has_status() && !row.hooks.keeps_status {
        match row.is_custom() {
            true => json::remove(object, "status"),
            // Nothing has happened yet; clients read the fields of a status without asking whether there is one.
            false => json::set(object, "status", serde_json::json!({})),
        }
    }
    let (high, low) = (world.random(), world.random());
    let now = time::rfc3339(world.now);
    let name = match (text(object, "/metadata/name"), text(object, "/metadata/generateName")) {
        (None, Some(base)) => Some(draw_name(world, row, object, base)?),
        _ => None,
    };
    let Some(metadata) = json::object(object, "metadata") else { return Ok(()) };
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation", "resourceVersion"] {
        json::remove(metadata, field);
    }
    json::set(metadata, "uid", uuid(high, low));
    json::set(metadata, "creationTimestamp", now);
    if row.hooks.generation {
        json::set(metadata, "generation", 1);
    }
    if let Some(name) = name {
        json::set(metadata, "name", name);
    }
    Ok(())
}

fn draw_name(world: &mut World<'_>, row: &Row, object: &Value, base: &str) -> StatusResult<String> {
    let namespace = text(object, "/metadata/namespace").unwrap_or_default();
    let kept = base.chars().take(GENERATED_NAME_MAX - NAME_SUFFIX).collect::<String>();
    let mut name = String::new();
    for _ in 0..NAME_DRAWS_MAX {
        name = format!("{kept}{}", random_suffix(world));
        if world.get(&row.resource(), namespace, &name).is_none() {
            return Ok(name);
        }
    }
    Err(Status::already_exists(&row.kind.resource(), &name))
}

pub(crate) fn random_suffix(world: &mut World<'_>) -> String {
    let mut number = world.random();
    (0..NAME_SUFFIX)
        .map(|_| {
            let letter = NAME_LETTERS[(number % NAME_LETTERS.len() as u64) as usize];
            number /= NAME_LETTERS.len() as u64;
            char::from(letter)
        })
        .collect()
}

/// A random UUID (RFC 9562, version 4).
fn uuid(high: u64, low: u64) -> String {
    let high = (high & !0xf000) | 0x4000;
    let low = (low & !(0b11 << 62)) | (0b10 << 62);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
}
