//! Images from the store of this machine, which other agents and the command line may share.

use std::{path::PathBuf, sync::Arc};

use copepod_images::{EnsureError, ImageError, Puller, Snapshots, Store};

use crate::{
    AgentConfig, AgentError,
    surface::{Credential, Failure, Image, ImageStore, PullError, PullPolicy},
};

pub struct Images {
    puller: Puller,
    containers: Arc<Snapshots>,
}

impl Images {
    /// Roots of containers are mounted below the agent's data directory.
    pub fn open(config: &AgentConfig) -> Result<Images, AgentError> {
        let open = || {
            let store = Store::open(&config.images_dir)?;
            let containers = Snapshots::new(store.clone(), config.data_dir.join("containers"))?;
            containers.clean()?;
            Ok(Images { puller: Puller::new(store, &config.mirrors)?, containers: containers.into() })
        };
        open().map_err(|error: ImageError| AgentError::Room { room: "image store", reason: error.to_string() })
    }
}

#[tonic::async_trait]
impl ImageStore for Images {
    async fn ensure(
        &self,
        reference: &str,
        policy: PullPolicy,
        credentials: &[Credential],
    ) -> Result<Image, PullError> {
        let policy = match policy {
            PullPolicy::Always => copepod_images::PullPolicy::Always,
            PullPolicy::IfNotPresent => copepod_images::PullPolicy::IfNotPresent,
            PullPolicy::Never => copepod_images::PullPolicy::Never,
        };
        let credentials: Vec<copepod_images::Credential> = credentials
            .iter()
            .map(|Credential { registry, username, password }| copepod_images::Credential {
                registry: registry.clone(),
                username: username.clone(),
                password: password.clone(),
            })
            .collect();
        let image = self.puller.ensure(reference, policy, &credentials).await.map_err(|error| match error {
            EnsureError::InvalidName(reason) => PullError::InvalidName(reason),
            EnsureError::NeverPull(reason) => PullError::NeverPull(reason),
            EnsureError::Failed(reason) => PullError::Failed(reason),
        })?;
        Ok(Image {
            id: image.id.to_string(),
            entrypoint: image.config.entrypoint,
            command: image.config.cmd,
            env: image.config.env,
            working_dir: image.config.working_dir,
            user: image.config.user,
            stop_signal: image.config.stop_signal,
        })
    }

    async fn rootfs(&self, image: &Image, container_id: &str) -> Result<PathBuf, Failure> {
        let id = image.id.parse().map_err(failure)?;
        let (containers, container_id) = (self.containers.clone(), container_id.to_owned());
        blocking(move || containers.rootfs(&id, &container_id)).await
    }

    async fn release(&self, container_id: &str) -> Result<(), Failure> {
        let (containers, container_id) = (self.containers.clone(), container_id.to_owned());
        blocking(move || containers.release(&container_id)).await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(failure),
        Err(error) => Err(Failure(format!("work on images ended early: {error}"))),
    }
}

fn failure(error: ImageError) -> Failure {
    Failure(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs};

    use copepod_images::{BuildSpec, Config, Content};

    use super::*;
    use crate::RuntimeChoice;

    #[tokio::test]
    async fn an_image_of_the_machines_store_becomes_a_root() {
        let dir = tempfile::tempdir().unwrap();
        let config = AgentConfig {
            name: "n1".into(),
            cgroup: "n1".into(),
            data_dir: dir.path().join("data"),
            run_dir: dir.path().join("run"),
            images_dir: dir.path().join("images"),
            server: None,
            token: None,
            address: None,
            labels: BTreeMap::new(),
            runtime: RuntimeChoice::Embedded,
            mirrors: Vec::new(),
        };
        let images = Images::open(&config).unwrap();
        let missing = images.ensure("app:1", PullPolicy::Never, &[]).await;
        assert!(matches!(missing, Err(PullError::NeverPull(_))));

        // As the command line does it, while the agent runs.
        fs::write(dir.path().join("app"), "program").unwrap();
        let built = Store::open(&config.images_dir).unwrap().build(&BuildSpec {
            reference: "app:1".into(),
            contents: vec![Content { source: dir.path().join("app"), target: "/bin/app".into() }],
            config: Config { cmd: vec!["/bin/app".into()], ..Config::default() },
            ..BuildSpec::default()
        });
        let image = images.ensure("app:1", PullPolicy::IfNotPresent, &[]).await.unwrap();
        let root = images.rootfs(&image, "c1").await.unwrap();

        assert_eq!((image.id, image.command), (built.unwrap().id.to_string(), vec!["/bin/app".to_owned()]));
        assert_eq!(fs::read_to_string(root.join("bin/app")).unwrap(), "program");
        images.release("c1").await.unwrap();
        images.release("c1").await.unwrap();
        assert!(!root.exists());
    }
}
