//! Bearer tokens: issued, borne, reviewed, and worth nothing once what they rest on is gone.

use copepod_api::Timestamp;
use copepod_identity::{AccountKeys, Rotation};
use http::Method;
use serde_json::{Value, json};

use super::{
    MAPS, PODS,
    client::{Answer, As, Http, Server},
    cluster, pod,
};

const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const SECRETS: &str = "/api/v1/namespaces/kube-system/secrets";
const WHO: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// A cluster with keys and the account `bot`; an administrator, and a client without a certificate.
async fn world() -> (Server, Http, Http) {
    let (server, admin) = cluster().await;
    assert_eq!(admin.post(SECRETS, &AccountKeys::create().unwrap()).await.code, 201);
    assert_eq!(admin.post(ACCOUNTS, &json!({"metadata": {"name": "bot"}})).await.code, 201);
    let bearer = server.client(As::Nobody);
    (server, admin, bearer)
}

async fn request(admin: &Http, spec: Value) -> Answer {
    admin.post(&format!("{ACCOUNTS}/bot/token"), &json!({ "spec": spec })).await
}

fn token(answer: &Answer) -> String {
    assert_eq!(answer.code, 201, "{}", answer.text);
    answer.json()["status"]["token"].as_str().unwrap().to_owned()
}

async fn with(http: &Http, method: Method, path: &str, token: &str, body: &str) -> Answer {
    http.send(method, path, &[("authorization", &format!("Bearer {token}"))], body).await
}

/// Who a token is, or the code of the refusal.
async fn who(http: &Http, token: &str) -> Result<Value, u16> {
    let answer = with(http, Method::POST, WHO, token, "{}").await;
    if answer.code == 201 { Ok(answer.json()["status"]["userInfo"].clone()) } else { Err(answer.code) }
}

async fn review(admin: &Http, token: &str, audiences: Value) -> Value {
    let review = json!({"spec": {"token": token, "audiences": audiences}});
    admin.post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await.json()["status"].clone()
}

#[tokio::test]
async fn a_token_is_its_service_account() {
    let (_server, admin, http) = world().await;
    let issued = request(&admin, json!({})).await;
    assert_eq!(issued.json()["spec"], json!({"audiences": [ISSUER], "expirationSeconds": 3600}));
    let token = token(&issued);
    let me = who(&http, &token).await.unwrap();
    assert_eq!(me["username"], "system:serviceaccount:default:bot");
    assert_eq!(
        me["groups"],
        json!(["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"])
    );
    assert!(me["extra"]["authentication.kubernetes.io/credential-id"][0].as_str().unwrap().starts_with("JTI="));
    // Roles decide what it may.
    let refusal = with(&http, Method::GET, MAPS, &token, "").await.refusal();
    assert!(refusal.contains("User \"system:serviceaccount:default:bot\" cannot list resource"), "{refusal}");
    assert_eq!(who(&http, &format!("{token}x")).await, Err(401));
    assert_eq!(who(&http, "nonsense").await, Err(401));

    let keys = with(&http, Method::GET, "/openid/v1/jwks", &token, "").await;
    assert_eq!((keys.code, &keys.json()["keys"][0]["alg"]), (200, &json!("ES256")));
    let issuer = with(&http, Method::GET, "/.well-known/openid-configuration", &token, "").await;
    assert_eq!(issuer.json()["issuer"], ISSUER);
}

