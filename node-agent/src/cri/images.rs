//! Images that the runtime pulls and keeps. The policy and the logins are the agent's.

use std::{path::PathBuf, sync::Arc};

use copepod_images::{Reference, matching};
use copepod_runtime::{Cri, ImageConfig, Login, RuntimeError};

use crate::surface::{Credential, Failure, Image, ImageStore, PullError, PullPolicy};

pub struct Images(pub Arc<Cri>);

#[tonic::async_trait]
impl ImageStore for Images {
    async fn ensure(
        &self,
        reference: &str,
        policy: PullPolicy,
        credentials: &[Credential],
    ) -> Result<Image, PullError> {
        let logins = logins(reference, credentials)?;
        if policy != PullPolicy::Always
            && let Some(image) = self.0.image(reference).await.map_err(failed)?
        {
            return Ok(described(image));
        }
        if policy == PullPolicy::Never {
            return Err(PullError::NeverPull(format!(
                "{reference} is not on this node, and imagePullPolicy: Never forbids to fetch it"
            )));
        }
        let pulled = self.pull(reference, &logins).await.map_err(failed)?;
        match self.0.image(&pulled).await.map_err(failed)? {
            Some(image) => Ok(described(image)),
            None => Err(PullError::Failed(format!("the runtime fetched {reference} and does not have it"))),
        }
    }

    async fn rootfs(&self, _: &Image, _: &str) -> Result<PathBuf, Failure> {
        Ok(PathBuf::new())
    }

    async fn release(&self, _: &str) -> Result<(), Failure> {
        Ok(())
    }
}

impl Images {
    /// With the login that fits best first, and without any if none of them helps.
    async fn pull(&self, reference: &str, logins: &[Login]) -> Result<String, RuntimeError> {
        let mut refusal = None;
        for login in logins.iter().map(Some).chain([None]) {
            match self.0.pull(reference, login).await {
                Ok(pulled) => return Ok(pulled),
                // What is told is why the best login did not do.
                Err(error) => drop(refusal.get_or_insert(error)),
            }
        }
        Err(refusal.unwrap_or_else(|| "nothing was tried".into()))
    }
}

fn logins(reference: &str, credentials: &[Credential]) -> Result<Vec<Login>, PullError> {
    let parsed: Reference =
        reference.parse().map_err(|error: copepod_images::ImageError| PullError::InvalidName(error.to_string()))?;
    let all: Vec<copepod_images::Credential> = credentials
        .iter()
        .map(|Credential { registry, username, password }| copepod_images::Credential {
            registry: registry.clone(),
            username: username.clone(),
            password: password.clone(),
        })
        .collect();
    let fitting = matching(&all, &parsed).into_iter();
    Ok(fitting.map(|one| Login { username: one.username.clone(), password: one.password.clone() }).collect())
}

fn failed(error: RuntimeError) -> PullError {
    PullError::Failed(error.0)
}

fn described(image: ImageConfig) -> Image {
    let ImageConfig { id, entrypoint, command, env, working_dir, user, stop_signal } = image;
    Image { id, entrypoint, command, env, working_dir, user, stop_signal }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_for_their_registries_only() {
        let credential = |registry: &str, username: &str| Credential {
            registry: registry.into(),
            username: username.into(),
            password: "p".into(),
        };
        let all = [credential("a.example.com", "a"), credential("b.example.com", "b")];
        let names = |reference| -> Vec<String> {
            logins(reference, &all).unwrap().into_iter().map(|login| login.username).collect()
        };
        assert_eq!(names("a.example.com/app:1"), ["a"]);
        assert!(names("app:1").is_empty());
        assert!(matches!(logins("A B", &all), Err(PullError::InvalidName(_))));
    }
}
