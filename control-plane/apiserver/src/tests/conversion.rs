//! Kinds whose versions a webhook converts: from a program that knows both to what clients see.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::{client::Http, cluster, webhooks::program};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const FIRST: &str = "/apis/example.com/v1/namespaces/default/routes";
const SECOND: &str = "/apis/example.com/v2/namespaces/default/routes";

/// `v1` has an address, and `v2` a host and a port.
fn convert(request: &Value) -> Value {
    let objects = request["objects"].as_array().unwrap().iter().map(|object| {
        let mut new = object.clone();
        new["apiVersion"] = request["desiredAPIVersion"].clone();
        if new["apiVersion"] == "example.com/v2" {
            let address = object["spec"]["address"].as_str().unwrap();
            let (host, port) = address.split_once(':').unwrap();
            new["spec"] = json!({"host": host, "port": port, "unknown": true});
        } else {
            let text = |field: &str| object["spec"][field].as_str().unwrap();
            new["spec"] = json!({"address": format!("{}:{}", text("host"), text("port"))});
        }
        new
    });
    json!({"result": {"status": "Success"}, "convertedObjects": objects.collect::<Vec<_>>()})
}

fn definition(client: &Value) -> Value {
    let version = |name: &str, is_stored: bool, fields: &[&str]| {
        let fields: serde_json::Map<_, _> =
            fields.iter().map(|field| ((*field).to_owned(), json!({"type": "string"}))).collect();
        json!({
            "name": name, "served": true, "storage": is_stored,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "properties": fields}}}},
        })
    };
    let mut second = version("v2", false, &["host", "port"]);
    second["selectableFields"] = json!([{"jsonPath": ".spec.port"}]);
    second["additionalPrinterColumns"] = json!([{"name": "Host", "type": "string", "jsonPath": ".spec.host"}]);
    json!({"metadata": {"name": "routes.example.com"}, "spec": {
        "group": "example.com", "scope": "Namespaced", "names": {"plural": "routes", "kind": "Route"},
        "versions": [version("v1", true, &["address"]), second],
        "conversion": {"strategy": "Webhook", "webhook": {
            "clientConfig": client, "conversionReviewVersions": ["v1"]}},
    }})
}

fn route(name: &str, address: &str) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Route", "metadata": {"name": name}, "spec": {"address": address}})
}

async fn make(http: &Http, path: &str, object: &Value) -> Value {
    let made = http.post(path, object).await;
    assert_eq!(made.code, 201, "{}", made.text);
    made.json()
}

#[tokio::test]
async fn clients_of_each_version_see_and_write_the_same_objects() {
    let (_server, http) = cluster().await;
    make(&http, DEFINITIONS, &definition(&program(convert).await)).await;
    make(&http, FIRST, &route("a", "x:80")).await;
    let second = json!({"metadata": {"name": "b"}, "spec": {"host": "y", "port": "81"}});
    let made = make(&http, SECOND, &second).await;
    assert_eq!((&made["apiVersion"], &made["spec"]), (&json!("example.com/v2"), &json!({"host": "y", "port": "81"})));
    assert_eq!(http.get(&format!("{FIRST}/b")).await.json()["spec"], json!({"address": "y:81"}));
    let shown = http.get(&format!("{SECOND}/a")).await.json();
    assert_eq!(shown["spec"], json!({"host": "x", "port": "80"}), "what the schema does not know is not shown");
    assert_eq!(
        shown["metadata"]["resourceVersion"],
        http.get(&format!("{FIRST}/a")).await.json()["metadata"]["resourceVersion"]
    );

    let patched =
        http.patch(&format!("{SECOND}/a"), "application/merge-patch+json", &json!({"spec": {"port": "90"}})).await;
    assert_eq!(patched.code, 200, "{}", patched.text);
    assert_eq!(http.get(&format!("{FIRST}/a")).await.json()["spec"], json!({"address": "x:90"}));
    let gone = http.send(http::Method::DELETE, &format!("{SECOND}/a"), &[], "").await;
    assert_eq!(gone.code, 200, "{}", gone.text);
}

