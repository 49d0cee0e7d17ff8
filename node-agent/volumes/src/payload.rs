//! The files that a volume of configuration shows.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Secret, ServiceAccountTokenProjection, Volume, VolumeProjection,
};

use crate::{Sources, VolumeError};

/// The config map that every namespace has, with the cluster's certificate authority.
const ROOT_AUTHORITY: &str = "kube-root-ca.crt";

/// Readable by all: what Kubernetes gives configuration when nothing else is said.
const DEFAULT_MODE: u32 = 0o644;

/// A token is asked for this long when the spec does not say.
const TOKEN_SECONDS: i64 = 3600;

pub(crate) struct Payload {
    /// The volume's directory name in the layout of `/var/lib/kubelet`.
    pub plugin: &'static str,
    /// By path relative to the volume.
    pub files: BTreeMap<String, File>,
    /// Those whose content is to be had from nowhere at the moment: as they stand.
    pub kept: BTreeSet<String>,
}

#[derive(PartialEq, Eq)]
pub(crate) struct File {
    pub bytes: Vec<u8>,
    pub mode: u32,
}

/// The files of a volume of configuration; `None` for a volume of another kind.
pub(crate) fn of(volume: &Volume, sources: &dyn Sources) -> Result<Option<Payload>, VolumeError> {
    let mut files = Files { volume: &volume.name, files: BTreeMap::new(), kept: BTreeSet::new(), mode: DEFAULT_MODE };
    let plugin = if let Some(source) = &volume.config_map {
        files.mode = mode(source.default_mode);
        files.config_map(sources, &source.name, source.items.as_deref(), source.optional == Some(true))?;
        "kubernetes.io~configmap"
    } else if let Some(source) = &volume.secret {
        files.mode = mode(source.default_mode);
        let name = source.secret_name.as_deref().unwrap_or_default();
        files.secret(sources, name, source.items.as_deref(), source.optional == Some(true))?;
        "kubernetes.io~secret"
    } else if let Some(source) = &volume.downward_api {
        files.mode = mode(source.default_mode);
        files.downward(sources, source.items.as_deref().unwrap_or_default())?;
        "kubernetes.io~downward-api"
    } else if let Some(source) = &volume.projected {
        files.mode = mode(source.default_mode);
        for projection in source.sources.iter().flatten() {
            files.projection(sources, projection)?;
        }
        "kubernetes.io~projected"
    } else {
        return Ok(None);
    };
    Ok(Some(Payload { plugin, files: files.files, kept: files.kept }))
}

/// The audience of a token and the seconds it is asked for.
pub(crate) fn token(source: &ServiceAccountTokenProjection) -> (String, i64) {
    (source.audience.clone().unwrap_or_default(), source.expiration_seconds.unwrap_or(TOKEN_SECONDS))
}

fn mode(mode: Option<i32>) -> u32 {
    mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(DEFAULT_MODE) & 0o777
}

struct Files<'a> {
    volume: &'a str,
    files: BTreeMap<String, File>,
    kept: BTreeSet<String>,
    mode: u32,
}

impl Files<'_> {
    fn projection(&mut self, sources: &dyn Sources, projection: &VolumeProjection) -> Result<(), VolumeError> {
        if let Some(source) = &projection.config_map {
            self.config_map(sources, &source.name, source.items.as_deref(), source.optional == Some(true))?;
        }
        if let Some(source) = &projection.secret {
            self.secret(sources, &source.name, source.items.as_deref(), source.optional == Some(true))?;
        }
        if let Some(source) = &projection.downward_api {
            self.downward(sources, source.items.as_deref().unwrap_or_default())?;
        }
        if let Some(source) = &projection.service_account_token {
            let (audience, seconds) = token(source);
            let token = sources.service_account_token(&audience, seconds);
            self.add(&source.path, token.clone().unwrap_or_default().into_bytes(), None)?;
            if token.is_none() {
                self.kept.insert(source.path.clone());
            }
        }
        Ok(())
    }

    fn config_map(
        &mut self,
        sources: &dyn Sources,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: bool,
    ) -> Result<(), VolumeError> {
        let map = match sources.config_map(name) {
            None if name == ROOT_AUTHORITY => sources.authority().map(|pem| ConfigMap {
                data: Some(BTreeMap::from([("ca.crt".to_owned(), pem)])),
                ..ConfigMap::default()
            }),
            found => found,
        };
        let Some(map) = map else { return self.absent(optional, || format!("configmap {name:?} not found")) };
        let text = map.data.into_iter().flatten().map(|(key, value)| (key, value.into_bytes()));
        let binary = map.binary_data.into_iter().flatten().map(|(key, value)| (key, value.0));
        self.keys(text.chain(binary).collect(), &format!("configmap {name:?}"), items, optional)
    }

    fn secret(
        &mut self,
        sources: &dyn Sources,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: bool,
    ) -> Result<(), VolumeError> {
        let Some(Secret { data, .. }) = sources.secret(name) else {
            return self.absent(optional, || format!("secret {name:?} not found"));
        };
        let data = data.into_iter().flatten().map(|(key, value)| (key, value.0)).collect();
        self.keys(data, &format!("secret {name:?}"), items, optional)
    }

    /// All keys by their names, or those listed at their paths.
    fn keys(
        &mut self,
        mut data: BTreeMap<String, Vec<u8>>,
        from: &str,
        items: Option<&[KeyToPath]>,
        optional: bool,
    ) -> Result<(), VolumeError> {
        match items.filter(|items| !items.is_empty()) {
            None => data.into_iter().try_for_each(|(key, bytes)| self.add(&key, bytes, None)),
            Some(items) => items.iter().try_for_each(|item| match data.remove(&item.key) {
                Some(bytes) => {
                    self.add(&item.path, bytes.clone(), item.mode)?;
                    // The same key may be shown at several paths.
                    data.insert(item.key.clone(), bytes);
                    Ok(())
                }
                None => self.absent(optional, || format!("{from} references non-existent config key: {}", item.key)),
            }),
        }
    }

    fn downward(&mut self, sources: &dyn Sources, items: &[DownwardAPIVolumeFile]) -> Result<(), VolumeError> {
        for item in items {
            let text = match (&item.field_ref, &item.resource_field_ref) {
                (Some(field), _) => sources.field(field),
                (None, Some(resource)) => sources.resource(resource),
                (None, None) => Err("needs fieldRef or resourceFieldRef".into()),
            };
            let text = text.map_err(|what| self.invalid(format!("downwardAPI item {:?}: {what}", item.path)))?;
            self.add(&item.path, text.into_bytes(), item.mode)?;
        }
        Ok(())
    }

    fn add(&mut self, path: &str, bytes: Vec<u8>, own_mode: Option<i32>) -> Result<(), VolumeError> {
        let parts: Vec<&str> = path.split('/').collect();
        if path.is_empty()
            || path.starts_with("..")
            || parts.iter().any(|part| part.is_empty() || matches!(*part, "." | ".."))
        {
            let what = format!("path {path:?} must be relative, and neither contain nor begin with `..`");
            return Err(self.invalid(what));
        }
        let mode = own_mode.map_or(self.mode, |own| mode(Some(own)));
        self.files.insert(path.to_owned(), File { bytes, mode });
        Ok(())
    }

    fn absent(&self, optional: bool, what: impl FnOnce() -> String) -> Result<(), VolumeError> {
        if optional { Ok(()) } else { Err(VolumeError::Missing { volume: self.volume.into(), what: what() }) }
    }

    fn invalid(&self, what: String) -> VolumeError {
        VolumeError::Invalid { volume: self.volume.into(), what }
    }
}