#[tokio::test]
async fn a_token_ends_with_what_it_is_bound_to() {
    let (server, admin, http) = world().await;
    let mut own = pod("p");
    own["spec"]["serviceAccountName"] = json!("bot");
    let made = admin.post(PODS, &own).await.json();
    let bound = |uid: &Value| json!({"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid}});
    let of_pod = token(&request(&admin, bound(&made["metadata"]["uid"])).await);
    let me = who(&http, &of_pod).await.unwrap();
    assert_eq!(me["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
    assert_eq!(me["extra"]["authentication.kubernetes.io/node-name"], json!(["n1"]));
    let node = server.client(As::Node);
    token(&request(&node, bound(&made["metadata"]["uid"])).await);
    let unbound = request(&node, json!({})).await.refusal();
    assert!(unbound.ends_with("node requested token not bound to a pod"), "{unbound}");
    let other = request(&admin, bound(&json!("another"))).await;
    assert!(other.refusal().starts_with("409 Conflict"), "{}", other.text);

    let delete = async |path: String| {
        let code = admin.send(Method::DELETE, &format!("{path}?gracePeriodSeconds=0"), &[], "").await.code;
        assert_eq!(code, 200, "{path}");
    };
    delete(format!("{PODS}/p")).await;
    assert_eq!(who(&http, &of_pod).await, Err(401));

    let free = token(&request(&admin, json!({})).await);
    delete(format!("{ACCOUNTS}/bot")).await;
    assert_eq!(who(&http, &free).await, Err(401));
    // Another account of the same name is another account.
    admin.post(ACCOUNTS, &json!({"metadata": {"name": "bot"}})).await;
    assert_eq!(who(&http, &free).await, Err(401));
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let (_server, admin, _) = world().await;
    let refused = async |spec: Value| request(&admin, spec).await.refusal();
    assert_eq!(
        refused(json!({"expirationSeconds": 60})).await,
        "422 Invalid: TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 60: \
         may not specify a duration less than 10 minutes"
    );
    let bound = |kind: &str, name: &str| json!({"boundObjectRef": {"apiVersion": "v1", "kind": kind, "name": name}});
    assert_eq!(
        refused(bound("ConfigMap", "a")).await,
        "400 BadRequest: cannot bind token to object of type /v1, Kind=ConfigMap"
    );
    assert_eq!(refused(bound("Pod", "gone")).await, "404 NotFound: pods \"gone\" not found");
    admin.post(PODS, &pod("other")).await;
    assert!(refused(bound("Pod", "other")).await.contains("running with different serviceaccount name"));
    let unknown = admin.post(&format!("{ACCOUNTS}/gone/token"), &json!({})).await;
    assert_eq!(unknown.refusal(), "404 NotFound: serviceaccounts \"gone\" not found");
}

#[tokio::test]
async fn a_token_is_reviewed_for_those_it_is_meant_for() {
    let (_server, admin, http) = world().await;
    let vault = token(&request(&admin, json!({"audiences": ["vault"]})).await);
    assert_eq!(who(&http, &vault).await, Err(401));
    let good = review(&admin, &vault, json!(["vault", "other"])).await;
    assert_eq!((&good["authenticated"], &good["audiences"]), (&json!(true), &json!(["vault"])));
    assert_eq!(good["user"]["username"], "system:serviceaccount:default:bot");
    let bad = review(&admin, &vault, json!(["other"])).await;
    assert!(bad.get("authenticated").is_none() && !bad["error"].as_str().unwrap().is_empty(), "{bad}");
}

#[tokio::test]
async fn a_token_in_a_secret_is_good_as_long_as_the_secret_holds_it() {
    let (server, admin) = cluster().await;
    let keys = AccountKeys::create().unwrap();
    admin.post(SECRETS, &keys).await;
    let account = admin.post(ACCOUNTS, &json!({"metadata": {"name": "bot"}})).await.json();
    let claims = copepod_identity::legacy_claims("default", "bot", account["metadata"]["uid"].as_str().unwrap(), "s");
    let token = AccountKeys::read(&keys).unwrap().sign(&claims).unwrap();
    let http = server.client(As::Nobody);
    assert_eq!(who(&http, &token).await, Err(401));
    let secrets = "/api/v1/namespaces/default/secrets";
    admin.post(secrets, &json!({"metadata": {"name": "s"}, "stringData": {"token": token}})).await;
    assert_eq!(who(&http, &token).await.unwrap()["username"], "system:serviceaccount:default:bot");
    let empty = json!({"data": {"token": null}});
    admin.patch(&format!("{secrets}/s"), "application/merge-patch+json", &empty).await;
    assert_eq!(who(&http, &token).await, Err(401));
}

#[tokio::test]
async fn machines_begin_with_tokens_of_their_own() {
    let (_server, admin, http) = world().await;
    let secret = |more: Value| {
        let mut data = json!({
            "token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
            "auth-extra-groups": "system:bootstrappers:workers",
        });
        for (name, value) in more.as_object().unwrap() {
            data[name] = value.clone();
        }
        json!({"metadata": {"name": "bootstrap-token-abcdef"}, "type": "bootstrap.kubernetes.io/token", "stringData": data})
    };
    let token = "abcdef.0123456789abcdef";
    assert_eq!(who(&http, token).await, Err(401));
    assert_eq!(admin.post(SECRETS, &secret(json!({}))).await.code, 201);
    let me = who(&http, token).await.unwrap();
    assert_eq!(me["username"], "system:bootstrap:abcdef");
    assert_eq!(me["groups"], json!(["system:bootstrappers", "system:bootstrappers:workers", "system:authenticated"]));
    assert_eq!(who(&http, "abcdef.0123456789abcdee").await, Err(401));
    let own = format!("{SECRETS}/bootstrap-token-abcdef");
    for wrong in [
        json!({"expiration": "2020-01-01T00:00:00Z"}),
        json!({"usage-bootstrap-authentication": "false"}),
        json!({"auth-extra-groups": "system:masters"}),
    ] {
        assert_eq!(admin.send(Method::DELETE, &own, &[], "").await.code, 200);
        assert_eq!(admin.post(SECRETS, &secret(wrong.clone())).await.code, 201);
        assert_eq!(who(&http, token).await, Err(401), "{wrong}");
    }
}

#[tokio::test]
async fn tokens_stay_good_while_the_key_is_rotated_until_it_is_dropped() {
    let (_server, admin, http) = world().await;
    let path = format!("{SECRETS}/{}", AccountKeys::SECRET);
    let old = token(&request(&admin, json!({})).await);
    let mut rotation = Rotation::of(admin.get(&path).await.json());
    let (first, _) = rotation.keys().pop_first().unwrap();
    rotation.rotate(Timestamp::now()).unwrap();
    let put = admin.send(Method::PUT, &path, &[], &rotation.into_secret().to_string()).await;
    assert_eq!(put.code, 200, "{}", put.text);
    let new = token(&request(&admin, json!({})).await);
    assert!(who(&http, &old).await.is_ok() && who(&http, &new).await.is_ok());
    let keys = with(&http, Method::GET, "/openid/v1/jwks", &new, "").await;
    assert_eq!(keys.json()["keys"].as_array().unwrap().len(), 2);

    let mut rotation = Rotation::of(admin.get(&path).await.json());
    rotation.remove(&first).unwrap();
    admin.send(Method::PUT, &path, &[], &rotation.into_secret().to_string()).await;
    assert_eq!(who(&http, &old).await, Err(401));
    assert!(who(&http, &new).await.is_ok());
}
