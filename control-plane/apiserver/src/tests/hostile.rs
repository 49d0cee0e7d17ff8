//! Clients that send nonsense, too much, or nothing.

use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    MAPS,
    client::{As, CROWD, Server},
    cluster, map,
};
use copepod_protobuf::MEDIA_TYPE;

const YAML: &str = "application/yaml";
const JSON: &str = "application/json";

#[tokio::test]
async fn bodies_that_are_no_objects_are_refused_and_nothing_is_written() {
    let (_server, http) = cluster().await;
    let bomb = |open: &str, close: &str| {
        format!(r#"{{"metadata":{{"name":"a"}},"data":{}{}}}"#, open.repeat(100_000), close.repeat(100_000))
            .into_bytes()
    };
    let aliases = |n: usize| {
        let lines = (1..n).map(|i| format!("x{i}: &x{i} [{}]\n", vec![format!("*x{}", i - 1); 10].join(", ")));
        format!("x0: &x0 [a, a]\n{}", lines.collect::<String>()).into_bytes()
    };
    for (what, kind, body, code) in [
        ("deep arrays", JSON, bomb("[", "]"), 400),
        ("deep objects", JSON, bomb(r#"{"a":"#, "}"), 400),
        ("deep YAML", YAML, "[".repeat(100_000).into_bytes(), 400),
        ("aliases of aliases", YAML, aliases(12), 413),
        ("no UTF-8", JSON, b"{\"metadata\":{\"name\":\"\xff\xfe\"}}".to_vec(), 400),
        ("half of it", JSON, b"{\"metadata\":{".to_vec(), 400),
        ("a list", JSON, b"[]".to_vec(), 400),
        ("nothing", JSON, Vec::new(), 400),
        ("no protobuf", MEDIA_TYPE, b"k8s\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f".to_vec(), 400),
        ("another language", "application/cbor", b"\xa0".to_vec(), 415),
        ("too much", JSON, vec![b' '; (3 << 20) + 1], 413),
    ] {
        let headers = [("content-type", kind)];
        let answer = http.send_bytes(Method::POST, MAPS, &headers, body.into()).await;
        assert_eq!(answer.code, code, "{what}: {}", answer.text);
        assert!(answer.refusal().len() < 1_000, "{what}: {}", answer.text);
    }
    assert!(http.get(MAPS).await.names().is_empty());
    let wrong = r#"{"metadata":{"name":"a"},"data":{"a":1}}"#;
    let wrong = http.send(Method::POST, MAPS, &[("content-type", JSON)], wrong).await;
    assert!(wrong.refusal().contains("data"), "{}", wrong.text);
}

#[tokio::test]
async fn questions_that_make_no_sense_are_refused() {
    let (_server, http) = cluster().await;
    for query in [
        "labelSelector=a=b=c",
        "labelSelector=a+in+(",
        "labelSelector=%ff%fe",
        "labelSelector=-a",
        "fieldSelector=a",
        "fieldSelector=spec.nothing=a",
        "limit=many",
        "continue=%00",
        "resourceVersion=new",
        "watch=perhaps",
        "watch=1&timeoutSeconds=-1",
    ] {
        assert_eq!(http.get(&format!("{MAPS}?{query}")).await.refusal()[..3], *"400", "{query}");
    }
    let many = vec!["a!=b"; 10_000].join(",");
    let many = http.get(&format!("{MAPS}?labelSelector={many}")).await;
    assert_eq!(many.code, 200, "long, but it makes sense");
    assert_eq!(http.get(&format!("/api/v1/{}", "a/".repeat(5_000))).await.refusal()[..3], *"414");
}

/// What the server says before it closes the connection; time passes as soon as nobody has anything to do.
async fn last_words(server: &Server, protocol: &[u8], said: &str) -> String {
    let mut connection = server.connect(protocol).await;
    connection.write_all(said.as_bytes()).await.unwrap();
    connection.flush().await.unwrap();
    // Somebody else is served meanwhile, so what was said has been read.
    assert_eq!(server.client(As::Admin).get(MAPS).await.code, 200);
    tokio::time::pause();
    let mut words = Vec::new();
    // A connection that is cut off has ended as well.
    let _ = connection.read_to_end(&mut words).await;
    tokio::time::resume();
    String::from_utf8_lossy(&words).into_owned()
}

#[tokio::test]
async fn who_sends_slowly_or_falls_silent_is_not_waited_for() {
    let (server, _) = cluster().await;
    let half_a_head = format!("GET {MAPS} HTTP/1.1\r\nhost: a\r\n");
    let words = last_words(&server, b"http/1.1", &half_a_head).await;
    assert!(words.is_empty() || words.starts_with("HTTP/1.1 408"), "{words}");

    let half_a_body = format!(
        "POST {MAPS} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{}",
        r#"{"metadata":"#
    );
    let words = last_words(&server, b"http/1.1", &half_a_body).await;
    assert!(words.starts_with("HTTP/1.1 504") && words.contains("the body did not arrive"), "{words}");

    // HTTP/2: a client that greets, and then does not even answer pings.
    let words = last_words(&server, b"h2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    assert!(!words.is_empty());
    assert_eq!(server.client(As::Admin).post(MAPS, &map("a")).await.code, 201);
}

#[tokio::test]
async fn an_address_with_too_many_connections_is_told_so_and_others_are_served() {
    let (server, before) = cluster().await;
    assert_eq!(before.get(MAPS).await.code, 200);
    let mut open = Vec::new();
    for _ in 1..CROWD {
        open.push(server.connect(b"h2").await);
    }
    let refused = server.client(As::Admin).get(MAPS).await;
    assert!(refused.refusal().starts_with("429 TooManyRequests: your address has too many connections"));
    assert_eq!(refused.headers["retry-after"], "5");
    assert_eq!(before.get(MAPS).await.code, 200, "who is connected stays so");
    open.clear();
    // The server notices it when it reads from the closed connections.
    while server.client(As::Admin).get(MAPS).await.code == 429 {
        tokio::task::yield_now().await;
    }
}
