//! Is the server alive, is it ready, and what is it.
//!
//! `/livez`, `/readyz` and `/healthz` answer `ok` when all their checks pass, and name them one by one with `?verbose` or
//! when one fails. `/readyz/etcd` is one check, and `?exclude=etcd` leaves one out. What upstream keeps in etcd is here in
//! the replicated log; monitors know that check by this name.

use axum::response::Response;
use copepod_api::StatusResult;
use copepod_store::{Door, Leader};
use http::{HeaderName, HeaderValue, Uri};
use serde_json::json;

use crate::{accept::Encoding, answer, path::Probe, query::Query};

struct Check {
    name: &'static str,
    passes: fn(&dyn Door) -> bool,
}

/// It answers, or this would not be running.
const PING: Check = Check { name: "ping", passes: |_| true };

/// It knows who takes writes.
const LEADER: Check = Check { name: "etcd", passes: |door| door.leader() != Leader::Unknown };

impl Probe {
    fn name(self) -> &'static str {
        match self {
            Probe::Healthy => "healthz",
            Probe::Alive => "livez",
            Probe::Ready => "readyz",
        }
    }

    /// A server without a leader is alive: to start it again would help nobody.
    fn checks(self) -> &'static [Check] {
        match self {
            Probe::Healthy | Probe::Alive => &[PING],
            Probe::Ready => &[PING, LEADER],
        }
    }
}

/// `only`: the one check that is asked for.
pub fn answer(door: &dyn Door, probe: Probe, only: Option<&str>, uri: &Uri) -> StatusResult<Response> {
    let query = Query::of(uri)?;
    let checks: Vec<&Check> =
        probe.checks().iter().filter(|check| only.is_none_or(|only| only == check.name)).collect();
    if checks.is_empty() {
        return Ok(text(404, "404 page not found\n".to_owned()));
    }
    let mut report = String::new();
    let mut has_passed = true;
    for check in &checks {
        let line = match (query.all("exclude").any(|name| name == check.name), (check.passes)(door)) {
            (true, _) => format!("[+]{} excluded: ok\n", check.name),
            (false, true) => format!("[+]{} ok\n", check.name),
            (false, false) => {
                has_passed = false;
                format!("[-]{} failed: reason withheld\n", check.name)
            }
        };
        report.push_str(&line);
    }
    let unknown: Vec<String> = query
        .all("exclude")
        .filter(|name| !checks.iter().any(|check| check.name == *name))
        .map(|name| format!("{name:?}"))
        .collect();
    if !unknown.is_empty() {
        report
            .push_str(&format!("warn: some health checks cannot be excluded: no matches for {}\n", unknown.join(", ")));
    }
    Ok(match (has_passed, query.flag("verbose")? && only.is_none()) {
        (true, false) => text(200, "ok".to_owned()),
        (true, true) => text(200, format!("{report}{} check passed\n", probe.name())),
        (false, _) => text(500, format!("{report}{} check failed\n", probe.name())),
    })
}

fn text(code: u16, body: String) -> Response {
    let mut response = answer::typed(code, "text/plain; charset=utf-8", body);
    let nosniff = (HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
    response.headers_mut().extend([nosniff]);
    response
}

/// The version of Kubernetes' API, and which of our versions serves it.
pub fn git_version() -> String {
    format!("v1.36.0+copepod{}", env!("CARGO_PKG_VERSION"))
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
        "gitVersion": git_version(),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none",
        "compiler": "rustc",
        "platform": platform,
    });
    answer::value(200, &version, Encoding::Pretty)
}
