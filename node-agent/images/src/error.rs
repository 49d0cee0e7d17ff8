//! What can go wrong with an image.

use std::io;

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    /// No registry could have an image of such a name.
    #[error("{0}")]
    InvalidName(String),
    /// It is not in the store.
    #[error("{0}")]
    Missing(String),
    /// The content is not what it should be: damaged, dangerous, or of a format nobody here reads.
    #[error("{0}")]
    Malformed(String),
    /// A registry said no, or said nothing.
    #[error("{0}")]
    Registry(String),
    /// Others work on the store just now.
    #[error("{0}")]
    Busy(String),
}

impl ImageError {
    pub(crate) fn io<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> ImageError {
        let what = what.into();
        move |source| ImageError::Io { what, source: source.into() }
    }
}
