//! Images, which belong to the runtime: it pulls, unpacks and forgets them.

use std::time::Duration;

use serde::Deserialize;

use super::{Cri, proto, within};
use crate::RuntimeError;

/// How long a pull may take. Large images over slow lines are pulled, and a pull that has died is noticed one day.
const PULL_MAX: Duration = Duration::from_secs(60 * 60);

/// How long it may take to say whether an image is there.
const LOOK_MAX: Duration = Duration::from_secs(120);

/// An image that is there, with what it says about its containers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    pub id: String,
    pub entrypoint: Vec<String>,
    pub command: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    pub working_dir: String,
    pub user: String,
    pub stop_signal: Option<String>,
}

/// How to log in to the registry of an image.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    pub username: String,
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.username)
    }
}

impl Cri {
    /// The image of a name or an id, if it is there.
    pub async fn image(&self, reference: &str) -> Result<Option<ImageConfig>, RuntimeError> {
        let mut images = self.images.clone();
        let asked = proto::ImageStatusRequest { image: Some(named(reference)), verbose: true };
        let answer = within(LOOK_MAX, asked, |request| images.image_status(request)).await?;
        let Some(image) = answer.image else { return Ok(None) };
        let said = match answer.info.get("info") {
            Some(text) => serde_json::from_str(text)
                .map_err(|error| format!("what the runtime says of image {reference} is not understood: {error}"))?,
            None => Info::default(),
        };
        Ok(Some(config(image, said)))
    }

    /// Fetches an image; gives the name under which the runtime knows it.
    pub async fn pull(&self, reference: &str, login: Option<&Login>) -> Result<String, RuntimeError> {
        let mut images = self.images.clone();
        let auth = login.map(|Login { username, password }| proto::AuthConfig {
            username: username.clone(),
            password: password.clone(),
            ..proto::AuthConfig::default()
        });
        let asked = proto::PullImageRequest { image: Some(named(reference)), auth, sandbox_config: None };
        Ok(within(PULL_MAX, asked, |request| images.pull_image(request)).await?.image_ref)
    }
}

fn named(reference: &str) -> proto::ImageSpec {
    proto::ImageSpec { image: reference.to_owned(), ..proto::ImageSpec::default() }
}

/// What containerd and CRI-O both add when they are asked to be verbose.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Info {
    image_spec: Spec,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Spec {
    config: Config,
}

/// As images write it (image-spec 1.1, config.md); lists may be null.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Config {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    stop_signal: Option<String>,
}

fn config(image: proto::Image, info: Info) -> ImageConfig {
    let said = info.image_spec.config;
    // The interface itself has the user only, as a number or a name.
    let user = image.uid.map_or(image.username, |uid| uid.value.to_string());
    ImageConfig {
        id: image.id,
        entrypoint: said.entrypoint.unwrap_or_default(),
        command: said.cmd.unwrap_or_default(),
        env: said.env.unwrap_or_default(),
        working_dir: said.working_dir.unwrap_or_default(),
        user: said.user.unwrap_or(user),
        stop_signal: said.stop_signal.filter(|signal| !signal.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_image_says_is_read() {
        let text = r#"{"chainID": "sha256:0", "imageSpec": {"architecture": "amd64", "config":
            {"Entrypoint": ["/app"], "Cmd": null, "Env": ["A=1"], "WorkingDir": "/w", "User": "web:web",
             "StopSignal": "SIGQUIT", "ExposedPorts": {"80/tcp": {}}}}}"#;
        let image = proto::Image { id: "sha256:1".into(), username: "web".into(), ..proto::Image::default() };
        let config = config(image, serde_json::from_str(text).unwrap());
        assert_eq!((config.entrypoint, config.command), (vec!["/app".to_owned()], vec![]));
        assert_eq!((config.user.as_str(), config.stop_signal.as_deref()), ("web:web", Some("SIGQUIT")));
    }

    #[test]
    fn a_runtime_that_says_little_still_names_the_user() {
        let image = proto::Image { uid: Some(proto::Int64Value { value: 7 }), ..proto::Image::default() };
        assert_eq!(config(image, Info::default()).user, "7");
    }
}
