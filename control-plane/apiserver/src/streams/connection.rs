//! Admission of connections: the verb CONNECT, whose object is the options in the query.

use copepod_api::{StatusResult, Timestamp, User};
use copepod_registry::{Connection, Env, connect};
use serde_json::{Value, json};

use crate::{front::Front, path::Asked, query::Query};

/// Asks the webhooks whether a connection may be made; gives their warnings.
pub async fn ask(front: &Front, user: &User, asked: &Asked, query: &Query) -> StatusResult<Vec<String>> {
    let target = asked.target();
    let options = options(asked, query)?;
    let connection = Connection { row: &asked.row, user, target: &target, options: &options };
    let decide = |testimony| {
        // Nothing is drawn for a connection.
        let mut env = Env { now: Timestamp::now(), dice: &mut || 0 };
        std::future::ready(connect(&front.door.view(), &connection, &mut env, testimony))
    };
    front.webhooks.settle(|| front.door.view(), decide).await
}

/// `PodExecOptions`, `ServiceProxyOptions` and the like.
fn options(asked: &Asked, query: &Query) -> StatusResult<Value> {
    let kind = match &*asked.subresource {
        "exec" => "PodExecOptions".to_owned(),
        "attach" => "PodAttachOptions".to_owned(),
        "portforward" => "PodPortForwardOptions".to_owned(),
        _ => format!("{}ProxyOptions", asked.row.kind.name),
    };
    let mut options = json!({"apiVersion": asked.row.kind.api_version(), "kind": kind});
    match &*asked.subresource {
        "exec" | "attach" => {
            for flag in ["stdin", "stdout", "stderr", "tty"] {
                if query.flag(flag)? {
                    options[flag] = true.into();
                }
            }
            if let Some(container) = query.text("container") {
                options["container"] = container.into();
            }
            let command: Vec<&str> = query.all("command").collect();
            if asked.subresource == "exec" {
                options["command"] = json!(command);
            }
        }
        "portforward" => {
            let ports = query.all("ports").flat_map(|ports| ports.split(','));
            options["ports"] = ports.filter_map(|port| port.parse::<u16>().ok()).collect();
        }
        _ => options["path"] = query.text("path").unwrap_or_default().into(),
    }
    Ok(options)
}
