//! `hostPath`: something of the machine itself. Its type is checked, or made, as the spec says.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::HostPathVolumeSource;

use crate::{VolumeError, place};

pub(crate) fn make(volume: &str, source: &HostPathVolumeSource) -> Result<PathBuf, VolumeError> {
    let path = Path::new(&source.path);
    let invalid = |what: String| VolumeError::Invalid { volume: volume.into(), what };
    if !path.is_absolute() || path.components().any(|part| part.as_os_str() == "..") {
        return Err(invalid(format!("hostPath.path {:?} must be absolute and without `..`", source.path)));
    }
    let io = |error| place::io(volume, path, error);
    let wanted = source.type_.as_deref().unwrap_or_default();
    let found = fs::metadata(path).ok();
    match (wanted, &found) {
        // Without a type nothing is checked; a container runtime needs something to mount, so a directory is made.
        ("" | "DirectoryOrCreate", None) => {
            fs::create_dir_all(path).map_err(io)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(io)?;
        }
        ("FileOrCreate", None) => {
            fs::File::create(path).map_err(io)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).map_err(io)?;
        }
        ("", Some(_)) => (),
        (_, None) => {
            let what = format!("hostPath type check failed: {} does not exist on this node", source.path);
            return Err(VolumeError::Missing { volume: volume.into(), what });
        }
        (_, Some(metadata)) => {
            let kind = metadata.file_type();
            let (fits, name) = match wanted {
                "Directory" | "DirectoryOrCreate" => (kind.is_dir(), "a directory"),
                "File" | "FileOrCreate" => (kind.is_file(), "a file"),
                "Socket" => (kind.is_socket(), "a socket file"),
                "CharDevice" => (kind.is_char_device(), "a character device"),
                "BlockDevice" => (kind.is_block_device(), "a block device"),
                _ => return Err(invalid(format!("hostPath.type {wanted:?} is not known"))),
            };
            if !fits {
                return Err(invalid(format!("hostPath type check failed: {} is not {name}", source.path)));
            }
        }
    }
    Ok(path.to_path_buf())
}
