//! The volumes of a pod, as directories on this machine.
//!
//! A volume is made under `<pod dir>/volumes/<kind>/<name>` (the layout that other programs know from `/var/lib/kubelet`)
//! and mounted into containers from there. What shows configuration is written through a symbolic link, so that a reader
//! sees all files of one version or all of the next. Making a volume again is cheap and changes nothing that is right, so
//! the same call serves the first time, every change of configuration, and the agent's restart.
//!
//! ```text
//! volumes/kubernetes.io~configmap/web/
//!     index.html -> ..data/index.html
//!     ..data -> ..2026_11_23_11_02_41.000000123
//!     ..2026_11_23_11_02_41.000000123/index.html
//! ```

mod atomic;
mod empty_dir;
mod host_path;
mod payload;
mod place;
mod subpath;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{ConfigMap, ObjectFieldSelector, Pod, ResourceFieldSelector, Secret, Volume};

pub use subpath::mount_source;

/// What volumes show of the cluster and of their pod.
pub trait Sources {
    /// From the pod's namespace.
    fn config_map(&self, name: &str) -> Option<ConfigMap>;
    fn secret(&self, name: &str) -> Option<Secret>;
    fn field(&self, selector: &ObjectFieldSelector) -> Result<String, String>;
    fn resource(&self, selector: &ResourceFieldSelector) -> Result<String, String>;
    /// A token of the pod's service account. `None` if none is to be had now: the file that stands is then left as it is.
    fn service_account_token(&self, audience: &str, expiration_seconds: i64) -> Option<String>;
    /// The cluster's certificate authority, for `kube-root-ca.crt`, should the config map of that name be missing.
    fn authority(&self) -> Option<String>;
}

/// Why a volume cannot be made. What is missing may come; what is wrong stays wrong until the pod's spec changes.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("volume {volume:?}: {what}")]
    Missing { volume: String, what: String },
    #[error("volume {volume:?}: {what}")]
    Invalid { volume: String, what: String },
    #[error("volume {volume:?}: {path}: {source}", path = path.display())]
    Io { volume: String, path: PathBuf, source: io::Error },
}

/// Where the volumes of a pod are, by name.
pub type Volumes = BTreeMap<String, Made>;

/// A volume that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    pub path: PathBuf,
    /// Containers may never write to it: it shows the cluster's configuration.
    pub read_only: bool,
}

/// Makes all volumes of a pod, or brings them up to date. `pod_dir` is the pod's own directory.
pub fn prepare(pod_dir: &Path, pod: &Pod, sources: &dyn Sources, version: &str) -> Result<Volumes, VolumeError> {
    let mut made = Volumes::new();
    for volume in volumes(pod) {
        made.insert(volume.name.clone(), one(pod_dir, pod, volume, sources, version)?);
    }
    Ok(made)
}

/// Takes every volume of the pod away: unmounts what is mounted under its directory, then removes the directory.
///
/// What belongs to the host (`hostPath`) is never below it, and a mount that cannot be undone keeps its files: the
/// directory is only removed when nothing is mounted there any more.
pub fn tear_down(pod_dir: &Path) -> io::Result<()> {
    place::unmount_below(pod_dir)?;
    match fs::remove_dir_all(pod_dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether a change of configuration must be written into the pod's volumes: whether any of them shows some.
pub fn shows_configuration(pod: &Pod) -> bool {
    volumes(pod)
        .iter()
        .any(|v| v.config_map.is_some() || v.secret.is_some() || v.projected.is_some() || v.downward_api.is_some())
}

/// The names of the config maps and of the secrets that the pod's volumes need.
pub fn references(pod: &Pod) -> (Vec<String>, Vec<String>) {
    let mut config_maps = Vec::new();
    let mut secrets = Vec::new();
    for volume in volumes(pod) {
        config_maps.extend(volume.config_map.iter().map(|source| source.name.clone()));
        secrets.extend(volume.secret.iter().filter_map(|source| source.secret_name.clone()));
        for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
            config_maps.extend(source.config_map.iter().map(|source| source.name.clone()));
            secrets.extend(source.secret.iter().map(|source| source.name.clone()));
        }
    }
    (config_maps, secrets)
}

/// The tokens that the pod's volumes show: the audience (empty: the API's own) and the seconds to ask for.
pub fn tokens(pod: &Pod) -> Vec<(String, i64)> {
    let sources = volumes(pod).iter().filter_map(|volume| volume.projected.as_ref()?.sources.as_ref()).flatten();
    let tokens = sources.filter_map(|source| source.service_account_token.as_ref());
    tokens.map(payload::token).collect()
}

fn volumes(pod: &Pod) -> &[Volume] {
    pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default()
}

fn one(pod_dir: &Path, pod: &Pod, volume: &Volume, sources: &dyn Sources, version: &str) -> Result<Made, VolumeError> {
    let fs_group = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.security_context.as_ref())
        .and_then(|context| context.fs_group)
        .and_then(|group| u32::try_from(group).ok());
    if let Some(source) = &volume.host_path {
        return host_path::make(&volume.name, source).map(|path| Made { path, read_only: false });
    }
    if let Some(mut payload) = payload::of(volume, sources)? {
        let path = place::dir(pod_dir, payload.plugin, &volume.name)?;
        if let Some(missing) = atomic::keep(&path, &mut payload) {
            let what = format!("no token for {missing:?}: no server has issued one yet");
            return Err(VolumeError::Missing { volume: volume.name.clone(), what });
        }
        atomic::write(&path, &payload, fs_group, version).map_err(|error| place::io(&volume.name, &path, error))?;
        return Ok(Made { path, read_only: true });
    }
    if let Some(source) = &volume.empty_dir {
        let path = place::dir(pod_dir, "kubernetes.io~empty-dir", &volume.name)?;
        empty_dir::make(&volume.name, &path, source, fs_group)?;
        return Ok(Made { path, read_only: false });
    }
    let what = if volume.persistent_volume_claim.is_some() {
        "persistent volume claims are not supported by this node yet: use emptyDir or hostPath"
    } else {
        "its source is not supported by this node: use configMap, secret, projected, downwardAPI, emptyDir or hostPath"
    };
    Err(VolumeError::Invalid { volume: volume.name.clone(), what: what.into() })
}
