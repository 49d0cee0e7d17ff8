//! A program that serves a group of its own, behind a service of a cluster in memory.

use std::{convert::Infallible, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use copepod_api::Timestamp;
use copepod_identity::{Authority, FrontProxy, user_of_certificate};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::{
    client::{As, Http, Server},
    cluster,
};
use crate::{
    probe,
    tests::memory::{Echo, MemoryDoor},
};

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// A program that answers with what it was asked and by whom, and knows the front proxy by an authority that it makes;
/// gives its port and its own authority.
async fn program(http: &Http) -> (u16, String) {
    let authority = Authority::create(Timestamp::now()).unwrap();
    let issued = authority.issue_server("ext", "ext.default.svc", Timestamp::now()).unwrap();
    let secret = FrontProxy::create(Timestamp::now()).unwrap();
    assert_eq!(http.post("/api/v1/namespaces/kube-system/secrets", &secret).await.code, 201);
    let proxy = FrontProxy::read(&secret).unwrap();
    let tls = copepod_identity::server_config(proxy.bundle(), &issued).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let shown = stream.get_ref().1.peer_certificates().and_then(|chain| user_of_certificate(&chain[0]));
                let shown = shown.map(|user| user.name.to_string());
                let service = service_fn(move |request: http::Request<Incoming>| {
                    let answer = answer(&request, shown.as_deref());
                    async move { Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::from(answer.to_string())))) }
                });
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (port, STANDARD.encode(authority.certificate_pem()))
}

fn answer(request: &http::Request<Incoming>, shown: Option<&str>) -> Value {
    if request.uri().path() == "/apis/ext.example.com/v1" {
        return json!({"kind": "APIResourceList", "groupVersion": "ext.example.com/v1", "resources": [
            {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get"]},
        ]});
    }
    if request.uri().path() == "/openapi/v3" {
        return json!({"paths": {
            "apis/ext.example.com/v1": {"serverRelativeURL": "/openapi/v3/apis/ext.example.com/v1?hash=AB"},
            "apis/other.example.com/v1": {"serverRelativeURL": "/openapi/v3/apis/other.example.com/v1?hash=CD"},
        }});
    }
    if request.uri().path() == "/openapi/v2" {
        return json!({
            "paths": {"/apis/ext.example.com/v1/": {"get": {}}, "/apis/ext.example.com/v1/flunders": {}, "/version": {"x": 1}},
            "definitions": {"com.example.ext.v1.Flunder": {"type": "object"}, "io.k8s.api.core.v1.Pod": {"type": "null"}},
        });
    }
    let headers = |name: &str| -> Vec<String> {
        request.headers().get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    };
    json!({
        "asked": request.uri().to_string(), "shown": shown, "user": headers("x-remote-user"),
        "groups": headers("x-remote-group"), "authorization": headers("authorization"),
    })
}

/// A service with one ready pod, whose port is one of this machine.
async fn service(http: &Http, port: u16) {
    let base = "/api/v1/namespaces/default";
    let pod =
        json!({"metadata": {"name": "ext"}, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "x"}]}});
    assert_eq!(http.post(&format!("{base}/pods"), &pod).await.code, 201);
    let service = json!({"metadata": {"name": "ext"}, "spec": {"ports": [{"port": 443, "targetPort": port}]}});
    assert_eq!(http.post(&format!("{base}/services"), &service).await.code, 201);
    let slice = json!({
        "metadata": {"name": "ext", "labels": {"kubernetes.io/service-name": "ext"}}, "addressType": "IPv4",
        "ports": [{"name": "", "port": port}],
        "endpoints": [{"addresses": ["10.0.0.9"], "targetRef": {"kind": "Pod", "name": "ext"}}],
    });
    let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    assert_eq!(http.post(path, &slice).await.code, 201);
}

fn registration(bundle: Option<&str>) -> Value {
    let mut spec = json!({
        "group": "ext.example.com", "version": "v1", "groupPriorityMinimum": 2000, "versionPriority": 10,
        "service": {"namespace": "default", "name": "ext"},
    });
    match bundle {
        Some(bundle) => spec["caBundle"] = bundle.into(),
        None => spec["insecureSkipTLSVerify"] = true.into(),
    }
    json!({"metadata": {"name": "v1.ext.example.com"}, "spec": spec})
}

async fn look(server: &Server) -> (bool, &'static str, String) {
    let view = copepod_store::Door::view(&MemoryDoor(server.memory.clone()));
    let finding = probe::look(&view, &Echo, "ext.example.com", "v1").await.unwrap();
    (finding.is_available, finding.reason, finding.message)
}

async fn say_available(http: &Http) {
    let condition = json!({"type": "Available", "status": "True", "reason": "Passed"});
    let patch = json!({"status": {"conditions": [condition]}});
    let patched = http.patch(&format!("{SERVICES}/v1.ext.example.com/status"), super::MERGE, &patch).await;
    assert_eq!(patched.code, 200, "{}", patched.text);
}

