//! Real clients against a cluster in memory, over loopback.

mod access;
mod aggregation;
mod client;
mod conversion;
mod fanout;
mod hostile;
mod kubectl;
mod memory;
mod probes;
mod properties;
mod tokens;
mod webhooks;
mod wire;

use std::sync::atomic::Ordering;

use copepod_store::Leader;
use http::Method;
use serde_json::{Value, json};

use client::{As, Http, Server};
use memory::Memory;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const MERGE: &str = "application/merge-patch+json";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

fn map(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": name}}, "data": {"key": "value"}})
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "web"}]}})
}

fn revision(object: &Value) -> String {
    object["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
}

async fn cluster() -> (Server, Http) {
    let server = Server::start().await;
    let http = server.client(As::Admin);
    (server, http)
}

#[tokio::test]
async fn an_object_is_created_read_changed_and_deleted() {
    let (_server, http) = cluster().await;
    let created = http.post(MAPS, &map("a")).await;
    assert_eq!((created.code, &created.json()["metadata"]["name"]), (201, &json!("a")));
    assert_eq!(http.post(MAPS, &map("a")).await.refusal(), r#"409 AlreadyExists: configmaps "a" already exists"#);

    let own = format!("{MAPS}/a");
    assert_eq!(http.get(&own).await.text, created.text);
    let patched = http.patch(&own, MERGE, &json!({"data": {"key": "other"}})).await;
    assert_eq!((patched.code, &patched.json()["data"]["key"]), (200, &json!("other")));
    let stale = http.send(Method::PUT, &own, &[], &created.text).await;
    assert_eq!(stale.json()["reason"], "Conflict");
    let pointer = json!([{"op": "add", "path": "/data/more", "value": "1"}]);
    assert_eq!(http.patch(&own, "application/json-patch+json", &pointer).await.json()["data"]["more"], "1");
    let strategic = json!({"metadata": {"labels": {"x": "y"}}});
    let strategic = http.patch(&own, "application/strategic-merge-patch+json", &strategic).await;
    assert_eq!(strategic.json()["metadata"]["labels"], json!({"app": "a", "x": "y"}));

    let options = json!({"preconditions": {"uid": "another"}}).to_string();
    assert_eq!(http.send(Method::DELETE, &own, &[], &options).await.code, 409);
    assert_eq!(http.send(Method::DELETE, &own, &[], "").await.json()["status"], "Success");
    assert_eq!(http.get(&own).await.refusal(), r#"404 NotFound: configmaps "a" not found"#);
}

#[tokio::test]
async fn applying_creates_and_warns_and_takes_yaml() {
    let (_server, http) = cluster().await;
    let yaml = "data: {key: one}\ndatum: 1\n";
    let headers = [("content-type", "application/apply-patch+yaml")];
    let path = format!("{MAPS}/a?fieldManager=me");
    let applied = http.send(Method::PATCH, &path, &headers, yaml).await;
    assert_eq!(applied.code, 201, "{}", applied.text);
    assert_eq!(applied.headers["warning"], r#"299 - "unknown field \"datum\"""#);
    assert_eq!(applied.json()["metadata"]["managedFields"][0]["manager"], "me");
    let strict = http.send(Method::PATCH, &format!("{path}&fieldValidation=Strict"), &headers, yaml).await;
    let undeclared =
        "failed to create typed patch object (default/a; v1, Kind=ConfigMap): .datum: field not declared in schema";
    assert!(strict.refusal().contains(undeclared), "{}", strict.text);
    let twice = r#"{"metadata":{"name":"b"},"datum":1,"data":{},"data":{}}"#;
    let strict = http.send(Method::POST, &format!("{MAPS}?fieldValidation=Strict"), &[], twice).await;
    assert!(strict.refusal().ends_with(r#"error: unknown field "datum", duplicate field "data""#), "{}", strict.text);
    let strict =
        http.send(Method::PATCH, &format!("{path}&fieldValidation=Strict"), &headers, "data:\n  k: v\n  k: w").await;
    assert!(strict.refusal().ends_with(r#"line 3: key "k" already set in map"#), "{}", strict.text);
    let dry = http.post(&format!("{MAPS}?dryRun=All"), &map("c")).await;
    assert_eq!((dry.code, http.get(&format!("{MAPS}/c")).await.code), (201, 404));
}

#[tokio::test]
async fn lists_are_selected() {
    let (server, http) = cluster().await;
    for name in ["a", "b", "c"] {
        server.memory.write("configmaps", map(name));
    }
    let names = async |query: &str| http.get(&format!("{MAPS}?{query}")).await.names();
    assert_eq!(names("labelSelector=app+in+(a,c)").await, ["a", "c"]);
    assert_eq!(names("fieldSelector=metadata.name%3Db").await, ["b"]);
    assert_eq!(names("fieldSelector=metadata.name!=b").await, ["a", "c"]);
    assert_eq!(http.get("/api/v1/configmaps?labelSelector=app%3Da").await.names(), ["a"]);
    let refusal = http.get(&format!("{MAPS}?fieldSelector=data.key%3Dx")).await.refusal();
    assert!(refusal.starts_with("400 BadRequest: field label not supported: data.key"), "{refusal}");
}

#[tokio::test]
async fn all_pages_of_a_list_show_one_moment() {
    let (server, http) = cluster().await;
    for name in ["a", "b", "c", "d"] {
        server.memory.write("configmaps", map(name));
    }
    let first = http.get(&format!("{MAPS}?limit=2")).await;
    let list = first.json();
    assert_eq!((first.names(), &list["metadata"]["remainingItemCount"]), (vec!["a".into(), "b".into()], &json!(2)));

    server.memory.write("configmaps", map("bb"));
    http.send(Method::DELETE, &format!("{MAPS}/c"), &[], "").await;
    http.patch(&format!("{MAPS}/d"), MERGE, &json!({"data": {"key": "changed"}})).await;
    let next = format!("{MAPS}?limit=2&continue={}", list["metadata"]["continue"].as_str().unwrap());
    let second = http.get(&next).await;
    assert_eq!(second.names(), ["c", "d"]);
    assert_eq!(second.json()["items"][1]["data"]["key"], "value");
    assert_eq!(revision(&second.json()), revision(&list));
    assert!(second.json()["metadata"].get("continue").is_none());
    let exact = format!("{MAPS}?resourceVersion={}&resourceVersionMatch=Exact", revision(&list));
    assert_eq!(http.get(&exact).await.names(), ["a", "b", "c", "d"]);
    assert_eq!(http.get(MAPS).await.names(), ["a", "b", "bb", "d"]);

    let one = format!("{MAPS}?limit=1&resourceVersion={}&resourceVersionMatch=Exact", revision(&list));
    let one = http.get(&one).await.json();
    assert_eq!(one["metadata"]["remainingItemCount"], 3, "the one that has come since is not one, the one gone is");
    let one = format!("{MAPS}?limit=1&continue={}", one["metadata"]["continue"].as_str().unwrap());
    let one = http.get(&one).await;
    assert_eq!((one.names(), &one.json()["metadata"]["remainingItemCount"]), (vec!["b".into()], &json!(2)));

    server.memory.compact();
    let expired = http.get(&next).await;
    assert!(expired.refusal().starts_with("410 Expired"));
    let rest = expired.json()["metadata"]["continue"].as_str().unwrap().to_owned();
    let rest = http.get(&format!("{MAPS}?limit=1&continue={rest}")).await;
    assert_eq!(rest.names(), ["bb"], "what is there now");
    assert_ne!(revision(&rest.json()), revision(&list));
    assert!(rest.json()["metadata"].get("remainingItemCount").is_none(), "nobody has counted");
    let rest = rest.json()["metadata"]["continue"].as_str().unwrap().to_owned();
    assert_eq!(http.get(&format!("{MAPS}?continue={rest}")).await.names(), ["d"]);
    assert_eq!(http.get(&format!("{MAPS}?continue=nonsense")).await.code, 400);
}

#[tokio::test]
async fn a_large_list_comes_in_pieces_and_whole() {
    let (server, http) = cluster().await;
    for index in 0..300 {
        let mut object = map(&format!("m{index}"));
        object["data"]["key"] = json!("x".repeat(2000));
        server.memory.write("configmaps", object);
    }
    assert_eq!(http.get(MAPS).await.names().len(), 300);
    let metadata = http.get_as(MAPS, "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io").await;
    assert_eq!((metadata.names().len(), &metadata.json()["kind"]), (300, &json!("PartialObjectMetadataList")));
    assert!(metadata.json()["items"][0].get("data").is_none());
    assert_eq!(http.get_as(MAPS, TABLE).await.json()["rows"].as_array().unwrap().len(), 300);
}

#[tokio::test]
async fn a_watch_shows_what_begins_and_ceases_to_match() {
    for protocol in [&b"h2"[..], b"http/1.1"] {
        let server = Server::start().await;
        let http = server.client_with(As::Admin, &[protocol]);
        server.memory.write("configmaps", map("a"));
        let mut watch = http.watch(&format!("{MAPS}?watch=true&labelSelector=app")).await;
        assert_eq!(watch.next().await, "ADDED a");
        server.memory.write("configmaps", map("b"));
        assert_eq!(watch.next().await, "ADDED b");
        let label = |value: Value| json!({"metadata": {"labels": {"app": value}}});
        http.patch(&format!("{MAPS}/a"), MERGE, &json!({"data": {"key": "new"}})).await;
        assert_eq!(watch.next().await, "MODIFIED a");
        let left = http.patch(&format!("{MAPS}/a"), MERGE, &label(Value::Null)).await.json();
        let event = watch.next_value().await.unwrap();
        assert_eq!((&event["type"], revision(&event["object"])), (&json!("DELETED"), revision(&left)));
        assert_eq!(event["object"]["metadata"]["labels"]["app"], "a");
        http.patch(&format!("{MAPS}/a"), MERGE, &json!({"data": {"key": "unseen"}})).await;
        http.patch(&format!("{MAPS}/a"), MERGE, &label(json!("again"))).await;
        assert_eq!(watch.next().await, "ADDED a");
        http.send(Method::DELETE, &format!("{MAPS}/b"), &[], "").await;
        assert_eq!(watch.next().await, "DELETED b");
    }
}

#[tokio::test]
async fn a_watch_resumes_where_it_was_or_says_that_it_cannot() {
    let (server, http) = cluster().await;
    server.memory.write("configmaps", map("a"));
    let list = http.get(MAPS).await.json();
    server.memory.write("configmaps", map("b"));
    let path = format!("{MAPS}?watch=1&resourceVersion={}", revision(&list));
    assert_eq!(http.watch(&path).await.next().await, "ADDED b");

    let mut short = http.watch(&format!("{path}&timeoutSeconds=1")).await;
    assert_eq!((short.next().await, short.next().await), ("ADDED b".to_owned(), "end".to_owned()));

    server.memory.compact();
    let mut watch = http.watch(&path).await;
    assert_eq!((watch.next().await, watch.next().await), ("ERROR 410 Expired".to_owned(), "end".to_owned()));
    let future = http.get(&format!("{MAPS}?watch=1&resourceVersion=1000")).await.refusal();
    assert!(future.starts_with("504 Timeout: Too large resource version: 1000"), "{future}");
}

#[tokio::test]
async fn a_watch_can_begin_with_what_there_is() {
    let (server, http) = cluster().await;
    server.memory.write("configmaps", map("a"));
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = http.watch(&format!("{MAPS}?{query}")).await;
    assert_eq!(watch.next().await, "ADDED a");
    let bookmark = watch.next_value().await.unwrap();
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    server.memory.write("configmaps", map("b"));
    assert_eq!(watch.next().await, "ADDED b");
}

#[tokio::test]
async fn tables_name_their_columns_once() {
    let (server, http) = cluster().await;
    server.memory.write("pods", pod("web"));
    let table = http.get_as(PODS, TABLE).await.json();
    assert_eq!((&table["kind"], &table["columnDefinitions"][0]["name"]), (&json!("Table"), &json!("Name")));
    assert_eq!(table["rows"][0]["cells"][0], "web");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let whole = http.get_as(&format!("{PODS}/web?includeObject=Object"), TABLE).await.json();
    assert_eq!(whole["rows"][0]["object"]["kind"], "Pod");

    let mut watch = http.watch_as(&format!("{PODS}?watch=1"), TABLE).await;
    server.memory.write("pods", pod("other"));
    let (first, second) = (watch.next_value().await.unwrap(), watch.next_value().await.unwrap());
    assert!(first["object"]["columnDefinitions"].is_array() && second["object"]["columnDefinitions"].is_null());
    assert_eq!(second["object"]["rows"][0]["cells"][0], "other");
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_a_status() {
    let (_server, http) = cluster().await;
    let code = async |method: Method, path: &str, headers: &[(&str, &str)], body: &str| {
        let answer = http.send(method, path, headers, body).await;
        answer.refusal();
        answer.code
    };
    for path in
        ["/nope", "/api/v2/pods", "/api/v1/nopes", "/apis/nope/v1/pods", "/api/v1/namespaces/default/pods/a/nope"]
    {
        assert_eq!(code(Method::GET, path, &[], "").await, 404, "{path}");
    }
    assert_eq!(code(Method::POST, "/api/v1/pods", &[], "{}").await, 405);
    assert_eq!(code(Method::PUT, MAPS, &[], "{}").await, 405);
    assert_eq!(code(Method::POST, MAPS, &[], "{").await, 400);
    assert_eq!(code(Method::POST, MAPS, &[], "[]").await, 400);
    assert_eq!(code(Method::POST, MAPS, &[("content-type", "text/plain")], "x").await, 415);
    assert_eq!(code(Method::PATCH, &format!("{MAPS}/a"), &[("content-type", "application/json")], "{}").await, 415);
    assert_eq!(code(Method::GET, MAPS, &[("accept", "text/plain")], "").await, 406);
    assert_eq!(code(Method::POST, MAPS, &[], &"x".repeat(4 << 20)).await, 413);
    assert_eq!(code(Method::GET, &format!("{MAPS}?limit=-1"), &[], "").await, 400);
    assert_eq!(code(Method::GET, &format!("{MAPS}/%zz"), &[], "").await, 400);
}

#[tokio::test]
async fn people_are_who_their_certificates_say() {
    let (server, admin) = cluster().await;
    server.memory.write("configmaps", map("a"));
    let nobody = server.client(As::Nobody);
    assert_eq!(
        nobody.get(MAPS).await.refusal(),
        "403 Forbidden: configmaps is forbidden: User \"system:anonymous\" cannot list resource \"configmaps\" \
         in API group \"\" in the namespace \"default\""
    );
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        assert_eq!(nobody.get(path).await.code, 200, "{path}");
    }
    // Only servers may speak for others.
    assert_eq!(nobody.send(Method::GET, MAPS, &[("x-remote-user", "admin")], "").await.code, 403);
    let remote = [("x-remote-user", "joe"), ("x-remote-group", "system:authenticated")];
    assert_eq!(server.client(As::Server).send(Method::GET, MAPS, &remote, "").await.code, 403);
    assert_eq!(admin.send(Method::GET, MAPS, &remote, "").await.code, 200);

    let node = server.client(As::Node);
    assert_eq!(node.get("/api/v1/services").await.code, 200);
    assert_eq!(
        node.post(MAPS, &map("b")).await.refusal(),
        "403 Forbidden: configmaps is forbidden: User \"system:node:n1\" cannot create resource \"configmaps\" \
         in API group \"\" in the namespace \"default\""
    );
    assert_eq!(node.get("/api/v1/secrets").await.code, 403);
    let as_joe = [("impersonate-user", "joe")];
    assert_eq!(admin.send(Method::GET, MAPS, &as_joe, "").await.code, 403);
    assert!(node.send(Method::GET, MAPS, &as_joe, "").await.refusal().contains("cannot impersonate"));
}

#[tokio::test]
async fn a_follower_has_the_leader_write() {
    let leader = Server::start().await;
    let follower = leader.beside(Memory::new()).await;
    *follower.memory.leader.lock().unwrap() = Leader::At(leader.address.to_string());
    let http = follower.client(As::Admin);
    assert_eq!(http.post(&format!("{MAPS}?fieldManager=me"), &map("a")).await.code, 201);
    let written = leader.client(As::Admin).get(&format!("{MAPS}/a")).await;
    assert_eq!(written.json()["metadata"]["managedFields"][0]["manager"], "me");
    assert_eq!(http.get(&format!("{MAPS}/a")).await.code, 404, "a follower answers reads itself");
    assert_eq!(http.post(MAPS, &map("a")).await.code, 409);
    assert_eq!(follower.client(As::Node).post(MAPS, &map("b")).await.code, 403);

    // A server that does not lead either passes nothing on a second time.
    let passed_on = [("x-remote-user", "admin"), ("x-remote-group", "system:masters")];
    let server = follower.client(As::Server);
    let refused = server.send(Method::POST, MAPS, &passed_on, &map("c").to_string()).await;
    assert_eq!((refused.code, &refused.headers["retry-after"]), (503, &"1".parse().unwrap()));
}

#[tokio::test]
async fn a_follower_waits_no_longer_for_a_leader_that_was_replaced() {
    let (leader, next) = (Server::start().await, Server::start().await);
    leader.memory.is_silent.store(true, Ordering::Relaxed);
    let follower = leader.beside(Memory::new()).await;
    *follower.memory.leader.lock().unwrap() = Leader::At(leader.address.to_string());
    let http = follower.client(As::Admin);
    let elect = async {
        while leader.memory.n_submits.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        *follower.memory.leader.lock().unwrap() = Leader::At(next.address.to_string());
    };
    let object = map("a");
    let (cut_off, ()) = tokio::join!(http.post(MAPS, &object), elect);
    assert_eq!(cut_off.code, 504);
    assert!(cut_off.refusal().ends_with("may or may not have been carried out"), "{}", cut_off.text);
    assert_eq!(leader.memory.n_submits.load(Ordering::Relaxed), 1, "it is the client's to ask again");
}

#[tokio::test]
async fn the_api_describes_itself() {
    let (_server, http) = cluster().await;
    assert_eq!(http.get("/api").await.json()["versions"], json!(["v1"]));
    let groups = http.get("/apis").await.json();
    assert!(groups["groups"].as_array().unwrap().iter().any(|group| group["name"] == "apps"));
    let apps = http.get("/apis/apps/v1").await.json();
    assert_eq!(apps["groupVersion"], "apps/v1");
    let scale =
        apps["resources"].as_array().unwrap().iter().find(|r| r["name"] == "deployments/scale").unwrap().clone();
    assert_eq!((&scale["kind"], &scale["group"]), (&json!("Scale"), &json!("autoscaling")));

    const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let everything = http.get_as("/apis", &format!("{AGGREGATED},application/json")).await;
    assert_eq!(everything.headers["content-type"], AGGREGATED);
    let tag = everything.headers["etag"].to_str().unwrap();
    let again = http.send(Method::GET, "/apis", &[("accept", AGGREGATED), ("if-none-match", tag)], "").await;
    assert_eq!((again.code, again.text.len()), (304, 0));

    const BETA: &str = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
    let future = "application/json;g=apidiscovery.k8s.io;v=v3;as=APIGroupDiscoveryList";
    let beta = http.get_as("/api", &format!("{future},{BETA},application/json")).await;
    assert_eq!(
        (&beta.headers["content-type"], &beta.json()["apiVersion"]),
        (&BETA.parse().unwrap(), &json!("apidiscovery.k8s.io/v2beta1"))
    );
    let pods = beta.json()["items"][0]["versions"][0]["resources"].as_array().unwrap().clone();
    let pods = pods.iter().find(|resource| resource["resource"] == "pods").unwrap().clone();
    assert_eq!(pods["responseKind"], json!({"group": "", "version": "v1", "kind": "Pod"}));
    assert_eq!((&pods["singularResource"], &pods["scope"]), (&json!("pod"), &json!("Namespaced")));
    assert_eq!(http.get_as("/apis/apps", &format!("{AGGREGATED},application/json")).await.json()["kind"], "APIGroup");
    assert_eq!(http.get_as("/api", future).await.code, 406);
    let (_, list) = http.bytes("/apis/apps/v1", &[("accept", "application/vnd.kubernetes.protobuf")]).await;
    assert_eq!(copepod_protobuf::decode(&list).unwrap()["groupVersion"], "apps/v1");

    let old = http.get("/openapi/v2").await;
    let definitions = &old.json()["definitions"];
    let pod = &definitions["io.k8s.api.core.v1.Pod"];
    assert_eq!(pod["properties"]["spec"]["$ref"], "#/definitions/io.k8s.api.core.v1.PodSpec");
    assert_eq!(pod["x-kubernetes-group-version-kind"], json!([{"group": "", "version": "v1", "kind": "Pod"}]));
    let patch = &old.json()["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
    assert!(
        patch["parameters"].as_array().unwrap().iter().any(|own| own["name"] == "dryRun" && own["type"] == "string")
    );
    let known = [("if-none-match", old.headers["etag"].to_str().unwrap())];
    assert_eq!(http.send(Method::GET, "/openapi/v2", &known, "").await.code, 304);
    let asked = [("accept", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf")];
    let (parts, document) = http.bytes("/openapi/v2", &asked).await;
    assert_eq!(parts.headers["content-type"], "application/com.github.proto-openapi.spec.v2.v1.0+protobuf");
    assert!(document.starts_with(b"\x0a\x032.0"));

    let index = http.get("/openapi/v3").await.json();
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    let found = http.get(url).await;
    assert_eq!(found.headers["cache-control"], "public, immutable");
    let known = [("if-none-match", found.headers["etag"].to_str().unwrap())];
    assert_eq!(http.send(Method::GET, url, &known, "").await.code, 304);
    let moved = http.send(Method::GET, "/openapi/v3/apis/apps/v1?hash=old", &known, "").await;
    assert_eq!((moved.code, moved.headers["location"].to_str().unwrap()), (301, url));
    let document = found.json();
    assert!(document["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"].is_object());
}

#[tokio::test]
async fn collections_scales_and_logs() {
    let (server, http) = cluster().await;
    for name in ["a", "b", "c"] {
        server.memory.write("configmaps", map(name));
    }
    let deleted = http.send(Method::DELETE, &format!("{MAPS}?labelSelector=app!=b"), &[], "").await;
    assert_eq!((deleted.names(), http.get(MAPS).await.names()), (vec!["a".into(), "c".into()], vec!["b".to_owned()]));

    server.memory.write("deployments", json!({"metadata": {"name": "web"}, "spec": {
        "replicas": 2, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "web"}]}},
    }}));
    let scale = "/apis/apps/v1/namespaces/default/deployments/web/scale";
    assert_eq!(http.get(scale).await.json()["spec"]["replicas"], 2);
    assert_eq!(http.patch(scale, MERGE, &json!({"spec": {"replicas": 5}})).await.json()["spec"]["replicas"], 5);

    server.memory.write("pods", pod("web"));
    assert_eq!(http.get(&format!("{PODS}/web/log?tailLines=3")).await.text, "c on n1 tail Some(3)\n");
    let unknown = http.get(&format!("{PODS}/web/log?container=x")).await.refusal();
    assert_eq!(unknown, "400 BadRequest: container x is not valid for pod web: choose one of: [c]");
}

#[tokio::test]
async fn a_server_that_stops_ends_its_watches() {
    let (server, http) = cluster().await;
    let mut watch =
        http.watch(&format!("{MAPS}?watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan")).await;
    server.stop().await;
    assert_eq!(watch.next().await, "end");
}
