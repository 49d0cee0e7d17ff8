//! Which kinds a cluster serves.
//!
//! The built-in ones, and those that its CustomResourceDefinitions describe. A catalog follows from a view and from
//! nothing else, so every server has the same, and a kind can be used in the transaction after the one that defined it.
//! It is made once for each state of the definitions, and a row once for each state of its definition.

use std::sync::{Arc, LazyLock};

use copepod_api::{Object, Resource};
use copepod_store::View;

use crate::{
    Row,
    apiextensions::{DEFINITIONS, rows_of},
    rows,
};

pub struct Catalog {
    rows: Vec<Arc<Row>>,
}

impl Catalog {
    /// The kinds that are served in this view.
    pub fn of(view: &View) -> Arc<Catalog> {
        let with_definitions = |definitions: &mut dyn Iterator<Item = &Arc<Object>>| {
            let built_in = rows().iter().cloned();
            let own = definitions.filter_map(|definition| definition.derived(rows_of)).flat_map(|rows| (*rows).clone());
            Catalog { rows: built_in.chain(own).collect() }
        };
        view.derived(&DEFINITIONS, with_definitions).unwrap_or_else(Catalog::built_in)
    }

    /// The kinds that every cluster serves.
    pub fn built_in() -> Arc<Catalog> {
        static BUILT_IN: LazyLock<Arc<Catalog>> = LazyLock::new(|| Arc::new(Catalog { rows: rows().to_vec() }));
        BUILT_IN.clone()
    }

    /// In the order of discovery; of several versions of a kind, the preferred comes first.
    pub fn rows(&self) -> &[Arc<Row>] {
        &self.rows
    }

    /// The row of a resource at a version; an empty version asks for the one that is stored, so that whoever deletes or
    /// looks after objects of all kinds needs nobody who converts them.
    pub fn row(&self, resource: &Resource, version: &str) -> Option<&Arc<Row>> {
        find(&self.rows, resource, version)
    }
}

pub(crate) fn find<'a>(rows: &'a [Arc<Row>], resource: &Resource, version: &str) -> Option<&'a Arc<Row>> {
    let mut own = rows.iter().filter(|row| row.kind.plural == resource.plural && row.kind.group == resource.group);
    if version.is_empty() {
        return own.clone().find(|row| row.is_stored_version()).or_else(|| own.next());
    }
    own.find(|row| row.kind.version == version)
}
