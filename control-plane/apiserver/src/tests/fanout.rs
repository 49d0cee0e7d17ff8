//! What is read is what is stored, and what is written for one watcher is sent to all.

use std::sync::Arc;

use axum::{Router, body::Body as HttpBody};
use bytes::Bytes;
use copepod_api::{Body, Key, User, resource::CONFIG_MAPS};
use copepod_registry::{Catalog, Row};
use copepod_store::Door;
use http::{Request, header::ACCEPT};
use http_body_util::BodyExt;
use serde_json::json;
use tower::ServiceExt;

use super::{
    MAPS, TABLE,
    memory::{Echo, Memory, MemoryDoor},
};
use crate::{
    Config,
    fanout::Fanout,
    front::{Front, router},
};

const WATCHERS: usize = 1_000;
const METADATA: &str = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

struct World {
    memory: Arc<Memory>,
    router: Router,
    row: Arc<Row>,
    /// What the watchers of config maps share.
    fanout: Arc<Fanout>,
}

impl World {
    fn new() -> World {
        let memory = Memory::new();
        let door = MemoryDoor(memory.clone());
        let row = Catalog::of(&door.view()).row(&CONFIG_MAPS, "v1").unwrap().clone();
        let front = Front::new(Arc::new(door), Arc::new(Echo), Config { forwarder: None });
        let fanout = front.fanouts.of(&row);
        World { memory, router: router(front), row, fanout }
    }

    async fn ask(&self, path: &str, accept: &str) -> HttpBody {
        let mut request = Request::get(path).header(ACCEPT, accept).body(HttpBody::empty()).unwrap();
        request.extensions_mut().insert(User::system("admin"));
        let response = self.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        response.into_body()
    }

    async fn text(&self, path: &str, accept: &str) -> String {
        String::from_utf8(self.ask(path, accept).await.collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    async fn watchers(&self, n: usize, accept: &str) -> Vec<HttpBody> {
        let view = MemoryDoor(self.memory.clone()).view();
        let path = format!("{MAPS}?watch=true&resourceVersion={}", view.revision());
        let mut watchers = Vec::new();
        for _ in 0..n {
            watchers.push(self.ask(&path, accept).await);
        }
        watchers
    }

    /// A body that no encoder would write like this.
    fn store_oddly(&self, name: &str) -> (String, String) {
        let before =
            format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{ "name" : "{name}" , "resourceVersion":""#);
        let after = r#"" },  "data":{"z":"1","a":"\u0041"} }"#;
        let gap = before.len() as u32;
        let body = Body { bytes: format!("{before}{after}").into(), gap };
        self.memory.store(Key::new(CONFIG_MAPS, "default", name), body);
        (before, after.to_owned())
    }
}

async fn next(watcher: &mut HttpBody) -> Bytes {
    watcher.frame().await.unwrap().unwrap().into_data().unwrap()
}

#[tokio::test]
async fn what_is_read_is_what_is_stored_byte_for_byte() {
    let world = World::new();
    let mut watcher = world.watchers(1, "application/json").await.remove(0);
    let (before, after) = world.store_oddly("odd");
    let stored =
        MemoryDoor(world.memory.clone()).view().object(&Key::new(CONFIG_MAPS, "default", "odd")).unwrap().bytes();
    let stored = std::str::from_utf8(&stored).unwrap();
    assert!(stored.starts_with(&before) && stored.ends_with(&after));

    assert_eq!(world.text(&format!("{MAPS}/odd"), "application/json").await, stored);
    assert_eq!(next(&mut watcher).await, format!("{{\"type\":\"ADDED\",\"object\":{stored}}}\n"));
    let path = format!("{MAPS}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan");
    assert_eq!(
        next(&mut world.ask(&path, "application/json").await).await,
        format!("{{\"type\":\"ADDED\",\"object\":{stored}}}\n")
    );
    assert!(world.text(MAPS, "application/json").await.ends_with(&format!("\"items\":[{stored}]}}")));
    let table = world.text(&format!("{MAPS}?includeObject=Object"), TABLE).await;
    assert!(table.contains(stored), "{table}");
    let metadata = &stored[stored.find(r#"{ "name""#).unwrap()..stored.find("}, ").unwrap() + 1];
    for shown in
        [world.text(MAPS, &METADATA.replace("Metadata;", "MetadataList;")).await, world.text(MAPS, TABLE).await]
    {
        assert!(shown.contains(metadata), "{shown}");
    }
}

#[tokio::test]
async fn a_thousand_watchers_of_an_object_cost_one_writing_of_its_event() {
    let world = World::new();
    for accept in ["application/json", METADATA, PROTOBUF] {
        let mut watchers = world.watchers(WATCHERS, accept).await;
        let before = world.fanout.n_written();
        world.store_oddly("watched");
        let first = next(&mut watchers[0]).await;
        for watcher in &mut watchers[1..] {
            assert_eq!(next(watcher).await.as_ptr(), first.as_ptr(), "the same bytes, not equal ones");
        }
        assert_eq!(world.fanout.n_written() - before, 1, "{accept}");
    }
}

#[tokio::test]
async fn tables_are_shared_too_as_long_as_ages_are_the_same() {
    let world = World::new();
    let mut watchers = world.watchers(100, TABLE).await;
    for name in ["a", "b"] {
        world.store_oddly(name);
        let before = world.fanout.n_written();
        for watcher in &mut watchers {
            next(watcher).await;
        }
        // Ages are told by the second, and one may begin meanwhile.
        assert!((1..=2).contains(&(world.fanout.n_written() - before)));
    }
}

#[tokio::test]
async fn watchers_share_many_events_and_what_they_share_ends_with_them() {
    let world = World::new();
    let mut watchers = world.watchers(20, "application/json").await;
    let names: Vec<String> = (0..100).map(|number| format!("m{number:02}")).collect();
    names.iter().for_each(|name| drop(world.memory.write("configmaps", json!({"metadata": {"name": name}}))));
    for watcher in &mut watchers {
        let text = String::from_utf8(next(watcher).await.to_vec()).unwrap();
        assert_eq!(text.lines().count(), names.len());
        assert!(text.lines().zip(&names).all(|(line, name)| line.contains(&**name)));
    }
    assert_eq!(world.fanout.n_written(), names.len());
    drop(watchers);
    assert_eq!(Arc::strong_count(&world.fanout), 1);
    assert!(Arc::strong_count(&world.row) > 1);
}
