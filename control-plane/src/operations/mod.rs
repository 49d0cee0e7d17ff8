//! What the operators of a cluster ask its servers for: a backup, who the servers are, and changes of that.
//!
//! Beside the Kubernetes API, on the same port, below `/copepod/v1/`. Only administrators by certificate are heard: a
//! backup holds the authority's key, and whoever has that is everybody.

mod backup;
mod servers;

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    middleware::{self, Next},
    response::Response,
    routing::{get, post},
};
use bytes::Bytes;
use copepod_api::{Status, User};
use copepod_identity::MASTERS_GROUP;
use copepod_replica::{Member, Replica};
use serde_json::Value;

use crate::{door::ServerDoor, keys::Keys};

pub use backup::{BackupError, Summary, check_backup, restore};

/// What these are answered from.
pub struct Operations {
    pub name: String,
    pub replica: Replica,
    pub door: Arc<ServerDoor>,
    pub keys: Keys,
}

pub fn router(operations: Operations) -> Router {
    Router::new()
        .route("/copepod/v1/backup", get(backup::stream))
        .route("/copepod/v1/server", get(servers::itself))
        .route("/copepod/v1/servers/{name}/remove", post(servers::remove))
        .route("/copepod/v1/servers/{name}/transfer", post(servers::transfer))
        .route_layer(middleware::from_fn(only_administrators))
        .with_state(Arc::new(operations))
}

type Means = State<Arc<Operations>>;

async fn only_administrators(request: Request, next: Next) -> Response {
    let user = request.extensions().get::<User>();
    if user.is_some_and(|user| user.is_in(MASTERS_GROUP)) {
        return next.run(request).await;
    }
    let why =
        format!("only a certificate of the group {MASTERS_GROUP} may do this: use the admin.kubeconfig of a server");
    refusal(&Status::new(403, "Forbidden", why))
}

fn refusal(status: &Status) -> Response {
    answer(status.code(), &status.to_value())
}

fn answer(code: u16, value: &Value) -> Response {
    let mut response = Response::new(Body::from(Bytes::from(value.to_string())));
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}

fn shown(member: &Member) -> Value {
    serde_json::json!({
        "id": member.id, "name": member.name, "address": member.address, "learner": member.learner,
    })
}
