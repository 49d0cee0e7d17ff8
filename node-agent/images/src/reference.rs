//! The name of an image, as people write it and as registries know it.

use std::{fmt, str::FromStr};

use crate::{Digest, ImageError};

/// A whole name: `nginx` becomes `docker.io/library/nginx:latest`. With a digest, the digest decides and a tag is only a
/// remark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference(oci_client::Reference);

impl Reference {
    pub fn registry(&self) -> &str {
        self.0.registry()
    }

    pub fn repository(&self) -> &str {
        self.0.repository()
    }

    pub fn digest(&self) -> Option<Digest> {
        self.0.digest().and_then(|digest| digest.parse().ok())
    }

    /// Registry and repository: what two tags of one image have in common.
    pub fn same_repository(&self, other: &Reference) -> bool {
        self.registry() == other.registry() && self.repository() == other.repository()
    }

    pub(crate) fn as_client(&self) -> &oci_client::Reference {
        &self.0
    }
}

impl FromStr for Reference {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Reference, ImageError> {
        let parsed = oci_client::Reference::from_str(text.trim())
            .map_err(|error| ImageError::InvalidName(format!("{text:?} is not the name of an image: {error}")))?;
        if let Some(digest) = parsed.digest() {
            digest.parse::<Digest>().map_err(|error| ImageError::InvalidName(error.to_string()))?;
        }
        Ok(Reference(parsed))
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
