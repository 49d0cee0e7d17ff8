//! Query parameters, read as Kubernetes reads them: a flag may stand without a value, an empty value counts as absent.

use copepod_api::{Revision, Status, StatusResult};
use http::Uri;

pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    pub fn of(uri: &Uri) -> StatusResult<Query> {
        axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map(|axum::extract::Query(pairs)| Query { pairs })
            .map_err(|error| Status::bad_request(format!("the query cannot be read: {error}")))
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(own, _)| own == name)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.pairs.iter().filter(move |(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// Present without a value means yes.
    pub fn flag(&self, name: &str) -> StatusResult<bool> {
        Ok(self.optional_flag(name)?.unwrap_or(false))
    }

    pub fn optional_flag(&self, name: &str) -> StatusResult<Option<bool>> {
        let Some((_, value)) = self.pairs.iter().find(|(own, _)| own == name) else { return Ok(None) };
        match value.as_str() {
            "" | "1" | "t" | "T" | "true" | "True" | "TRUE" => Ok(Some(true)),
            "0" | "f" | "F" | "false" | "False" | "FALSE" => Ok(Some(false)),
            other => Err(Status::bad_request(format!("{name}: must be true or false, not {other:?}"))),
        }
    }

    pub fn number(&self, name: &str) -> StatusResult<Option<i64>> {
        self.text(name)
            .map(|text| {
                text.parse().map_err(|_| Status::bad_request(format!("{name}: must be a whole number, not {text:?}")))
            })
            .transpose()
    }

    /// `resourceVersion`: absent is not the same as 0.
    pub fn revision(&self) -> StatusResult<Option<Revision>> {
        self.text("resourceVersion")
            .map(|text| {
                text.parse().map(Revision).map_err(|_| {
                    Status::bad_request(format!("resourceVersion: Invalid value: {text:?}: must be a number"))
                })
            })
            .transpose()
    }
}
