//! What goes over the wire besides JSON.

use std::io::Read;

use serde_json::{Value, json};

use super::{MAPS, TABLE, cluster, map, revision};
use copepod_protobuf::{MEDIA_TYPE, decode};

const METADATA: &str = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";

/// A list's envelope, put together from the objects that it should hold.
fn list_of(list: &Value) -> Vec<u8> {
    let mut parts = copepod_protobuf::ListParts::new(copepod_protobuf::known("v1", "ConfigMap").unwrap());
    list["items"].as_array().unwrap().iter().for_each(|item| parts.push(item));
    copepod_protobuf::list(parts, &list["metadata"]).concat()
}

#[tokio::test]
async fn objects_lists_and_refusals_are_written_in_protobuf() {
    let (server, http) = cluster().await;
    for name in ["a", "b"] {
        server.memory.write("configmaps", map(name));
    }
    let accept = [("accept", "application/vnd.kubernetes.protobuf,application/json")];
    let own = format!("{MAPS}/a");
    let (parts, body) = http.bytes(&own, &accept).await;
    assert_eq!(parts.headers["content-type"], MEDIA_TYPE);
    assert_eq!(decode(&body).unwrap(), http.get(&own).await.json());

    let (parts, body) = http.bytes(MAPS, &accept).await;
    assert_eq!(parts.headers["content-type"], MEDIA_TYPE);
    assert_eq!(body, list_of(&http.get(MAPS).await.json()));

    let (parts, body) = http.bytes(&format!("{MAPS}/none"), &accept).await;
    let status = decode(&body).unwrap();
    assert_eq!((parts.status.as_u16(), &status["reason"], &status["code"]), (404, &json!("NotFound"), &json!(404)));

    let (_, body) = http.bytes(&own, &[("accept", METADATA)]).await;
    let metadata = decode(&body).unwrap();
    assert_eq!(metadata["kind"], "PartialObjectMetadata");
    assert_eq!((&metadata["metadata"]["name"], metadata.get("data")), (&json!("a"), None));
}

#[tokio::test]
async fn tables_are_not_written_in_protobuf_but_in_what_else_is_taken() {
    let (server, http) = cluster().await;
    server.memory.write("configmaps", map("a"));
    let table = "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io";
    assert_eq!(http.bytes(MAPS, &[("accept", table)]).await.0.status, 406);
    assert_eq!(http.get_as(MAPS, &format!("{table},{TABLE}")).await.json()["kind"], "Table");
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = http.watch_as(&format!("{MAPS}?{query}"), TABLE).await;
    assert_eq!(watch.next_value().await.unwrap()["object"]["rows"][0]["cells"][0], "a");
    let bookmark = watch.next_value().await.unwrap();
    let marked = &bookmark["object"]["rows"][0]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"];
    assert_eq!((&bookmark["type"], marked), (&json!("BOOKMARK"), &json!("true")));
    let review = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let asked = r#"{"spec":{"nonResourceAttributes":{"path":"/","verb":"get"}}}"#;
    let refused = http.send(http::Method::POST, review, &[("accept", TABLE.split(',').next().unwrap())], asked).await;
    assert_eq!(refused.code, 406, "what is not stored has no table");
    assert_eq!(http.send(http::Method::POST, review, &[("accept", TABLE)], asked).await.code, 201);
    assert_eq!(
        http.get_as(MAPS, "application/yaml;q=0.1,application/json;q=0.5").await.json()["kind"],
        "ConfigMapList"
    );
}

#[tokio::test]
async fn a_watch_in_protobuf_is_made_of_frames() {
    let (server, http) = cluster().await;
    server.memory.write("configmaps", map("a"));
    let accept = "application/vnd.kubernetes.protobuf;stream=watch";
    let response = http.open(http::Method::GET, &format!("{MAPS}?watch=1"), &[("accept", accept)], "").await;
    assert_eq!(response.headers()["content-type"], accept);
    let list = http.get(MAPS).await.json();
    let mut watch = http.watch_as(&format!("{MAPS}?watch=1"), accept).await;
    let known = copepod_protobuf::known("v1", "ConfigMap").unwrap();
    let framed = |event: &str, object: &Value| {
        let mut frame = Vec::new();
        copepod_protobuf::frame(&mut frame, event, &known, object);
        frame.split_off(4)
    };
    assert_eq!(watch.next_frame().await, framed("ADDED", &http.get(&format!("{MAPS}/a")).await.json()));
    server.memory.write("configmaps", map("b"));
    assert_eq!(watch.next_frame().await, framed("ADDED", &http.get(&format!("{MAPS}/b")).await.json()));

    server.memory.compact();
    let stale = format!("{MAPS}?watch=1&resourceVersion={}", revision(&list));
    let mut stale = http.watch_as(&stale, accept).await;
    let error = stale.next_frame().await;
    assert!(error.windows(7).any(|bytes| bytes == b"Expired"), "{error:?}");
    let yaml = http.bytes(&format!("{MAPS}?watch=1"), &[("accept", "application/yaml")]).await;
    assert_eq!(yaml.0.status, 406);
}

#[tokio::test]
async fn long_answers_are_compressed_for_those_who_take_it() {
    let (server, http) = cluster().await;
    for index in 0..300 {
        let mut object = map(&format!("m{index}"));
        object["data"]["key"] = json!("x".repeat(2000));
        server.memory.write("configmaps", object);
    }
    let gzip = [("accept-encoding", "br, gzip;q=0.8")];
    let plain = http.get(MAPS).await;
    assert!(!plain.headers.contains_key("content-encoding"));
    let (parts, body) = http.bytes(MAPS, &gzip).await;
    assert_eq!(parts.headers["content-encoding"], "gzip");
    assert_eq!(parts.headers["vary"], "Accept-Encoding");
    let mut unpacked = String::new();
    flate2::read::GzDecoder::new(&body[..]).read_to_string(&mut unpacked).unwrap();
    assert_eq!(unpacked, plain.text);
    assert!(body.len() < plain.text.len() / 5);

    let (_, body) = http.bytes(MAPS, &[("accept-encoding", "gzip"), ("accept", MEDIA_TYPE)]).await;
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut unpacked).unwrap();
    assert_eq!(unpacked, list_of(&plain.json()));

    for (path, headers) in [(&*format!("{MAPS}?limit=2"), gzip), (MAPS, [("accept-encoding", "gzip;q=0, br")])] {
        assert!(!http.bytes(path, &headers).await.0.headers.contains_key("content-encoding"), "{path}");
    }
}

#[tokio::test]
async fn a_watch_that_begins_with_many_objects_shows_each_once() {
    let (server, http) = cluster().await;
    for index in 0..200 {
        let mut object = map(&format!("m{index:03}"));
        object["data"]["key"] = json!("x".repeat(2000));
        server.memory.write("configmaps", object);
    }
    let mut watch = http.watch(&format!("{MAPS}?watch=1&labelSelector=app!=m007&allowWatchBookmarks=true")).await;
    assert_eq!(watch.next().await, "ADDED m000");
    // What happens meanwhile comes afterwards.
    http.send(http::Method::DELETE, &format!("{MAPS}/m199"), &[], "").await;
    for index in (1..200).filter(|index| *index != 7) {
        assert_eq!(watch.next().await, format!("ADDED m{index:03}"));
    }
    assert_eq!((watch.next().await, watch.next().await), ("BOOKMARK".to_owned(), "DELETED m199".to_owned()));
}
