//! The versions of a kind, where they differ in more than names: what only a webhook can convert becomes a question.

use std::{borrow::Cow, sync::Arc};

use copepod_api::{Object, Status, StatusResult};
use serde_json::Value;

use super::World;
use crate::{Row, apiextensions::Converter, asking::waiting};

impl World<'_> {
    /// A stored object as a row shows it.
    pub fn show(&self, row: &Row, object: &Arc<Object>) -> StatusResult<Arc<Object>> {
        let Some(converter) = row.converter_for(object) else { return Ok(row.show(object)) };
        let stored = serde_json::from_slice(&object.bytes()).map_err(Status::internal)?;
        let converted = self.asked(converter, stored, &row.kind.api_version())?;
        row.adopt(object, converted)
    }

    /// An object of a row as it is to be stored.
    pub fn stored<'v>(&self, row: &Row, shown: &'v Value) -> StatusResult<Cow<'v, Value>> {
        let version = row.stored_version();
        match row.converter() {
            Some(converter) if version != row.kind.api_version() => {
                self.asked(converter, shown.clone(), &version).map(Cow::Owned)
            }
            _ => Ok(row.store(shown)),
        }
    }

    /// An object of one row as another row of the same kind shows it.
    pub fn converted(&self, from: &Row, object: &Value, to: &Row) -> StatusResult<Value> {
        match from.converter() {
            Some(converter) => self.asked(converter, object.clone(), &to.kind.api_version()),
            None => Ok(from.converted(object, to)),
        }
    }

    fn asked(&self, converter: &Converter, object: Value, version: &str) -> StatusResult<Value> {
        let question = converter.question(vec![object], version);
        match self.testimony.converted(&question) {
            Some(answer) => answer.clone().map(|mut objects| objects.remove(0)),
            None => {
                self.open.borrow_mut().ask_for(question);
                Err(waiting())
            }
        }
    }
}
