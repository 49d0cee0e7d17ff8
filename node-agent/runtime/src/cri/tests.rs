//! What the runtimes of the suite do not do: events, refusals half-way, strange answers.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use tokio::{net::UnixListener, sync::broadcast};
use tokio_stream::{
    StreamExt,
    wrappers::{BroadcastStream, UnixListenerStream},
};
use tonic::{Request, Response, Status};

use super::{
    proto::{
        self, ContainerState,
        image_service_server::{ImageService, ImageServiceServer},
        runtime_service_server::{RuntimeService, RuntimeServiceServer},
    },
    *,
};

type Answer<T> = Result<Response<T>, Status>;

/// A runtime in memory.
#[derive(Clone)]
struct Fake {
    state: Arc<Mutex<World>>,
    /// Nothing: it has no events.
    events: Option<broadcast::Sender<proto::ContainerEventResponse>>,
}

#[derive(Default)]
struct World {
    containers: BTreeMap<String, (ContainerState, proto::ContainerConfig)>,
    sandboxes: BTreeMap<String, (proto::PodSandboxState, proto::PodSandboxConfig)>,
    address: String,
    log: Vec<String>,
}

impl Fake {
    fn new(has_events: bool) -> Fake {
        let events = has_events.then(|| broadcast::channel(16).0);
        let world = World { address: "10.0.0.7".into(), ..World::default() };
        Fake { state: Arc::new(Mutex::new(world)), events }
    }

    async fn serve(&self) -> (tempfile::TempDir, Cri) {
        let directory = tempfile::tempdir().unwrap();
        let socket: PathBuf = directory.path().join("c.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(RuntimeServiceServer::new(self.clone()))
            .add_service(ImageServiceServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
        let cri = Cri::connect(&socket, "n1").await.unwrap();
        (directory, cri)
    }

    /// A container ends, and those who listen are told.
    fn end(&self, id: &str) {
        self.state.lock().unwrap().containers.get_mut(id).unwrap().0 = ContainerState::ContainerExited;
        if let Some(events) = &self.events {
            let _ = events.send(proto::ContainerEventResponse::default());
        }
    }

    fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().log)
    }
}

#[tonic::async_trait]
impl RuntimeService for Fake {
    async fn version(&self, _: Request<proto::VersionRequest>) -> Answer<proto::VersionResponse> {
        let (runtime_name, runtime_version) = ("fake".into(), "1".into());
        Ok(Response::new(proto::VersionResponse { runtime_name, runtime_version, ..Default::default() }))
    }

    async fn runtime_config(&self, _: Request<proto::RuntimeConfigRequest>) -> Answer<proto::RuntimeConfigResponse> {
        let linux = proto::LinuxRuntimeConfiguration { cgroup_driver: proto::CgroupDriver::Systemd.into() };
        Ok(Response::new(proto::RuntimeConfigResponse { linux: Some(linux) }))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<proto::RunPodSandboxRequest>,
    ) -> Answer<proto::RunPodSandboxResponse> {
        let config = request.into_inner().config.unwrap();
        let mut state = self.state.lock().unwrap();
        state.log.push("run".into());
        if !state.sandboxes.is_empty() {
            return Err(Status::unknown("name is reserved"));
        }
        state.sandboxes.insert("s1".into(), (proto::PodSandboxState::SandboxReady, config));
        Ok(Response::new(proto::RunPodSandboxResponse { pod_sandbox_id: "s1".into() }))
    }

