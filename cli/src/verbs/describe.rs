//! `copepod describe`: one object in words: what it is, how it is, and what happened to it.

use clap::Args;
use copepod_api::decode;
use serde_json::Value;

use super::resource::{self, encode, items};
use crate::{
    client::{Client, refused},
    failure::{Failure, Outcome},
};

#[derive(Args)]
pub struct Describe {
    /// TYPE/NAME, or a type and names
    #[arg(required = true)]
    what: Vec<String>,
}

pub async fn run(describe: Describe, client: &Client, namespace: Option<&str>) -> Outcome {
    let scope = namespace.unwrap_or(client.namespace());
    for (place, (kind, name)) in resource::parse(&describe.what)?.into_iter().enumerate() {
        resource::check_scope(kind, namespace)?;
        let name = name.ok_or_else(|| {
            Failure::new(format!("which of the {}?", kind.plural))
                .hint(format!("`copepod get {}` lists them", kind.plural))
        })?;
        if place > 0 {
            println!();
        }
        let path = resource::path(kind, scope, &name);
        let object = client.get(&path).await?.map_err(|status| refused(&status))?;
        print(&object);
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
        events(client, object["metadata"]["namespace"].as_str(), uid, &name).await?;
    }
    Ok(())
}

fn print(object: &Value) {
    let mut object = object.clone();
    let mut meta = object["metadata"].take();
    if let Some(meta) = meta.as_object_mut() {
        meta.remove("managedFields");
        meta.remove("resourceVersion");
    }
    let conditions = object.pointer_mut("/status/conditions").map(Value::take).unwrap_or_default();
    println!("{} {}", text(&object["kind"]), text(&meta["name"]));
    let is_secret = text(&object["kind"]) == "Secret";
    let mut shown = serde_json::Map::new();
    shown.insert("metadata".to_owned(), meta);
    if let Some(fields) = object.as_object_mut() {
        for (field, mut value) in std::mem::take(fields) {
            if matches!(field.as_str(), "kind" | "apiVersion" | "metadata") {
                continue;
            }
            if let Some(status) = value.as_object_mut().filter(|_| field == "status") {
                status.remove("conditions");
            }
            // The values of secrets are not for the eyes of whoever looks over a shoulder.
            if is_secret && field == "data" {
                continue;
            }
            shown.insert(field, value);
        }
    }
    for line in decode::to_yaml(&Value::Object(shown)).lines() {
        println!("  {line}");
    }
    if let Some(conditions) = conditions.as_array().filter(|list| !list.is_empty()) {
        println!("Conditions:");
        for condition in conditions {
            let reason = text(&condition["reason"]);
            let message = text(&condition["message"]);
            println!("  {:<24} {:<8} {reason}  {message}", text(&condition["type"]), text(&condition["status"]));
        }
    }
}

async fn events(client: &Client, namespace: Option<&str>, uid: &str, name: &str) -> Outcome {
    let selector = encode(&format!("involvedObject.uid={uid},involvedObject.name={name}"));
    let path = match namespace {
        Some(namespace) => format!("/api/v1/namespaces/{namespace}/events?fieldSelector={selector}"),
        None => format!("/api/v1/events?fieldSelector={selector}"),
    };
    let mut events = items(client, &path).await?;
    if events.is_empty() {
        println!("Events: none");
        return Ok(());
    }
    events.sort_by_key(|event| text(&event["lastTimestamp"]).to_owned());
    println!("Events:");
    for event in events {
        let count =
            event["count"].as_u64().filter(|count| *count > 1).map_or(String::new(), |count| format!(" (x{count})"));
        println!(
            "  {}  {:<8} {:<20} {}{count}",
            text(&event["lastTimestamp"]),
            text(&event["type"]),
            text(&event["reason"]),
            text(&event["message"])
        );
    }
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
