//! `emptyDir`: a directory that lives as long as the pod, on disk or in memory.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
};

use copepod_api::quantity::Quantity;
use k8s_openapi::api::core::v1::EmptyDirVolumeSource;
use nix::mount::{MsFlags, mount};

use crate::{VolumeError, place};

pub(crate) fn make(
    volume: &str,
    path: &Path,
    source: &EmptyDirVolumeSource,
    fs_group: Option<u32>,
) -> Result<(), VolumeError> {
    let io = |error| place::io(volume, path, error);
    match source.medium.as_deref().unwrap_or_default() {
        "" => (),
        "Memory" => {
            if !place::is_mount(path).map_err(io)? {
                let options = memory_options(volume, source)?;
                let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
                mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options.as_str())).map_err(|e| io(e.into()))?;
            }
        }
        other => {
            let what = format!("emptyDir.medium {other:?} is not supported: leave it out for disk, or use \"Memory\"");
            return Err(VolumeError::Invalid { volume: volume.into(), what });
        }
    }
    // Any user of any container may write; with a group of its own, files made in it belong to that group.
    let mode = match fs_group {
        Some(group) => {
            chown(path, None, Some(group)).map_err(io)?;
            0o2777
        }
        None => 0o777,
    };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(io)
}

fn memory_options(volume: &str, source: &EmptyDirVolumeSource) -> Result<String, VolumeError> {
    let Some(limit) = &source.size_limit else { return Ok("mode=0777".into()) };
    let bytes = Quantity::parse(&limit.0).map(|quantity| quantity.value()).map_err(|what| VolumeError::Invalid {
        volume: volume.into(),
        what: format!("emptyDir.sizeLimit {:?}: {what}", limit.0),
    })?;
    // A tmpfs of size zero is one without a limit.
    Ok(format!("mode=0777,size={}", bytes.max(1)))
}
