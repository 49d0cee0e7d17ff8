//! DefaultTolerationSeconds: how long a pod endures the loss of its node, where it does not say so itself.

use copepod_api::{StatusResult, resource::PODS};
use serde_json::{Value, json};

use super::{NONE, Plugin, Write};
use crate::{
    json::{default, items, object, text},
    pipeline::World,
};

pub const PLUGIN: Plugin = Plugin { complete, ..NONE };

/// How long a pod stays on a node that is silent or not ready, in seconds, where it does not say itself.
///
/// Elsewhere this is 300: the control plane cannot know whether a silent node still runs its pods, so it waits long
/// enough to be probably right, and users wait with it. Most silent nodes are dead, and two seconds absorb a flapping
/// condition. The price is paid where a node is only cut off: it runs its pods until it hears again, beside their
/// replacements. What may never run twice has to say a longer toleration.
const NODE_LOSS_SECONDS: i64 = 2;

const LOSSES: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

fn complete(_: &mut World<'_>, write: &Write<'_>, pod: &mut Value) -> StatusResult<()> {
    if !write.is_new(&PODS) {
        return Ok(());
    }
    let Some(spec) = object(pod, "spec") else { return Ok(()) };
    for key in LOSSES {
        let endures = items(spec, "/tolerations").iter().any(|known| {
            let own = text(known, "/key");
            let effect = text(known, "/effect");
            own.is_none_or(|own| own == key) && effect.is_none_or(|effect| effect == "NoExecute")
        });
        if endures {
            continue;
        }
        default(spec, "tolerations", json!([]));
        if let Some(tolerations) = spec.get_mut("tolerations").and_then(Value::as_array_mut) {
            tolerations.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": NODE_LOSS_SECONDS,
            }));
        }
    }
    Ok(())
}