#[tokio::test]
async fn requests_of_a_group_go_to_its_program_on_behalf_of_the_user() {
    let (server, http) = cluster().await;
    let (port, bundle) = program(&http).await;
    service(&http, port).await;
    assert_eq!(http.post(SERVICES, &registration(Some(&bundle))).await.code, 201);
    let path = "/apis/ext.example.com/v1/namespaces/default/flunders?limit=5";
    assert_eq!(http.get(path).await.refusal(), "503 ServiceUnavailable: service unavailable");
    say_available(&http).await;
    let told = http.get(path).await.json();
    assert_eq!(told["asked"], path);
    assert_eq!(told["shown"], "front-proxy-client", "it knows the front proxy by its certificate");
    assert_eq!((&told["user"], &told["authorization"]), (&json!(["admin"]), &json!([])));
    assert_eq!(told["groups"], json!(["system:masters", "system:authenticated"]));

    let stranger = server.client(As::User("mia"));
    let words = r#"403 Forbidden: flunders.ext.example.com is forbidden: User "mia" cannot list resource "flunders" in API group "ext.example.com" in the namespace "default""#;
    assert_eq!(stranger.get(path).await.refusal(), words);
}

#[tokio::test]
async fn what_a_program_serves_is_discovered_with_the_rest() {
    let (_server, http) = cluster().await;
    let (port, bundle) = program(&http).await;
    service(&http, port).await;
    http.post(SERVICES, &registration(Some(&bundle))).await;
    say_available(&http).await;
    let groups = http.get("/apis").await.json();
    assert_eq!(groups["groups"][0]["name"], "ext.example.com", "it alone has a priority here");
    let all = http.send(http::Method::GET, "/apis", &[("accept", DISCOVERY)], "").await.json();
    let version = &all["items"][0]["versions"][0];
    assert_eq!((&version["version"], &version["freshness"]), (&json!("v1"), &json!("Current")));
    assert_eq!(version["resources"][0]["responseKind"]["kind"], "Flunder");
    assert_eq!(http.get("/apis/ext.example.com").await.json()["preferredVersion"]["version"], "v1");
    assert_eq!(http.get("/apis/ext.example.com/v1").await.json()["resources"][0]["name"], "flunders");
}

#[tokio::test]
async fn why_a_program_is_not_available_is_said_step_by_step() {
    let (server, http) = cluster().await;
    http.post(SERVICES, &registration(None)).await;
    let words = "service/ext in \"default\" is not present".to_owned();
    assert_eq!(look(&server).await, (false, "ServiceNotFound", words));
    let (port, _) = program(&http).await;
    let base = "/api/v1/namespaces/default/services";
    http.post(base, &json!({"metadata": {"name": "ext"}, "spec": {"ports": [{"port": 80}]}})).await;
    assert_eq!(look(&server).await.1, "ServicePortError");
    http.send(http::Method::DELETE, &format!("{base}/ext"), &[], "").await;
    http.post(base, &json!({"metadata": {"name": "ext"}, "spec": {"ports": [{"port": 443}]}})).await;
    assert_eq!(look(&server).await.1, "EndpointsNotFound");
    http.send(http::Method::DELETE, &format!("{base}/ext"), &[], "").await;
    service(&http, port).await;
    assert_eq!(look(&server).await, (true, "Passed", "all checks passed".to_owned()), "whoever it is");

    let trusting_another = Authority::create(Timestamp::now()).unwrap();
    let bundle = STANDARD.encode(trusting_another.certificate_pem());
    let patch = json!({"spec": {"insecureSkipTLSVerify": null, "caBundle": bundle}});
    http.patch(&format!("{SERVICES}/v1.ext.example.com"), super::MERGE, &patch).await;
    let (_, reason, message) = look(&server).await;
    assert_eq!(reason, "FailedDiscoveryCheck");
    let start = "failing or missing response from https://ext.default.svc:443/apis/ext.example.com/v1: tls: ";
    assert!(message.starts_with(start), "{message}");
}

#[tokio::test]
async fn the_documents_of_a_program_stand_beside_those_of_the_server() {
    let (_server, http) = cluster().await;
    let (port, bundle) = program(&http).await;
    service(&http, port).await;
    http.post(SERVICES, &registration(Some(&bundle))).await;
    let index = http.get("/openapi/v3").await.json();
    assert!(index["paths"]["apis/ext.example.com/v1"].is_null(), "it does not answer yet");
    say_available(&http).await;
    let index = http.get("/openapi/v3").await.json();
    let location = index["paths"]["apis/ext.example.com/v1"]["serverRelativeURL"].as_str().unwrap();
    assert!(index["paths"]["api/v1"].is_object() && index["paths"]["apis/other.example.com/v1"].is_null());
    let document = http.get(location).await.json();
    assert_eq!((&document["asked"], &document["user"]), (&json!(location), &json!(["admin"])));

    let whole = http.get("/openapi/v2").await;
    let tag = whole.headers["etag"].to_str().unwrap().to_owned();
    let whole = whole.json();
    assert_eq!(whole["definitions"]["com.example.ext.v1.Flunder"], json!({"type": "object"}));
    assert_eq!(whole["definitions"]["io.k8s.api.core.v1.Pod"]["type"], "object", "it cannot say what a pod is");
    assert!(whole["paths"]["/apis/ext.example.com/v1/flunders"].is_object() && whole["paths"]["/version"].is_null());
    let again = http.send(http::Method::GET, "/openapi/v2", &[("if-none-match", &tag)], "").await;
    assert_eq!(again.code, 304);
}
