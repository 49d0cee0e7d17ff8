//! The OpenAPI documents of programs, beside those of the server.
//!
//! In v3 each group and version has a document of its own, so the index tells of the program's and requests for it are
//! passed on. In v2 there is one document of everything, and what the program says of its own paths is put into it.

use std::sync::Arc;

use copepod_store::View;
use futures::future::join_all;
use serde_json::{Map, Value};

use super::{Registrations, Remote};
use crate::front::Front;

/// The program whose document this is: `apis/GROUP/VERSION`.
pub fn owner(view: &View, path: &str) -> Option<Remote> {
    let (group, version) = path.strip_prefix("apis/")?.split_once('/')?;
    Registrations::of(view).remote(group, version).cloned()
}

/// What programs add to the index of v3.
pub async fn index(front: &Front, view: &View) -> Map<String, Value> {
    let told = all(front, view, "/openapi/v3").await;
    let entry = |(group, version, index): (String, String, Arc<Value>)| {
        let path = format!("apis/{group}/{version}");
        index["paths"].get(&path).cloned().map(|entry| (path, entry))
    };
    told.into_iter().filter_map(entry).collect()
}

/// What programs add to the document of v2: definitions, and the paths of their groups and versions.
pub async fn second(front: &Front, view: &View) -> Vec<(Arc<Value>, String)> {
    let told = all(front, view, "/openapi/v2").await;
    told.into_iter().map(|(group, version, document)| (document, format!("/apis/{group}/{version}/"))).collect()
}

/// What each program answers that answers at all.
async fn all(front: &Front, view: &View, path: &str) -> Vec<(String, String, Arc<Value>)> {
    let owned =
        |(group, version, remote): (&str, &str, &Remote)| (group.to_owned(), version.to_owned(), remote.clone());
    let all: Vec<_> = Registrations::of(view).remotes().map(owned).collect();
    let asked = all.into_iter().map(|(group, version, remote)| async move {
        let (said, _) = front.told.ask(front, view, &remote, path).await;
        said.map(|said| (group, version, said))
    });
    join_all(asked).await.into_iter().flatten().collect()
}