    async fn list_pod_sandbox(
        &self,
        _: Request<proto::ListPodSandboxRequest>,
    ) -> Answer<proto::ListPodSandboxResponse> {
        let state = self.state.lock().unwrap();
        let items = state.sandboxes.iter().map(|(id, (state, config))| proto::PodSandbox {
            id: id.clone(),
            state: (*state).into(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            ..Default::default()
        });
        Ok(Response::new(proto::ListPodSandboxResponse { items: items.collect() }))
    }

    async fn pod_sandbox_status(
        &self,
        _: Request<proto::PodSandboxStatusRequest>,
    ) -> Answer<proto::PodSandboxStatusResponse> {
        let ip = self.state.lock().unwrap().address.clone();
        let network =
            Some(proto::PodSandboxNetworkStatus { ip, additional_ips: vec![proto::PodIp { ip: "fd00::7".into() }] });
        let status = Some(proto::PodSandboxStatus { network, ..Default::default() });
        Ok(Response::new(proto::PodSandboxStatusResponse { status }))
    }

    async fn stop_pod_sandbox(
        &self,
        _: Request<proto::StopPodSandboxRequest>,
    ) -> Answer<proto::StopPodSandboxResponse> {
        Err(Status::not_found("gone already"))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<proto::RemovePodSandboxRequest>,
    ) -> Answer<proto::RemovePodSandboxResponse> {
        let mut state = self.state.lock().unwrap();
        state.log.push("remove".into());
        state.sandboxes.remove(&request.into_inner().pod_sandbox_id);
        Ok(Response::new(proto::RemovePodSandboxResponse {}))
    }

    async fn create_container(
        &self,
        request: Request<proto::CreateContainerRequest>,
    ) -> Answer<proto::CreateContainerResponse> {
        let config = request.into_inner().config.unwrap();
        self.state.lock().unwrap().containers.insert("c1".into(), (ContainerState::ContainerCreated, config));
        Ok(Response::new(proto::CreateContainerResponse { container_id: "c1".into() }))
    }

    async fn start_container(
        &self,
        request: Request<proto::StartContainerRequest>,
    ) -> Answer<proto::StartContainerResponse> {
        let mut state = self.state.lock().unwrap();
        state.containers.get_mut(&request.into_inner().container_id).unwrap().0 = ContainerState::ContainerRunning;
        Ok(Response::new(proto::StartContainerResponse {}))
    }

    async fn list_containers(
        &self,
        request: Request<proto::ListContainersRequest>,
    ) -> Answer<proto::ListContainersResponse> {
        let wanted = request.into_inner().filter.and_then(|filter| filter.state).map(|state| state.state());
        let world = self.state.lock().unwrap();
        let all = world.containers.iter().filter(|(_, (state, _))| wanted.is_none_or(|wanted| wanted == *state));
        let containers = all.map(|(id, (state, config))| proto::Container {
            id: id.clone(),
            pod_sandbox_id: "s1".into(),
            state: (*state).into(),
            labels: config.labels.clone(),
            ..Default::default()
        });
        Ok(Response::new(proto::ListContainersResponse { containers: containers.collect() }))
    }

    async fn container_status(
        &self,
        request: Request<proto::ContainerStatusRequest>,
    ) -> Answer<proto::ContainerStatusResponse> {
        let id = request.into_inner().container_id;
        let world = self.state.lock().unwrap();
        let (state, _) = world.containers.get(&id).ok_or_else(|| Status::not_found(format!("no container {id}")))?;
        let started_at = if *state == ContainerState::ContainerCreated { 0 } else { 5 };
        let status = proto::ContainerStatus { state: (*state).into(), exit_code: 4, started_at, ..Default::default() };
        Ok(Response::new(proto::ContainerStatusResponse { status: Some(status) }))
    }

    async fn get_container_events(
        &self,
        _: Request<proto::GetEventsRequest>,
    ) -> Answer<tonic::codegen::BoxStream<proto::ContainerEventResponse>> {
        let events = self.events.as_ref().ok_or_else(|| Status::unimplemented("no events"))?;
        let events = BroadcastStream::new(events.subscribe());
        Ok(Response::new(Box::pin(events.map(|event| event.map_err(|_| Status::unknown("too slow"))))))
    }
}

impl ImageService for Fake {}

fn sandbox() -> SandboxSpec {
    SandboxSpec { id: "u-0".into(), log_dir: "/logs".into(), ..SandboxSpec::default() }
}

fn container() -> ContainerSpec {
    ContainerSpec {
        id: "u-main-0".into(),
        sandbox_id: "u-0".into(),
        log_path: "/logs/0.log".into(),
        ..ContainerSpec::default()
    }
}

#[tokio::test]
async fn ends_are_noticed_with_events_and_without() {
    for has_events in [true, false] {
        let fake = Fake::new(has_events);
        let (_directory, cri) = fake.serve().await;
        cri.create_sandbox(&sandbox()).await.unwrap();
        cri.start(&container()).await.unwrap();
        let (exit, ()) = tokio::join!(cri.wait("u-main-0"), async {
            tokio::task::yield_now().await;
            fake.end("c1");
        });
        assert_eq!(exit.unwrap().code, 4, "events: {has_events}");
    }
}

#[tokio::test]
async fn every_address_of_a_pod_is_given_and_bad_ones_are_told() {
    let fake = Fake::new(false);
    let (_directory, cri) = fake.serve().await;
    let addresses = cri.create_sandbox(&sandbox()).await.unwrap();
    assert_eq!(addresses, ["10.0.0.7".parse::<IpAddr>().unwrap(), "fd00::7".parse().unwrap()]);
    fake.state.lock().unwrap().address = "nonsense".into();
    assert!(cri.create_sandbox(&sandbox()).await.unwrap_err().0.contains("\"nonsense\""));
}

#[tokio::test]
async fn a_broken_sandbox_in_the_way_is_replaced_and_one_that_works_is_kept() {
    let fake = Fake::new(false);
    let (_directory, cri) = fake.serve().await;
    cri.create_sandbox(&sandbox()).await.unwrap();
    cri.create_sandbox(&sandbox()).await.unwrap();
    assert_eq!(fake.log(), ["run", "run"]);
    fake.state.lock().unwrap().sandboxes.get_mut("s1").unwrap().0 = proto::PodSandboxState::SandboxNotready;
    cri.create_sandbox(&sandbox()).await.unwrap();
    assert_eq!(fake.log(), ["run", "remove", "run"]);
}

#[tokio::test]
async fn slices_are_asked_for_where_systemd_has_the_cgroups() {
    let fake = Fake::new(false);
    let (_directory, cri) = fake.serve().await;
    let spec = SandboxSpec { cgroup_parent: "copepod/n1/podu".into(), ..sandbox() };
    cri.create_sandbox(&spec).await.unwrap();
    let parent = fake.state.lock().unwrap().sandboxes["s1"].1.linux.clone().unwrap().cgroup_parent;
    assert_eq!(parent, "copepod-n1-podu.slice");
}

#[tokio::test]
async fn a_container_that_never_started_is_not_listed() {
    let fake = Fake::new(false);
    let (_directory, cri) = fake.serve().await;
    cri.create_sandbox(&sandbox()).await.unwrap();
    cri.start(&container()).await.unwrap();
    assert_eq!(cri.list().await.unwrap()[0].containers.len(), 1);
    fake.state.lock().unwrap().containers.get_mut("c1").unwrap().0 = ContainerState::ContainerCreated;
    assert!(cri.list().await.unwrap()[0].containers.is_empty());
}
