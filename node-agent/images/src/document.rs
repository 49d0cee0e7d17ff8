//! The JSON documents of images: index, manifest, configuration.
//!
//! Only what is used is read, and that leniently: these documents were written by two generations of many builders, with
//! `null` for an empty list and fields that no specification names. Both families of media types (OCI and Docker) have
//! the same shape, so the shape decides and not the label.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::{Digest, ImageError};

/// Registries refuse manifests above four megabytes; a configuration carries a history and labels beside it.
pub(crate) const DOCUMENT_BYTES_MAX: u64 = 8 << 20;

/// An index may hold an index, and rarely does; deeper nesting is a loop or a trap.
pub(crate) const INDEX_DEPTH_MAX: usize = 4;

/// The largest image known to us has 127 layers, which was Docker's own bound; overlayfs takes 500.
pub(crate) const LAYERS_MAX: usize = 500;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER_TAR: &str = "application/vnd.oci.image.layer.v1.tar";

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Descriptor {
    pub digest: Digest,
    pub size: u64,
    #[serde(default)]
    pub platform: Option<DescriptorPlatform>,
    #[serde(default)]
    pub annotations: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct DescriptorPlatform {
    pub os: String,
    pub architecture: String,
    #[serde(default)]
    pub variant: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Manifest {
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

#[derive(Clone, Debug)]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Vec<Descriptor>),
}

impl Document {
    pub fn parse(bytes: &[u8], what: &str) -> Result<Document, ImageError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Raw {
            #[serde(default)]
            schema_version: u32,
            config: Option<Descriptor>,
            layers: Option<Vec<Descriptor>>,
            manifests: Option<Vec<Descriptor>>,
        }
        let raw: Raw = parse(bytes, what)?;
        match raw {
            Raw { schema_version: 1, .. } => Err(ImageError::Malformed(format!(
                "{what} is of schema version 1, which registries gave up in 2019; push the image again with a current \
                 tool"
            ))),
            Raw { config: Some(config), layers, .. } => {
                let layers = layers.unwrap_or_default();
                if layers.len() > LAYERS_MAX {
                    let n_layers = layers.len();
                    return Err(ImageError::Malformed(format!(
                        "{what} has {n_layers} layers; at most {LAYERS_MAX} can be mounted"
                    )));
                }
                Ok(Document::Manifest(Manifest { config, layers }))
            }
            Raw { manifests: Some(manifests), .. } => Ok(Document::Index(manifests)),
            _ => Err(ImageError::Malformed(format!("{what} is neither a manifest nor an index of manifests"))),
        }
    }
}

/// What an image says about how to run it.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Configuration {
    #[serde(default)]
    pub architecture: Option<String>,
    #[serde(default)]
    pub os: Option<String>,
    #[serde(default)]
    pub config: Option<RunConfiguration>,
    pub rootfs: RootFs,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct RootFs {
    #[serde(default)]
    pub diff_ids: Option<Vec<Digest>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct RunConfiguration {
    pub user: Option<String>,
    pub env: Option<Vec<String>>,
    pub entrypoint: Option<Vec<String>>,
    pub cmd: Option<Vec<String>>,
    pub working_dir: Option<String>,
    pub stop_signal: Option<String>,
}

impl Configuration {
    pub fn parse(bytes: &[u8], what: &str) -> Result<Configuration, ImageError> {
        parse(bytes, what)
    }
}

/// The kind of machine an image is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    pub architecture: String,
}

impl Platform {
    /// This machine's.
    pub fn here() -> Platform {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Platform { architecture: architecture.to_owned() }
    }

    /// The entry of an index for this platform. An entry that names no platform fits, if nothing fits better.
    pub(crate) fn choose<'a>(&self, entries: &'a [Descriptor], what: &str) -> Result<&'a Descriptor, ImageError> {
        let exact = entries.iter().find(|entry| {
            entry.platform.as_ref().is_some_and(|platform| {
                platform.os == "linux"
                    && platform.architecture == self.architecture
                    && platform.variant.as_deref().is_none_or(|variant| BASE_VARIANTS.contains(&variant))
            })
        });
        exact.or_else(|| entries.iter().find(|entry| entry.platform.is_none())).ok_or_else(|| {
            let offered: Vec<String> = entries
                .iter()
                .filter_map(|entry| entry.platform.as_ref())
                .filter(|platform| platform.os != "unknown")
                .map(|platform| {
                    let variant = platform.variant.iter().map(|variant| format!("/{variant}"));
                    format!("{}/{}{}", platform.os, platform.architecture, variant.collect::<String>())
                })
                .collect();
            let offered = if offered.is_empty() { "nothing".to_owned() } else { offered.join(", ") };
            ImageError::Missing(format!("{what} has nothing for linux/{}; it has {offered}", self.architecture))
        })
    }
}

/// Variants that every machine of the architecture runs.
const BASE_VARIANTS: &[&str] = &["", "v1", "v8"];

pub(crate) fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8], what: &str) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|error| ImageError::Malformed(format!("{what} cannot be read: {error}")))
}