#[tokio::test]
async fn lists_select_and_show_what_was_converted() {
    let (_server, http) = cluster().await;
    make(&http, DEFINITIONS, &definition(&program(convert).await)).await;
    for (name, address) in [("a", "x:80"), ("b", "y:81"), ("c", "z:80"), ("d", "w:80")] {
        make(&http, FIRST, &route(name, address)).await;
    }
    let list = http.get(SECOND).await;
    assert_eq!(list.json()["items"][1]["spec"], json!({"host": "y", "port": "81"}));
    assert_eq!(http.get(&format!("{SECOND}?fieldSelector=spec.port=80")).await.names(), ["a", "c", "d"]);
    let page = http.get(&format!("{SECOND}?fieldSelector=spec.port=80&limit=2")).await;
    assert_eq!(page.names(), ["a", "c"]);
    let token = page.json()["metadata"]["continue"].as_str().unwrap().to_owned();
    let rest = http.get(&format!("{SECOND}?fieldSelector=spec.port=80&limit=2&continue={token}")).await;
    assert_eq!(rest.names(), ["d"]);
    let table = http.get_as(SECOND, "application/json;as=Table;v=v1;g=meta.k8s.io").await.json();
    assert_eq!(table["rows"][2]["cells"], json!(["c", "z"]));
    let gone = http.send(http::Method::DELETE, &format!("{SECOND}?fieldSelector=spec.port=80"), &[], "").await;
    assert_eq!(gone.code, 200, "{}", gone.text);
    assert_eq!(http.get(FIRST).await.names(), ["b"]);
}

#[tokio::test]
async fn watchers_of_one_change_cost_one_question() {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let (_server, http) = cluster().await;
    let counting = |request: &Value| {
        ASKED.fetch_add(1, Ordering::SeqCst);
        convert(request)
    };
    make(&http, DEFINITIONS, &definition(&program(counting).await)).await;
    make(&http, FIRST, &route("a", "x:80")).await;
    let mut watchers = Vec::new();
    for _ in 0..8 {
        watchers.push(http.watch(&format!("{SECOND}?watch=true")).await);
    }
    for watcher in &mut watchers {
        assert_eq!(watcher.next_value().await.unwrap()["object"]["spec"]["host"], "x");
    }
    make(&http, FIRST, &route("b", "y:81")).await;
    for watcher in &mut watchers {
        let event = watcher.next_value().await.unwrap();
        assert_eq!((&event["type"], &event["object"]["spec"]["host"]), (&json!("ADDED"), &json!("y")));
        assert_eq!(event["object"]["apiVersion"], "example.com/v2");
    }
    assert_eq!(ASKED.load(Ordering::SeqCst), 2, "one question an object");
}

#[tokio::test]
async fn what_the_program_cannot_convert_is_refused_with_its_words() {
    let (_server, http) = cluster().await;
    let refuse = program(|_| json!({"result": {"status": "Failed", "message": "no such address"}})).await;
    make(&http, DEFINITIONS, &definition(&refuse)).await;
    make(&http, FIRST, &route("a", "x:80")).await;
    let words = "500 InternalError: Internal error occurred: conversion webhook for example.com/v1, Kind=Route failed: no such address";
    assert_eq!(http.get(&format!("{SECOND}/a")).await.refusal(), words);
    assert_eq!(http.get(SECOND).await.refusal(), words);
    let second =
        json!({"apiVersion": "example.com/v2", "kind": "Route", "metadata": {"name": "b"}, "spec": {"host": "y"}});
    let refused = http.post(SECOND, &second).await.refusal();
    assert!(refused.contains("conversion webhook for example.com/v2, Kind=Route failed: no such address"), "{refused}");
    assert_eq!(http.get(FIRST).await.names(), ["a"], "nothing of it is stored");
    let mut watcher = http.watch(&format!("{SECOND}?watch=true")).await;
    let event = watcher.next_value().await.unwrap();
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(500)));
}
