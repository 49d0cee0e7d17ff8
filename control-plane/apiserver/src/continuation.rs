//! Where the next page of a list begins: what `continue` says.
//!
//! A token names the revision that all pages show and the last object of the page before. It is for this program only,
//! though clients can read it: what it says is checked like anything that a client sends.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use copepod_api::{Name, Revision, Status, StatusResult, Timestamp};
use serde::{Deserialize, Serialize};

use crate::query::Query;

/// Where a page starts.
pub struct Start {
    /// `None` for whatever is there.
    pub at: Option<Revision>,
    pub after: Name,
    /// When the first page was made.
    pub since: Timestamp,
    /// How many objects the page before left, where that was known and all pages show the same.
    pub remaining: Option<usize>,
}

#[derive(Serialize, Deserialize)]
struct Token {
    v: u8,
    /// The revision that all pages show; negative for whatever is there.
    rv: i64,
    namespace: String,
    name: String,
    /// When the first page was made, in seconds since 1970.
    since: i64,
    /// How many objects this page and those after it have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    left: Option<usize>,
}

/// Tokens of other forms are of other versions of this program, and expire.
const TOKEN_VERSION: u8 = 2;

/// How long a list may be continued as it was. Each page undoes all that happened since the first, so a client that
/// dawdles makes its pages dearer for everybody; upstream's tokens live for five to ten minutes.
const SECONDS_MAX: i64 = 8 * 60;

impl Start {
    pub fn of(query: &Query, now: Timestamp) -> StatusResult<Option<Start>> {
        let Some(text) = query.text("continue") else { return Ok(None) };
        if query.revision()?.is_some_and(|revision| revision != Revision::ZERO) {
            return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
        }
        let malformed = |why: &str| Status::bad_request(format!("continue key is not valid: {why}"));
        let token = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|error| malformed(&error.to_string()))?;
        let token: Token = serde_json::from_slice(&token).map_err(|error| malformed(&error.to_string()))?;
        if token.v != TOKEN_VERSION {
            return Err(malformed("it was made by another version of this server"));
        }
        if token.rv == 0 || token.name.is_empty() {
            return Err(malformed("it does not say where to go on"));
        }
        let since = Timestamp::from_second(token.since).map_err(|error| malformed(&error.to_string()))?;
        let at = u64::try_from(token.rv).ok().map(Revision);
        let remaining = token.left.filter(|_| at.is_some());
        let start = Start { at, after: Name::new(token.namespace, token.name), since, remaining };
        let age = now.as_second().saturating_sub(token.since);
        if start.at.is_some() && age > SECONDS_MAX { Err(start.expired()) } else { Ok(Some(start)) }
    }

    /// The refusal of a page that cannot be shown as it was, with a token for those who take it as it is.
    pub fn expired(&self) -> Status {
        Status::expired(
            "The provided continue parameter is too old to display a consistent list result. Start a new list without \
             it, or go on with the token in metadata.continue of this answer: the rest of the list is then shown as it is \
             now, and not as it was when the first page was shown.",
        )
        .with_continue(token(None, &self.after, self.since, None))
    }
}

/// Names the page after `last`, with which `remaining` objects remain.
pub fn token(at: Option<Revision>, last: &Name, since: Timestamp, remaining: Option<usize>) -> String {
    let token = Token {
        v: TOKEN_VERSION,
        rv: at.and_then(|at| i64::try_from(at.0).ok()).unwrap_or(-1),
        namespace: last.namespace.to_string(),
        name: last.name.to_string(),
        since: since.as_second(),
        left: remaining,
    };
    BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(text: &str, now: i64) -> StatusResult<Option<Start>> {
        let query = Query::of(&format!("/api/v1/pods?continue={text}").parse().unwrap()).unwrap();
        Start::of(&query, Timestamp::from_second(now).unwrap())
    }

    #[test]
    fn a_token_expires_into_one_that_takes_what_is_there() {
        let first =
            token(Some(Revision(7)), &Name::new("default", "a"), Timestamp::from_second(1_000).unwrap(), Some(3));
        let soon = start(&first, 1_000 + SECONDS_MAX).unwrap().unwrap();
        assert_eq!((soon.at, &*soon.after.name, soon.remaining), (Some(Revision(7)), "a", Some(3)));
        let expired = start(&first, 1_001 + SECONDS_MAX).err().unwrap().to_value();
        assert_eq!((&expired["code"], &expired["reason"]), (&410.into(), &"Expired".into()));
        let on = start(expired["metadata"]["continue"].as_str().unwrap(), 1_000_000).unwrap().unwrap();
        assert_eq!((on.at, &*on.after.name, on.remaining), (None, "a", None));
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let encoded = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        for text in [
            "nonsense".to_owned(),
            "%ff".to_owned(),
            encoded("{}"),
            encoded(r#"{"v":1,"rv":1,"namespace":"","name":"a","since":0}"#),
            encoded(r#"{"v":2,"rv":0,"namespace":"","name":"a","since":0}"#),
            encoded(r#"{"v":2,"rv":-1,"namespace":"","name":"a","since":9223372036854775807}"#),
            "A".repeat(50_000),
        ] {
            assert_eq!(start(&text, 0).err().unwrap().code(), 400, "{text}");
        }
    }
}
