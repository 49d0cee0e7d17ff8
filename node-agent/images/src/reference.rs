//! The name of an image, as people write it and as registries know it.

use std::{fmt, str::FromStr};

use crate::{Digest, ImageError};

/// Where a name without a registry leads, by old custom.
const DEFAULT_REGISTRY: &str = "docker.io";
/// Where Docker Hub keeps images that belong to no user.
const DEFAULT_NAMESPACE: &str = "library/";
const DEFAULT_TAG: &str = "latest";

/// Registries refuse more.
const NAME_BYTES_MAX: usize = 255;
const TAG_BYTES_MAX: usize = 128;

/// A whole name: `nginx` becomes `docker.io/library/nginx:latest`. With a digest, the digest decides and a tag is only a
/// remark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// `docker.io`, `registry.example.com:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// `library/nginx`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Registry and repository: what two tags of one image have in common.
    pub fn same_repository(&self, other: &Reference) -> bool {
        self.registry == other.registry && self.repository == other.repository
    }
}

impl FromStr for Reference {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Reference, ImageError> {
        let invalid = |reason: &str| ImageError::InvalidName(format!("{text:?} is not the name of an image: {reason}"));
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest = digest.parse::<Digest>().map_err(|error| invalid(&error.to_string()))?;
                (rest, Some(digest))
            }
            None => (text, None),
        };
        // A colon before the last slash is a port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag {
            tag_is_valid(tag).map_err(|reason| invalid(&reason))?;
        }
        let (registry, repository) = match name.split_once('/') {
            Some((first, repository)) if first == "localhost" || first.contains(['.', ':']) => (first, repository),
            _ => (DEFAULT_REGISTRY, name),
        };
        registry_is_valid(registry).map_err(|reason| invalid(&reason))?;
        repository_is_valid(repository).map_err(|reason| invalid(&reason))?;
        if name.len() > NAME_BYTES_MAX {
            return Err(invalid(&format!("it is longer than {NAME_BYTES_MAX} characters")));
        }
        let registry = match registry {
            "index.docker.io" | "registry-1.docker.io" => DEFAULT_REGISTRY,
            other => other,
        };
        let namespace = if registry == DEFAULT_REGISTRY && !repository.contains('/') { DEFAULT_NAMESPACE } else { "" };
        let tag = match (tag, &digest) {
            (None, None) => Some(DEFAULT_TAG),
            (tag, _) => tag,
        };
        Ok(Reference {
            registry: registry.to_owned(),
            repository: format!("{namespace}{repository}"),
            tag: tag.map(str::to_owned),
            digest,
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

fn registry_is_valid(registry: &str) -> Result<(), String> {
    let (host, port) = match registry.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (registry, None),
    };
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host_is_valid = match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.split('.').all(|label| {
            let plain = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            !label.is_empty() && plain && !label.starts_with('-') && !label.ends_with('-')
        }),
    };
    if !host_is_valid || port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err(format!("{registry:?} is no address of a registry"));
    }
    Ok(())
}

/// Words of lower-case letters and digits, with one dot, one or two underscores or some dashes between them.
fn repository_is_valid(repository: &str) -> Result<(), String> {
    if repository.is_empty() {
        return Err("the name is missing".to_owned());
    }
    if repository.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err("names are in lower case".to_owned());
    }
    for part in repository.split('/') {
        let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let separators = part.split(|character: char| character.is_ascii() && is_word(character as u8));
        let fits =
            |separator: &str| matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|byte| byte == b'-');
        let ends = part.bytes().next().is_some_and(is_word) && part.bytes().last().is_some_and(is_word);
        if !ends || !separators.into_iter().all(fits) {
            return Err(format!(
                "{part:?} should be lower-case letters and digits, separated by single dots, underscores or dashes"
            ));
        }
    }
    Ok(())
}

fn tag_is_valid(tag: &str) -> Result<(), String> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let valid = tag.len() <= TAG_BYTES_MAX
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || matches!(byte, b'.' | b'-'));
    if !valid {
        return Err(format!(
            "the tag {tag:?} should be at most {TAG_BYTES_MAX} letters, digits, dots, dashes and underscores"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> String {
        match text.parse::<Reference>() {
            Ok(reference) => reference.to_string(),
            Err(ImageError::InvalidName(_)) => "invalid".to_owned(),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn short_names_are_completed() {
        assert_eq!(whole("nginx"), "docker.io/library/nginx:latest");
        assert_eq!(whole("nginx:1.2"), "docker.io/library/nginx:1.2");
        assert_eq!(whole("me/app"), "docker.io/me/app:latest");
        assert_eq!(whole("index.docker.io/nginx"), "docker.io/library/nginx:latest");
        assert_eq!(whole("localhost/app"), "localhost/app:latest");
        assert_eq!(whole("localhost:5000/a/b__c.d-e---f:x_Y.z"), "localhost:5000/a/b__c.d-e---f:x_Y.z");
        assert_eq!(whole("[::1]:5000/app"), "[::1]:5000/app:latest");
        assert_eq!(whole("registry.k8s.io/pause:3.10"), "registry.k8s.io/pause:3.10");
        let digest = Digest::of(b"x");
        assert_eq!(whole(&format!("app@{digest}")), format!("docker.io/library/app@{digest}"));
        assert_eq!(whole(&format!("a.io/app:1@{digest}")), format!("a.io/app:1@{digest}"));
    }

    #[test]
    fn what_no_registry_could_have_is_refused() {
        for text in [
            "",
            ":",
            "/",
            "a/",
            "/a",
            "Nginx",
            "a b",
            "a..b",
            "a___b",
            "-a",
            "a-",
            "a:",
            "a:-x",
            "a//b",
            "a:b:c",
            "a@sha256:1",
            "a@md5:abc",
            "ä",
            "a.io:port/b",
            "a.io:99999/b",
            "../etc",
            "a/../b",
            "http://a.io/b",
        ] {
            assert_eq!(whole(text), "invalid", "{text:?}");
        }
        assert_eq!(whole(&format!("a:{}", "x".repeat(129))), "invalid");
        assert_eq!(whole(&"x".repeat(256)), "invalid");
    }
}
