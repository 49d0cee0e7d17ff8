//! The three ways to change an object by saying what is different. (The fourth, server-side apply, is in `apply`.)

mod json;
mod merge;
mod strategic;

pub use json::json;
pub use merge::merge;
pub use strategic::strategic;

use crate::Status;

/// A patch that cannot be carried out.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct PatchError {
    pub fault: Fault,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is no patch.
    Malformed,
    /// It is more than one request may ask for.
    TooLarge,
    /// It does not fit the object.
    Unfit,
}

impl PatchError {
    fn malformed(message: impl Into<String>) -> Self {
        PatchError { fault: Fault::Malformed, message: message.into() }
    }

    fn unfit(message: impl Into<String>) -> Self {
        PatchError { fault: Fault::Unfit, message: message.into() }
    }
}

impl From<PatchError> for Status {
    fn from(error: PatchError) -> Status {
        match error.fault {
            Fault::Malformed => Status::bad_request(error.message),
            Fault::TooLarge => Status::too_large(error.message),
            Fault::Unfit => {
                let message =
                    format!("the server rejected our request due to an error in our request: {}", error.message);
                Status::new(422, "Invalid", message)
            }
        }
    }
}
