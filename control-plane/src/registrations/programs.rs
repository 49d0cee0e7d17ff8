//! Looks after the programs that serve groups, while this server leads.

use std::{sync::Arc, time::Duration};

use copepod_api::{Key, Timestamp, User};
use copepod_apiserver::{API_SERVICES, Tunnels, probe};
use copepod_store::Door;
use futures::future::join_all;
use serde_json::Value;

use super::status;

/// How often programs are asked. Requests to one that died are answered with errors for as long.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Says of every program whether it is available, until dropped.
pub async fn run(door: Arc<dyn Door>, tunnels: Arc<dyn Tunnels>) {
    let user = User::system("system:kube-aggregator");
    let mut cursor = door.watch(Some(API_SERVICES), door.view().revision());
    loop {
        let view = door.view();
        let remotes = probe::remotes(&view);
        let has_some = !remotes.is_empty();
        let looks = remotes.into_iter().map(|(group, version)| {
            let (view, tunnels) = (view.clone(), tunnels.clone());
            async move {
                let finding = probe::look(&view, &*tunnels, &group, &version).await?;
                let name = format!("{version}.{group}");
                let before = view.object(&Key::new(API_SERVICES, "", name.as_str()))?;
                let before: Value = serde_json::from_slice(&before.bytes()).ok()?;
                Some((name, before, finding))
            }
        });
        for (name, before, finding) in join_all(looks).await.into_iter().flatten() {
            let said = (finding.is_available, finding.reason, finding.message.as_str());
            if let Some(request) = status(&user, &name, &before, said, Timestamp::now())
                && let Err(status) = door.submit(vec![request]).await
            {
                tracing::debug!(name, %status, "the state of a program could not be told");
            }
        }
        tokio::select! {
            // Services come and go without a word about the APIService.
            () = tokio::time::sleep(LOOK_INTERVAL), if has_some => (),
            events = cursor.next() => if events.is_err() {
                cursor = door.watch(Some(API_SERVICES), door.view().revision());
            },
        }
    }
}
