//! kube-rs: watcher, reflector, a controller over a kind of its own, and an election by a Lease.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, future::ready};
use k8s_openapi::{
    api::{coordination::v1::Lease, core::v1::ConfigMap},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Config, CustomResource, CustomResourceExt, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    runtime::{
        WatchStreamExt,
        controller::{Action, Controller},
        finalizer::{Event as Life, finalizer},
        reflector,
        wait::{await_condition, conditions},
        watcher,
    },
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::harness::Cluster;

/// Longer than anything here takes; who waits longer has found something.
const PATIENCE: Duration = Duration::from_secs(60);

/// A greeting that a controller writes into a config map.
#[derive(CustomResource, Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[kube(group = "tests.example.com", version = "v1", kind = "Greeting", namespaced, status = "GreetingStatus")]
#[kube(printcolumn = r#"{"name":"Words","type":"string","jsonPath":".spec.words"}"#)]
struct GreetingSpec {
    words: String,
    #[serde(default = "once")]
    times: u32,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
struct GreetingStatus {
    written: bool,
}

fn once() -> u32 {
    1
}

async fn client(cluster: &Cluster) -> Client {
    let path = cluster.ok(&["kubeconfig"]);
    let kubeconfig = Kubeconfig::read_from(path.trim()).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("a context");
    Client::try_from(config).expect("a client")
}

fn in_time<T>(what: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
    runtime.block_on(async { tokio::time::timeout(PATIENCE, what).await.expect("it does not take so long") })
}

fn map(name: &str, words: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name, "labels": {"own": "yes"}}, "data": {"words": words}}))
        .expect("a config map")
}

#[test]
fn kube_rs_watches_reflects_controls_and_elects() {
    let cluster = Cluster::up(1, 0);
    in_time(async {
        let client = client(&cluster).await;
        watches_and_reflects(&client).await;
        controls(&client).await;
        elects(&client).await;
    });
}

async fn watches_and_reflects(client: &Client) {
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    maps.create(&PostParams::default(), &map("first", "one")).await.expect("created");
    let own = || watcher::Config::default().labels("own=yes");
    for config in [own(), own().streaming_lists()] {
        let (store, writer) = reflector::store();
        let stream = reflector::reflector(writer, watcher(maps.clone(), config)).applied_objects();
        let mut stream = Box::pin(stream);
        let listed = stream.try_next().await.expect("a watch").expect("an object");
        assert_eq!(listed.name_any(), "first");
        let changed = json!({"data": {"words": "two"}});
        maps.patch("first", &PatchParams::default(), &Patch::Merge(&changed)).await.expect("patched");
        let event = stream.try_next().await.expect("a watch").expect("an object");
        assert_eq!(event.data.as_ref().expect("data")["words"], "two");
        assert_eq!(store.state().len(), 1, "the copy has what the server has");
        let back = json!({"data": {"words": "one"}});
        maps.patch("first", &PatchParams::default(), &Patch::Merge(&back)).await.expect("patched");
    }
    maps.delete("first", &DeleteParams::default()).await.expect("deleted");
}

/// Defines the kind, runs its controller, and follows one object from its creation to its end.
async fn controls(client: &Client) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let apply = PatchParams::apply("tests").force();
    let name = Greeting::crd_name();
    definitions.patch(name, &apply, &Patch::Apply(Greeting::crd())).await.expect("defined");
    let established = await_condition(definitions, name, conditions::is_crd_established());
    established.await.expect("it is served");

    let greetings: Api<Greeting> = Api::default_namespaced(client.clone());
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let stop = Arc::new(tokio::sync::Notify::new());
    let stopped = stop.clone();
    let controller = Controller::new(greetings.clone(), watcher::Config::default())
        .owns(maps.clone(), watcher::Config::default())
        .graceful_shutdown_on(async move { stopped.notified().await })
        .run(reconcile, |_, _, _| Action::requeue(Duration::from_secs(1)), Arc::new(client.clone()))
        .for_each(|outcome| {
            // Conflicts and such are tried again; where they do not end, this says why.
            if let Err(error) = outcome {
                eprintln!("the controller: {error}");
            }
            ready(())
        });
    let controller = tokio::spawn(controller);

    let mut wrong =
        serde_json::to_value(Greeting::new("wrong", GreetingSpec { words: "x".into(), times: 1 })).expect("JSON");
    wrong["spec"]["times"] = json!(-1);
    let path = "/apis/tests.example.com/v1/namespaces/default/greetings";
    let request = http_post(path, &wrong);
    match client.request::<serde_json::Value>(request).await {
        Err(kube::Error::Api(status)) => assert_eq!(status.code, 422, "{status:?}"),
        other => panic!("the schema refuses it: {other:?}"),
    }

    let greeting = Greeting::new("hello", GreetingSpec { words: "good morning".into(), times: 2 });
    greetings.create(&PostParams::default(), &greeting).await.expect("created");
    let written = |greeting: Option<&Greeting>| {
        greeting.and_then(|greeting| greeting.status.as_ref()).is_some_and(|status| status.written)
    };
    await_condition(greetings.clone(), "hello", written).await.expect("the controller writes it");
    let map = maps.get("hello").await.expect("its map");
    assert_eq!(map.data.expect("data")["words"], "good morning, good morning");
    // What it owns is put back.
    maps.delete("hello", &DeleteParams::default()).await.expect("deleted");
    await_condition(maps.clone(), "hello", |map: Option<&ConfigMap>| map.is_some()).await.expect("made again");

    let uid = greetings.get("hello").await.expect("there").uid().expect("a uid");
    greetings.delete("hello", &DeleteParams::default()).await.expect("deleted");
    await_condition(greetings.clone(), "hello", conditions::is_deleted(&uid)).await.expect("its finalizer runs");
    assert!(maps.get_opt("hello").await.expect("an answer").is_none(), "cleaned up before it went");
    assert_eq!(greetings.list(&ListParams::default()).await.expect("a list").items.len(), 0);
    stop.notify_one();
    controller.await.expect("it ends");
}

