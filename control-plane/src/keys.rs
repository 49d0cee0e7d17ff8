//! The key files of a server: made at the cluster's birth, or received when it joins.
//!
//! `authority.crt` and `authority.key` are the cluster's, the same on every server. A server's own certificate is issued
//! from them at each start and kept in memory only. The files are readable by their owner only.

use std::{
    collections::HashMap,
    fs,
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use bytes::Bytes;

use crate::ServerError;

const AUTHORITY_CERTIFICATE: &str = "authority.crt";
const AUTHORITY_KEY: &str = "authority.key";

/// What joining servers are given: everything a server must share with the others.
const SHARED: [&str; 2] = [AUTHORITY_CERTIFICATE, AUTHORITY_KEY];

#[derive(Clone)]
pub struct Keys {
    directory: PathBuf,
}

impl Keys {
    pub fn in_directory(directory: PathBuf) -> Result<Keys, ServerError> {
        fs::create_dir_all(&directory).map_err(|error| ServerError::disk(&directory, error))?;
        let owner_only = fs::Permissions::from_mode(0o700);
        fs::set_permissions(&directory, owner_only).map_err(|error| ServerError::disk(&directory, error))?;
        Ok(Keys { directory })
    }

    /// The authority's certificate and key, PEM; `None` before the first start.
    pub fn authority(&self) -> Result<Option<(String, String)>, ServerError> {
        let certificate = self.read(AUTHORITY_CERTIFICATE)?;
        let key = self.read(AUTHORITY_KEY)?;
        match (certificate, key) {
            (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
            (None, None) => Ok(None),
            (Some(_), None) => Err(ServerError::keys(self.directory.join(AUTHORITY_KEY), "is missing")),
            (None, Some(_)) => Err(ServerError::keys(self.directory.join(AUTHORITY_CERTIFICATE), "is missing")),
        }
    }

    /// The key goes first, so that a certificate on disk always has its key.
    pub fn keep_authority(&self, certificate: &str, key: &str) -> Result<(), ServerError> {
        self.write(AUTHORITY_KEY, key.as_bytes())?;
        self.write(AUTHORITY_CERTIFICATE, certificate.as_bytes())
    }

    pub fn shared(&self) -> Result<HashMap<String, Bytes>, ServerError> {
        let mut files = HashMap::new();
        for name in SHARED {
            files.extend(self.read(name)?.map(|text| (name.to_owned(), Bytes::from(text))));
        }
        Ok(files)
    }

    pub fn keep_shared(&self, files: &HashMap<String, Bytes>) -> Result<(), ServerError> {
        for name in SHARED.iter().rev() {
            let content = files.get(*name).ok_or_else(|| {
                ServerError::keys(self.directory.join(name), "was not sent by the server that was joined")
            })?;
            self.write(name, content)?;
        }
        Ok(())
    }

    fn read(&self, name: &str) -> Result<Option<String>, ServerError> {
        let path = self.directory.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ServerError::disk(&path, error)),
        }
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<(), ServerError> {
        write_private(&self.directory.join(name), content)
    }
}

/// Replaces a file as a whole, durable and readable by its owner only.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), ServerError> {
    let beside = path.with_extension("new");
    let written = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&beside, path))
        .and_then(|()| fs::File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all());
    written.map_err(|error| ServerError::disk(path, error))
}
