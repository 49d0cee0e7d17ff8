//! Pulling from a registry that behaves, and from those that do not.

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::{Response, StatusCode, header};
use http_body_util::Full;

use super::{
    World, archive,
    registry::DockerRegistry,
    scripted::{Content, Scripted, cutting_proxy, refuse},
    write_layout,
};
use crate::{Credential, Digest, EnsureError, Image, PullPolicy::*, Puller};

impl World {
    fn layout(&self, layers: &[&str]) -> PathBuf {
        let path = self.path(&format!("layout-{}", Digest::of(layers.join(",").as_bytes()).hex()));
        write_layout(&path, "any:1", layers);
        path
    }

    fn puller(&self, mirrors: &[(&str, String)]) -> Puller {
        let mirrors: Vec<(String, String)> =
            mirrors.iter().map(|(registry, url)| ((*registry).to_owned(), url.clone())).collect();
        Puller::new(self.store.clone(), &mirrors).unwrap()
    }

    /// Nothing half done lies about.
    fn is_tidy(&self) -> bool {
        self.store.entries("ingest").unwrap().is_empty()
    }
}

fn login(registry: &str, password: &str) -> Credential {
    Credential { registry: registry.to_owned(), username: "user".to_owned(), password: password.to_owned() }
}

fn failure(outcome: Result<Image, EnsureError>) -> String {
    match outcome {
        Err(EnsureError::Failed(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_image_is_pulled_once_and_its_name_looked_up_when_asked() {
    let world = World::new();
    let registry = DockerRegistry::start();
    let name = format!("{}/team/app:1", registry.address);
    registry.push(&world.layout(&["file a 1", "file b 1"]), "team/app:1");
    let puller = world.puller(&[]);

    assert!(matches!(puller.ensure(&name, Never, &[]).await, Err(EnsureError::NeverPull(_))));
    let first = puller.ensure(&name, IfNotPresent, &[]).await.unwrap();
    assert_eq!(world.seen(&first, "c"), "a 1\nb 1");
    assert_eq!(puller.ensure(&name, Never, &[]).await.unwrap(), first);

    registry.push(&world.layout(&["file a 1", "file b 2"]), "team/app:1");
    assert_eq!(puller.ensure(&name, IfNotPresent, &[]).await.unwrap(), first);
    let second = puller.ensure(&name, Always, &[]).await.unwrap();
    assert_eq!(world.seen(&second, "d"), "a 1\nb 2");

    let by_digest = format!("{}/team/app@{}", registry.address, first.manifest);
    assert_eq!(puller.ensure(&by_digest, Always, &[]).await.unwrap(), first);
    assert!(world.is_tidy());
}

#[tokio::test]
async fn what_cannot_be_had_is_told_with_the_registrys_words() {
    let world = World::new();
    let registry = DockerRegistry::start();
    let puller = world.puller(&[]);

    let reason = failure(puller.ensure(&format!("{}/none:1", registry.address), IfNotPresent, &[]).await);
    assert!(reason.contains(&registry.address) && reason.contains("manifest unknown"), "{reason}");

    assert!(matches!(puller.ensure("Not A Name", IfNotPresent, &[]).await, Err(EnsureError::InvalidName(_))));

    let address = registry.address.clone();
    world.image(&format!("{address}/here:1"), &["file a 1"]);
    drop(registry);
    let name = format!("{address}/here:1");
    let reason = failure(puller.ensure(&name, Always, &[]).await);
    assert!(reason.contains("refused") && reason.contains("IfNotPresent"), "{reason}");
    assert!(puller.ensure(&name, IfNotPresent, &[]).await.is_ok());
}

#[tokio::test]
async fn a_private_registry_wants_the_right_login() {
    let world = World::new();
    let registry = DockerRegistry::with_login();
    registry.push(&world.layout(&["file a 1"]), "app:1");
    let name = format!("{}/app:1", registry.address);
    let puller = world.puller(&[]);

    let reason = failure(puller.ensure(&name, IfNotPresent, &[]).await);
    assert!(reason.contains("wants a login"), "{reason}");
    let elsewhere = login("example.com", "secret");
    failure(puller.ensure(&name, IfNotPresent, std::slice::from_ref(&elsewhere)).await);
    let wrong = login(&registry.address, "wrong");
    let reason = failure(puller.ensure(&name, IfNotPresent, std::slice::from_ref(&wrong)).await);
    assert!(reason.contains("refuses user") && !reason.contains("wrong"), "{reason}");

    let logins = [elsewhere, wrong, login(&registry.address, "secret")];
    let image = puller.ensure(&name, IfNotPresent, &logins).await.unwrap();
    assert_eq!(world.seen(&image, "c"), "a 1");
}

#[tokio::test]
async fn mirrors_are_asked_first_and_the_registry_after_them() {
    let world = World::new();
    let mirror = DockerRegistry::start();
    mirror.push(&world.layout(&["file a mirrored"]), "library/app:1");
    let dead = "http://127.0.0.1:1".to_owned();
    let puller = world.puller(&[("docker.io", dead.clone()), ("docker.io", format!("http://{}", mirror.address))]);
    let image = puller.ensure("app:1", IfNotPresent, &[]).await.unwrap();
    assert_eq!(world.seen(&image, "c"), "a mirrored");

    let origin = DockerRegistry::start();
    origin.push(&world.layout(&["file a origin"]), "app:1");
    let puller = world.puller(&[("*", dead), ("*", format!("http://{}", mirror.address))]);
    let image = puller.ensure(&format!("{}/app:1", origin.address), IfNotPresent, &[]).await.unwrap();
    assert_eq!(world.seen(&image, "d"), "a origin");
}

#[tokio::test]
async fn mirrors_have_paths_and_never_see_the_registrys_login() {
    let world = World::new();
    let content = Content::image(&archive("file a 1"));
    let mirror = Scripted::start(move |request| match request.headers().contains_key(header::AUTHORIZATION) {
        true => content.answer(request),
        false => {
            let mut refusal = refuse(StatusCode::UNAUTHORIZED, "");
            refusal.headers_mut().insert(header::WWW_AUTHENTICATE, "Basic".parse().unwrap());
            refusal
        }
    })
    .await;
    let puller = world.puller(&[("localhost:1", format!("http://{}/cache", mirror.address))]);
    failure(puller.ensure("localhost:1/app:1", IfNotPresent, &[login("localhost:1", "secret")]).await);
    assert_eq!(mirror.asked(), ["/cache/v2/app/manifests/1?ns=localhost:1"]);
    puller.ensure("localhost:1/app:1", IfNotPresent, &[login(&mirror.address, "secret")]).await.unwrap();
}

#[tokio::test]
async fn an_index_leads_to_the_image_for_this_machine() {
    let world = World::new();
    let content = Content::image(&archive("file a 1")).behind_index();
    let index = Digest::of(&content.by_name["manifests/1"]);
    let registry = Scripted::start(move |request| content.answer(request)).await;
    let puller = world.puller(&[]);
    let image = puller.ensure(&format!("{}/app:1", registry.address), IfNotPresent, &[]).await.unwrap();
    assert_eq!(world.seen(&image, "c"), "a 1");
    let by_index = format!("{}/app@{index}", registry.address);
    assert_eq!(puller.ensure(&by_index, Never, &[]).await.unwrap(), image);
}

#[tokio::test]
async fn tokens_are_fetched_and_not_sent_to_strangers() {
    let world = World::new();
    let content = Content::image(&archive("file a 1"));
    let storage_content = content.clone();
    let storage = Scripted::start(move |request| storage_content.answer(request)).await;
    let storage_address = storage.address.clone();
    let tokens = Scripted::start(|_| Response::new(Full::from(r#"{"token":"t0ken"}"#))).await;
    let challenge = format!(r#"Bearer realm="http://{}/token",service="a b""#, tokens.address);
    let registry = Scripted::start(move |request| {
        if request.headers().get(header::AUTHORIZATION).is_none_or(|value| value != "Bearer t0ken") {
            let mut refusal = refuse(StatusCode::UNAUTHORIZED, "");
            refusal.headers_mut().insert(header::WWW_AUTHENTICATE, challenge.parse().unwrap());
            return refusal;
        }
        if request.uri().path().contains("/blobs/") {
            let mut redirect = refuse(StatusCode::TEMPORARY_REDIRECT, "");
            let location = format!("http://{storage_address}{}", request.uri().path());
            redirect.headers_mut().insert(header::LOCATION, location.parse().unwrap());
            return redirect;
        }
        content.answer(request)
    })
    .await;

    let name = format!("{}/team/app:1", registry.address);
    let image = world.puller(&[]).ensure(&name, Always, &[login(&registry.address, "pw")]).await.unwrap();

    assert_eq!(world.seen(&image, "c"), "a 1");
    // user:pw
    assert_eq!(tokens.asked(), ["/token?service=a%20b&scope=repository%3Ateam%2Fapp%3Apull Basic dXNlcjpwdw=="]);
    assert!(storage.asked().iter().all(|line| !line.contains("Bearer")), "{:?}", storage.asked());
    assert_eq!(storage.asked().len(), 2);
}

#[tokio::test]
async fn content_that_is_not_what_was_asked_for_is_refused() {
    let world = World::new();
    let good = Content::image(&archive("file a 1"));
    let layer = format!("blobs/{}", Digest::of(&archive("file a 1")));
    for (wrong, word) in [
        (archive("file a 2"), "is sha256:"),
        ([archive("file a 1"), vec![0]].concat(), "more were sent"),
        (archive("file a 1")[..700].to_vec(), "ended after 700"),
    ] {
        let mut content = good.clone();
        content.by_name.insert(layer.clone(), wrong.into());
        let registry = Scripted::start(move |request| content.answer(request)).await;
        let reason = failure(world.puller(&[]).ensure(&format!("{}/app:1", registry.address), Always, &[]).await);
        assert!(reason.contains(word), "{reason}");
        assert_eq!(world.store.list().unwrap(), []);
        assert_eq!(world.store.entries("layers").unwrap().len(), 0);
    }
    // What came in part is kept for the next attempt, and a good registry then completes it.
    let registry = Scripted::start(move |request| good.answer(request)).await;
    let image = world.puller(&[]).ensure(&format!("{}/app:1", registry.address), Always, &[]).await.unwrap();
    assert_eq!(world.seen(&image, "c"), "a 1");
    assert!(world.is_tidy());
}

#[tokio::test]
async fn a_broken_line_is_taken_up_where_it_broke() {
    let world = World::new();
    let registry = DockerRegistry::start();
    // Digests do not compress well.
    let big: String = (0..1000).map(|n: u32| Digest::of(&n.to_le_bytes()).hex().to_owned()).collect();
    registry.push(&world.layout(&[&format!("file big {big}")]), "app:1");
    let (proxy, n_connections) = cutting_proxy(registry.address.clone(), 10_000).await;
    let image = world.puller(&[]).ensure(&format!("{proxy}/app:1"), IfNotPresent, &[]).await.unwrap();
    assert_eq!(world.seen(&image, "c"), format!("big {big}"));
    assert!(n_connections.load(Ordering::Relaxed) > 3);
    assert!(world.is_tidy());
}

#[tokio::test]
async fn a_wrong_beginning_from_an_earlier_life_is_thrown_away() {
    let world = World::new();
    let content = Content::image(&archive("file a 1"));
    let registry = Scripted::start(move |request| {
        let response = content.answer(request);
        match request.headers().get(header::RANGE) {
            None => response,
            Some(range) => {
                let from: usize = range.to_str().unwrap()["bytes=".len()..].trim_end_matches('-').parse().unwrap();
                let name = request.uri().path().trim_start_matches("/v2/app/").to_owned();
                let mut partial = Response::new(Full::from(content.by_name[&name].slice(from..)));
                *partial.status_mut() = StatusCode::PARTIAL_CONTENT;
                partial
            }
        }
    })
    .await;
    let layer = Digest::of(&archive("file a 1"));
    fs::write(world.store.dir().join(format!("ingest/partial-{}", layer.hex())), "not what it should be").unwrap();
    let image = world.puller(&[]).ensure(&format!("{}/app:1", registry.address), Always, &[]).await.unwrap();
    assert_eq!(world.seen(&image, "c"), "a 1");
    let of_layer = registry.asked().into_iter().filter(|line| line.contains(layer.hex())).collect::<Vec<_>>();
    assert_eq!(of_layer.len(), 2, "{of_layer:?}");
    assert!(of_layer[0].ends_with("bytes=21-") && !of_layer[1].contains("bytes="), "{of_layer:?}");
}

#[tokio::test]
async fn many_who_want_one_image_fetch_it_once() {
    let world = World::new();
    let content = Content::image(&archive("file a 1"));
    let registry = Scripted::start(move |request| content.answer(request)).await;
    let name = format!("{}/app:1", registry.address);
    let puller = world.puller(&[]);
    let images = futures::future::join_all((0..20).map(|_| puller.ensure(&name, Always, &[]))).await;
    assert!(images.iter().all(|image| image == &images[0] && image.is_ok()));
    assert_eq!(registry.asked().len(), 3, "manifest, configuration, layer");
}

#[tokio::test]
async fn a_damaged_layer_is_fetched_again() {
    let world = World::new();
    let content = Content::image(&archive("file a 1"));
    let registry = Scripted::start(move |request| content.answer(request)).await;
    let name = format!("{}/app:1", registry.address);
    let image = world.puller(&[]).ensure(&name, IfNotPresent, &[]).await.unwrap();
    fs::write(world.store.blob_path(&image.layers[0].blob), "rubbish").unwrap();
    fs::remove_dir_all(world.store.layer_dir(&image.layers[0].diff_id)).unwrap();

    let again = world.puller(&[]).ensure(&name, IfNotPresent, &[]).await.unwrap();

    assert_eq!(again, image);
    assert_eq!(world.seen(&again, "c"), "a 1");
}

#[tokio::test]
async fn a_document_without_end_is_not_read_to_the_end() {
    let world = World::new();
    let endless = bytes::Bytes::from(vec![b' '; 9 << 20]);
    let registry = Scripted::start(move |_| Response::new(Full::new(endless.clone()))).await;
    let reason = failure(world.puller(&[]).ensure(&format!("{}/app:1", registry.address), Always, &[]).await);
    assert!(reason.contains("more than a document"), "{reason}");
}

#[tokio::test]
async fn a_token_that_ends_is_fetched_again() {
    let world = World::new();
    let content = Content::image(&archive("file a 1"));
    let n_tokens = Arc::new(AtomicUsize::new(0));
    let tokens = Scripted::start(move |_| {
        let n = n_tokens.fetch_add(1, Ordering::Relaxed);
        Response::new(Full::from(format!(r#"{{"access_token":"{n}"}}"#)))
    })
    .await;
    let challenge = format!(r#"Bearer realm="http://{}/token""#, tokens.address);
    // Each token is good for one answer.
    let used = Mutex::new(BTreeSet::new());
    let registry = Scripted::start(move |request| {
        let token = request.headers().get(header::AUTHORIZATION).cloned();
        if token.is_some_and(|token| used.lock().unwrap().insert(token.as_bytes().to_vec())) {
            return content.answer(request);
        }
        let mut refusal = refuse(StatusCode::UNAUTHORIZED, "");
        refusal.headers_mut().insert(header::WWW_AUTHENTICATE, challenge.parse().unwrap());
        refusal
    })
    .await;
    let image = world.puller(&[]).ensure(&format!("{}/app:1", registry.address), Always, &[]).await.unwrap();
    assert_eq!(world.seen(&image, "c"), "a 1");
    assert_eq!(tokens.asked().len(), 3);
}
