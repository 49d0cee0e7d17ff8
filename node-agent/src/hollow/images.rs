//! Images that are only names. What begins with `missing` cannot be had.

use std::path::PathBuf;

use crate::surface::{Credential, Failure, Image, ImageStore, PullError, PullPolicy};

pub struct HollowImages;

#[tonic::async_trait]
impl ImageStore for HollowImages {
    async fn ensure(&self, reference: &str, _: PullPolicy, _: &[Credential]) -> Result<Image, PullError> {
        if reference.starts_with("missing") {
            return Err(PullError::Failed("no registry has it".into()));
        }
        Ok(Image { id: format!("sha256:{reference}"), entrypoint: vec!["/run".into()], ..Image::default() })
    }

    async fn rootfs(&self, _: &Image, id: &str) -> Result<PathBuf, Failure> {
        Ok(std::env::temp_dir().join("copepod-no-such-root").join(id))
    }

    async fn release(&self, _: &str) -> Result<(), Failure> {
        Ok(())
    }
}
