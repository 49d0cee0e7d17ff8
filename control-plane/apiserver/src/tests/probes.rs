//! What monitors ask.

use copepod_store::Leader;
use http::Method;

use super::{MAPS, client::As, cluster, map};
use crate::flow_defaults;

#[tokio::test]
async fn health_is_told_by_check_and_as_a_whole() {
    let (server, _) = cluster().await;
    let nobody = server.client(As::Nobody);
    let told = async |path: &str| {
        let answer = nobody.get(path).await;
        format!("{} {}", answer.code, answer.text)
    };
    for path in ["/healthz", "/livez/ping", "/readyz", "/readyz/etcd"] {
        assert_eq!(told(path).await, "200 ok", "{path}");
    }
    assert_eq!(told("/readyz?verbose").await, "200 [+]ping ok\n[+]etcd ok\nreadyz check passed\n");
    assert!(told("/readyz/nothing").await.starts_with("404"));

    *server.memory.leader.lock().unwrap() = Leader::Unknown;
    assert_eq!(told("/livez").await, "200 ok");
    assert_eq!(told("/readyz").await, "500 [+]ping ok\n[-]etcd failed: reason withheld\nreadyz check failed\n");
    assert_eq!(told("/readyz?exclude=etcd").await, "200 ok");
    assert!(told("/readyz?exclude=etcd&exclude=x&verbose").await.contains("no matches for \"x\""));
}

#[tokio::test]
async fn metrics_count_what_was_asked() {
    let (server, http) = cluster().await;
    http.post(MAPS, &map("a")).await;
    http.get(&format!("{MAPS}/a")).await;
    http.get(&format!("{MAPS}/none")).await;
    let _watch = http.watch(&format!("{MAPS}?watch=1")).await;
    http.send(Method::DELETE, &format!("{MAPS}/a"), &[], "").await;
    let metrics = http.get("/metrics").await;
    assert_eq!(metrics.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let about = |verb: &str, scope: &str| {
        format!(
            "component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"configmaps\",scope=\"{scope}\",\
             subresource=\"\",verb=\"{verb}\",version=\"v1\"}}"
        )
    };
    for line in [
        format!("apiserver_request_total{{code=\"201\",{} 1", about("POST", "namespace")),
        format!("apiserver_request_total{{code=\"404\",{} 1", about("GET", "resource")),
        format!("apiserver_request_duration_seconds_count{{{} 2", about("GET", "resource")),
        format!("apiserver_longrunning_requests{{{} 1", about("WATCH", "namespace")),
        "apiserver_resource_objects{group=\"\",resource=\"namespaces\"}".to_owned(),
        "apiserver_current_inflight_requests{request_kind=\"readOnly\"}".to_owned(),
        "apiserver_flowcontrol_current_executing_seats{priority_level=\"exempt\"} 1".to_owned(),
    ] {
        assert!(metrics.text.contains(&line), "{line}\n{}", metrics.text);
    }
    assert_eq!(server.client(As::Node).get("/metrics").await.code, 403);
}

#[tokio::test]
async fn answers_name_the_schema_and_the_level_that_they_counted_as() {
    let (server, http) = cluster().await;
    for default in flow_defaults() {
        let plural = if default["kind"] == "FlowSchema" { "flowschemas" } else { "prioritylevelconfigurations" };
        let created = http.post(&format!("/apis/flowcontrol.apiserver.k8s.io/v1/{plural}"), &default).await;
        assert_eq!(created.code, 201, "{}", created.text);
        assert_eq!(created.json()["spec"], default["spec"], "nothing is left to fill in");
    }
    let uid = async |path: &str| {
        let object = http.get(&format!("/apis/flowcontrol.apiserver.k8s.io/v1/{path}")).await.json();
        object["metadata"]["uid"].as_str().unwrap().to_owned()
    };
    let node = server.client(As::Node).get(MAPS).await;
    assert_eq!(node.headers["x-kubernetes-pf-flowschema-uid"], uid("flowschemas/system-nodes").await);
    assert_eq!(node.headers["x-kubernetes-pf-prioritylevel-uid"], uid("prioritylevelconfigurations/system").await);
}
