//! Is the server alive, is it ready, and what is it.

use axum::response::Response;
use copepod_api::{Status, StatusResult};
use copepod_store::{Door, Leader};
use serde_json::json;

use crate::{accept::Encoding, answer, path::Probe};

/// Ready means: knows who takes writes. Alive means: answers.
pub fn answer(door: &dyn Door, probe: Probe) -> StatusResult<Response> {
    if probe == Probe::Ready && door.leader() == Leader::Unknown {
        return Err(Status::unavailable("the servers have not agreed on a leader (yet)"));
    }
    Ok(answer::typed(200, "text/plain; charset=utf-8", "ok"))
}

pub fn version() -> Response {
    let platform = match std::env::consts::ARCH {
        "x86_64" => "linux/amd64".to_owned(),
        "aarch64" => "linux/arm64".to_owned(),
        other => format!("linux/{other}"),
    };
    let version = json!({
        "major": "1",
        "minor": "36",
        "gitVersion": format!("v1.36.0+copepod{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none",
        "compiler": "rustc",
        "platform": platform,
    });
    answer::value(200, &version, Encoding::Pretty)
}