fn http_post(path: &str, body: &serde_json::Value) -> http::Request<Vec<u8>> {
    let request = http::Request::post(path).header("content-type", "application/json");
    request.body(body.to_string().into_bytes()).expect("a request")
}

async fn reconcile(greeting: Arc<Greeting>, client: Arc<Client>) -> Result<Action, Failed> {
    let client = (*client).clone();
    let greetings: Api<Greeting> = Api::default_namespaced(client.clone());
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let outcome = finalizer(&greetings, "tests.example.com/map", greeting, |life| async {
        match life {
            Life::Apply(greeting) => {
                let name = greeting.name_any();
                let words = vec![greeting.spec.words.clone(); greeting.spec.times as usize].join(", ");
                let mut own = map(&name, &words);
                own.metadata.owner_references = greeting.controller_owner_ref(&()).map(|owner| vec![owner]);
                let apply = PatchParams::apply("greetings").force();
                maps.patch(&name, &apply, &Patch::Apply(own)).await?;
                let status = json!({"status": {"written": true}});
                greetings.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await?;
                Ok(Action::await_change())
            }
            Life::Cleanup(greeting) => {
                match maps.delete(&greeting.name_any(), &DeleteParams::default()).await {
                    Err(kube::Error::Api(status)) if status.code == 404 => {}
                    outcome => drop(outcome?),
                }
                Ok::<_, kube::Error>(Action::await_change())
            }
        }
    });
    outcome.await.map_err(|error| Failed(error.to_string()))
}

#[derive(Debug)]
struct Failed(String);

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failed {}

/// Several candidates take turns, and never two at once: each write of the lease rests on the one before.
async fn elects(client: &Client) {
    const CANDIDATES: usize = 4;
    let leases: Api<Lease> = Api::default_namespaced(client.clone());
    let free = json!({"metadata": {"name": "seat"}, "spec": {"leaseDurationSeconds": 15}});
    leases.create(&PostParams::default(), &serde_json::from_value(free).expect("a lease")).await.expect("created");
    let taken = Arc::new(AtomicBool::new(false));
    let candidates = (0..CANDIDATES).map(|number| {
        let (leases, taken) = (leases.clone(), taken.clone());
        tokio::spawn(async move {
            loop {
                let mut lease = leases.get("seat").await.expect("the lease");
                let spec = lease.spec.get_or_insert_default();
                if spec.holder_identity.as_deref().is_some_and(|holder| !holder.is_empty()) {
                    tokio::task::yield_now().await;
                    continue;
                }
                spec.holder_identity = Some(format!("candidate-{number}"));
                let mut held = match leases.replace("seat", &PostParams::default(), &lease).await {
                    Ok(held) => held,
                    Err(kube::Error::Api(status)) if status.code == 409 => continue,
                    Err(error) => panic!("{error}"),
                };
                assert!(!taken.swap(true, Ordering::SeqCst), "two lead at once");
                taken.store(false, Ordering::SeqCst);
                held.spec.get_or_insert_default().holder_identity = None;
                leases.replace("seat", &PostParams::default(), &held).await.expect("whoever leads may leave");
                return;
            }
        })
    });
    let candidates: Vec<_> = candidates.collect();
    for candidate in candidates {
        candidate.await.expect("each has its turn");
    }
}
