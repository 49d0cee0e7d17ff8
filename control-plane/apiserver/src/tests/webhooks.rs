//! Webhooks as programs: over TLS, with answers of all sorts.

use std::{convert::Infallible, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use copepod_api::Timestamp;
use copepod_identity::Authority;
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::{MAPS, PODS, cluster, map, pod};

const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";

/// A program that answers reviews; gives its `clientConfig`.
pub async fn program(answer: fn(&Value) -> Value) -> Value {
    let authority = Authority::create(Timestamp::now()).unwrap();
    let issued = authority.issue_server("hook", "127.0.0.1", Timestamp::now()).unwrap();
    let tls = copepod_identity::server_config(authority.certificate_pem(), &issued).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = service_fn(move |request: http::Request<Incoming>| async move {
                    let path = request.uri().to_string();
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let review: Value = serde_json::from_slice(&body).unwrap();
                    if path.starts_with("/slow") {
                        std::future::pending::<()>().await;
                    }
                    let mut response = answer(&review["request"]);
                    response["uid"] = review["request"]["uid"].clone();
                    let answer =
                        json!({"apiVersion": review["apiVersion"], "kind": review["kind"], "response": response});
                    Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::from(answer.to_string()))))
                });
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    let bundle = STANDARD.encode(authority.certificate_pem());
    json!({"url": format!("https://127.0.0.1:{port}/hook"), "caBundle": bundle})
}

fn configuration(client: &Value, resource: &str, operation: &str) -> Value {
    json!({"metadata": {"name": "c"}, "webhooks": [{
        "name": "hook.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"], "clientConfig": client,
        "timeoutSeconds": 5,
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": [resource], "operations": [operation]}],
    }]})
}

#[tokio::test]
async fn a_program_refuses_and_the_client_is_told_why() {
    let (_server, http) = cluster().await;
    let refuse = program(|request| {
        let allowed = request["object"]["data"]["key"] != "value";
        json!({"allowed": allowed, "status": {"message": "this value is not wanted", "code": 403, "reason": "Forbidden"}})
    });
    let made = http.post(VALIDATING, &configuration(&refuse.await, "configmaps", "CREATE")).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let refused = http.post(MAPS, &map("a")).await;
    let words = r#"403 Forbidden: admission webhook "hook.example.com" denied the request: this value is not wanted"#;
    assert_eq!(refused.refusal(), words);
    let other = json!({"metadata": {"name": "b"}, "data": {"key": "other"}});
    assert_eq!(http.post(MAPS, &other).await.code, 201);
}

#[tokio::test]
async fn a_program_changes_an_object_and_warns() {
    let (_server, http) = cluster().await;
    let change = program(|_| {
        let patch = json!([{"op": "add", "path": "/data/added", "value": "by the hook"}]);
        json!({
            "allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(patch.to_string()), "warnings": ["changed"],
        })
    });
    http.post(MUTATING, &configuration(&change.await, "configmaps", "CREATE")).await;
    let made = http.post(MAPS, &map("a")).await;
    assert_eq!((made.code, &made.json()["data"]["added"]), (201, &json!("by the hook")));
    assert_eq!(made.headers["warning"], r#"299 - "changed""#);
    let dry = http.post(&format!("{MAPS}?dryRun=All"), &map("dry")).await;
    assert_eq!((dry.code, &dry.json()["data"]["added"]), (201, &json!("by the hook")));
    assert_eq!(http.get(&format!("{MAPS}/dry")).await.code, 404);
}

#[tokio::test]
async fn who_does_not_answer_in_time_or_proves_nothing_has_not_answered() {
    let (_server, http) = cluster().await;
    let mut client = program(|_| json!({"allowed": true})).await;
    let url = client["url"].as_str().unwrap().replace("/hook", "/slow");
    let mut slow = configuration(&json!({"url": url, "caBundle": client["caBundle"]}), "configmaps", "CREATE");
    slow["webhooks"][0]["timeoutSeconds"] = json!(1);
    http.post(VALIDATING, &slow).await;
    let refused = http.post(MAPS, &map("a")).await.refusal();
    assert!(refused.starts_with("500 InternalError: Internal error occurred: failed calling webhook"), "{refused}");
    assert!(refused.contains("/slow?timeout=1s\": context deadline exceeded"), "{refused}");

    http.send(http::Method::DELETE, &format!("{VALIDATING}/c"), &[], "").await;
    let other = Authority::create(Timestamp::now()).unwrap();
    client["caBundle"] = STANDARD.encode(other.certificate_pem()).into();
    http.post(VALIDATING, &configuration(&client, "configmaps", "CREATE")).await;
    let refused = http.post(MAPS, &map("a")).await.refusal();
    assert!(refused.contains("tls: invalid peer certificate"), "{refused}");
}

#[tokio::test]
async fn a_program_behind_a_service_without_pods_cannot_be_asked() {
    let (_server, http) = cluster().await;
    let client = json!({"service": {"namespace": "default", "name": "none"}, "caBundle": STANDARD.encode("x")});
    let mut configuration = configuration(&client, "configmaps", "CREATE");
    configuration["webhooks"][0]["failurePolicy"] = json!("Ignore");
    http.post(MUTATING, &configuration).await;
    assert_eq!(http.post(MAPS, &map("a")).await.code, 201);
}

#[tokio::test]
async fn a_connection_to_a_pod_can_be_refused() {
    let (_server, http) = cluster().await;
    let refuse = program(|request| {
        let words = format!("no {} of {}", request["object"]["kind"], request["name"]);
        json!({"allowed": false, "status": {"message": words.replace('"', "")}})
    });
    http.post(VALIDATING, &configuration(&refuse.await, "pods/attach", "CONNECT")).await;
    http.post(PODS, &pod("p")).await;
    let refused = http.post(&format!("{PODS}/p/attach?stdout=true"), &json!({})).await.refusal();
    assert!(refused.ends_with("denied the request: no PodAttachOptions of p"), "{refused}");
}
