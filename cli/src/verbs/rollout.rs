//! `copepod rollout`: says what a rollout waits for, and gives up at once where waiting is hopeless.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::resource::{self, encode, items, label};
use crate::{
    client::{Client, refused},
    failure::{Failure, Outcome},
};

const LOOK: Duration = Duration::from_millis(200);

/// What a pod says in turns while its image cannot be fetched.
const PULL_FAILURES: [&str; 2] = ["ErrImagePull", "ImagePullBackOff"];

/// Crashes of one new container after which a rollout is hopeless.
const CRASHES_MAX: u64 = 3;

const REVISION: &str = "deployment.kubernetes.io/revision";
const CHANGE_CAUSE: &str = "kubernetes.io/change-cause";

/// Waiting reasons that no waiting cures.
const HOPELESS: [&str; 4] =
    ["InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError", "RunContainerError"];

#[derive(Subcommand)]
pub enum Rollout {
    /// Waits for a rollout and tells what it waits for
    Status(Status),
    /// Starts all pods anew, a few at a time
    Restart(Of),
    /// Goes back to an earlier revision
    Undo(Undo),
    /// Lists the revisions that can be gone back to
    History(Of),
    /// Holds a rollout where it is
    Pause(Of),
    /// Lets a paused rollout go on
    Resume(Of),
}

#[derive(Args)]
pub struct Of {
    /// deployment/web, or a type and a name
    #[arg(required = true)]
    what: Vec<String>,
}

#[derive(Args)]
pub struct Status {
    #[command(flatten)]
    of: Of,
    /// Gives up after this many seconds; 0 waits as long as the rollout may take
    #[arg(long, default_value_t = 0)]
    timeout: u64,
}

#[derive(Args)]
pub struct Undo {
    #[command(flatten)]
    of: Of,
    /// The revision to go back to [default: the one before]
    #[arg(long)]
    to_revision: Option<u64>,
}

struct Deployment<'a> {
    client: &'a Client,
    namespace: &'a str,
    path: String,
    name: String,
    label: String,
}

pub async fn run(rollout: Rollout, client: &Client, namespace: &str) -> Outcome {
    let of = |of: &Of| -> Outcome<Deployment<'_>> {
        let (kind, name) = resource::one(&of.what)?;
        if kind.plural != "deployments" {
            return Err(Failure::new(format!("{} have no rollouts", kind.plural)).hint("deployments have"));
        }
        let (path, label) = (resource::path(kind, namespace, &name), label(kind, &name));
        Ok(Deployment { client, namespace, path, name, label })
    };
    match rollout {
        Rollout::Status(status) => of(&status.of)?.status(status.timeout).await,
        Rollout::Restart(what) => of(&what)?.restart().await,
        Rollout::Undo(undo) => of(&undo.of)?.undo(undo.to_revision).await,
        Rollout::History(what) => of(&what)?.history().await,
        Rollout::Pause(what) => of(&what)?.pause(true).await,
        Rollout::Resume(what) => of(&what)?.pause(false).await,
    }
}

impl Deployment<'_> {
    async fn read(&self) -> Outcome<Value> {
        self.client.get(&self.path).await?.map_err(|status| refused(&status))
    }

    async fn patch(&self, patch: Value) -> Outcome<Value> {
        self.client.merge(&self.path, &patch).await?.map_err(|status| refused(&status))
    }

    /// The replica sets of the deployment with their revisions, oldest first.
    async fn revisions(&self, deployment: &Value) -> Outcome<Vec<(u64, Value)>> {
        let path = format!("/apis/apps/v1/namespaces/{}/replicasets", self.namespace);
        let uid = &deployment["metadata"]["uid"];
        let mut sets: Vec<(u64, Value)> = items(self.client, &path)
            .await?
            .into_iter()
            .filter(|set| {
                set["metadata"]["ownerReferences"].as_array().into_iter().flatten().any(|own| own["uid"] == *uid)
            })
            .filter_map(|set| Some((set["metadata"]["annotations"][REVISION].as_str()?.parse().ok()?, set)))
            .collect();
        sets.sort_by_key(|(revision, _)| *revision);
        Ok(sets)
    }

    async fn status(&self, timeout: u64) -> Outcome {
        let began = Instant::now();
        let mut told = String::new();
        loop {
            let deployment = self.read().await?;
            if deployment["spec"]["paused"] == true {
                return Err(Failure::new(format!("{} is paused", self.label))
                    .hint(format!("let it go on with `copepod rollout resume deployment/{}`", self.name)));
            }
            let waits = match waits_for(&deployment) {
                None => {
                    println!("{} is rolled out", self.label);
                    return Ok(());
                }
                Some(waits) => waits,
            };
            let (pods, hopeless) = self.new_pods(&deployment).await?;
            let text = std::iter::once(waits).chain(pods).collect::<Vec<_>>().join("; ");
            if text != told {
                eprintln!("{text}");
                told = text.clone();
            }
            if let Some(hopeless) = hopeless {
                return Err(Failure::new(format!("{} cannot be rolled out: {hopeless}", self.label))
                    .hint(format!("go back with `copepod rollout undo deployment/{}`", self.name)));
            }
            if let Some(message) = past_deadline(&deployment) {
                return Err(Failure::new(format!("{} made no progress in time: {message}", self.label)));
            }
            if timeout > 0 && began.elapsed() > Duration::from_secs(timeout) {
                return Err(Failure::new(format!("{} is not rolled out after {timeout} s: {text}", self.label)));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What the pods of the newest revision wait for, and whether one of them never will be ready.
    async fn new_pods(&self, deployment: &Value) -> Outcome<(Vec<String>, Option<String>)> {
        let Some((_, newest)) = self.revisions(deployment).await?.pop() else { return Ok((Vec::new(), None)) };
        let hash = newest["metadata"]["labels"]["pod-template-hash"].as_str().unwrap_or_default();
        let selector = encode(&format!("pod-template-hash={hash}"));
        let path = format!("/api/v1/namespaces/{}/pods?labelSelector={selector}", self.namespace);
        // Pods by what they wait for: one line for an eye, however many there are.
        let mut reasons: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut hopeless = None;
        for pod in items(self.client, &path).await? {
            let Some((reason, is_hopeless)) = pod_waits(&pod) else { continue };
            let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            if is_hopeless {
                hopeless = Some(format!("pod {name} {reason}"));
            }
            reasons.entry(reason).or_default().push(name);
        }
        let reasons = reasons.into_iter().map(|(reason, pods)| match pods.as_slice() {
            [one] => format!("pod {one} {reason}"),
            [one, rest @ ..] => format!("pod {one} and {} more: {reason}", rest.len()),
            [] => reason,
        });
        Ok((reasons.collect(), hopeless))
    }

    async fn restart(&self) -> Outcome {
        let now = copepod_api::time::rfc3339(copepod_api::Timestamp::now());
        self.patch(
            json!({"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": now}}}}}),
        )
        .await?;
        println!("{} restarted", self.label);
        Ok(())
    }

    async fn undo(&self, to: Option<u64>) -> Outcome {
        let deployment = self.read().await?;
        let mut revisions = self.revisions(&deployment).await?;
        let current = deployment["metadata"]["annotations"][REVISION].as_str().and_then(|text| text.parse().ok());
        let wanted = match to {
            Some(wanted) => revisions.into_iter().find(|(revision, _)| *revision == wanted),
            None => {
                revisions.retain(|(revision, _)| Some(*revision) != current);
                revisions.pop()
            }
        };
        let Some((revision, set)) = wanted else {
            return Err(Failure::new(format!("{} has no such revision", self.label))
                .hint(format!("`copepod rollout history deployment/{}` lists them", self.name)));
        };
        let mut template = set["spec"]["template"].clone();
        if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
            labels.remove("pod-template-hash");
        }
        // Nobody may have rolled out something else meanwhile. Its status and its size may change as they like.
        let patch = json!([
            {"op": "test", "path": "/spec/template", "value": deployment["spec"]["template"]},
            {"op": "replace", "path": "/spec/template", "value": template},
        ]);
        let body = patch.to_string().into();
        let answer = self.client.send(http::Method::PATCH, &self.path, "application/json-patch+json", body).await?;
        answer.map_err(|status| refused(&status))?;
        println!("{} goes back to revision {revision}", self.label);
        Ok(())
    }

    async fn history(&self) -> Outcome {
        let deployment = self.read().await?;
        let current = deployment["metadata"]["annotations"][REVISION].as_str().unwrap_or_default().to_owned();
        println!("{:<10} {:<40} CHANGE-CAUSE", "REVISION", "IMAGES");
        for (revision, set) in self.revisions(&deployment).await? {
            let containers = set["spec"]["template"]["spec"]["containers"].as_array();
            let images: Vec<&str> =
                containers.into_iter().flatten().filter_map(|container| container["image"].as_str()).collect();
            let cause = set["metadata"]["annotations"][CHANGE_CAUSE].as_str().unwrap_or("<none>");
            let mark = if revision.to_string() == current { "*" } else { "" };
            println!("{:<10} {:<40} {cause}", format!("{revision}{mark}"), images.join(","));
        }
        Ok(())
    }

    async fn pause(&self, paused: bool) -> Outcome {
        self.patch(json!({"spec": {"paused": if paused { json!(true) } else { Value::Null }}})).await?;
        println!("{} {}", self.label, if paused { "paused" } else { "resumed" });
        Ok(())
    }
}

/// What a deployment as a whole waits for; `None` when it is rolled out.
fn waits_for(deployment: &Value) -> Option<String> {
    let status = |field: &str| deployment["status"][field].as_u64().unwrap_or(0);
    if deployment["status"]["observedGeneration"].as_u64() < deployment["metadata"]["generation"].as_u64() {
        return Some("waiting for the change to be seen".to_owned());
    }
    let wanted = deployment["spec"]["replicas"].as_u64().unwrap_or(1);
    if status("updatedReplicas") < wanted {
        return Some(format!("{} of {wanted} new replicas created", status("updatedReplicas")));
    }
    if status("replicas") > status("updatedReplicas") {
        return Some(format!("{} old replicas still to end", status("replicas") - status("updatedReplicas")));
    }
    if status("availableReplicas") < status("updatedReplicas") {
        return Some(format!(
            "{} of {} new replicas available",
            status("availableReplicas"),
            status("updatedReplicas")
        ));
    }
    None
}

fn past_deadline(deployment: &Value) -> Option<&str> {
    let conditions = deployment["status"]["conditions"].as_array()?;
    let progress = conditions.iter().find(|condition| condition["reason"] == "ProgressDeadlineExceeded")?;
    progress["message"].as_str()
}

/// Why a pod is not ready, and whether it never will be.
fn pod_waits(pod: &Value) -> Option<(String, bool)> {
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let condition = |kind: &str| conditions.iter().find(|condition| condition["type"] == kind);
    if condition("Ready").is_some_and(|ready| ready["status"] == "True") {
        return None;
    }
    let scheduled = condition("PodScheduled");
    if let Some(unscheduled) = scheduled.filter(|scheduled| scheduled["status"] == "False") {
        return Some((format!("is not scheduled: {}", unscheduled["message"].as_str().unwrap_or_default()), false));
    }
    for container in pod["status"]["containerStatuses"].as_array().into_iter().flatten() {
        let restarts = container["restartCount"].as_u64().unwrap_or(0);
        let waiting = &container["state"]["waiting"];
        if let Some(reason) = waiting["reason"].as_str() {
            let message = waiting["message"].as_str().unwrap_or_default();
            let last = container["lastState"]["terminated"]["message"].as_str().unwrap_or_default();
            let hopeless = HOPELESS.contains(&reason) || restarts >= CRASHES_MAX;
            // Both are said of the same failure, in turns; an eye wants it once.
            let (reason, message) = match PULL_FAILURES.contains(&reason) {
                true => ("ErrImagePull", message.split_once("ErrImagePull: ").map_or(message, |(_, cause)| cause)),
                false => (reason, message),
            };
            let words = [message, last].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(": ");
            return Some((format!("waits: {reason} {words}").trim_end().to_owned(), hopeless));
        }
    }
    Some(("is not ready yet".to_owned(), false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollout_waits_for_what_is_missing() {
        let mut deployment = json!({
            "metadata": {"generation": 2}, "spec": {"replicas": 3},
            "status": {"observedGeneration": 2, "updatedReplicas": 3, "replicas": 4, "availableReplicas": 3},
        });
        assert_eq!(waits_for(&deployment).as_deref(), Some("1 old replicas still to end"));
        deployment["status"]["replicas"] = json!(3);
        assert_eq!(waits_for(&deployment), None);
        deployment["status"]["observedGeneration"] = json!(1);
        assert_eq!(waits_for(&deployment).as_deref(), Some("waiting for the change to be seen"));
    }

    #[test]
    fn a_bad_image_name_is_hopeless() {
        let waiting = json!({"reason": "InvalidImageName", "message": "no such form"});
        let pod = json!({"status": {"containerStatuses": [{"state": {"waiting": waiting}}]}});
        assert_eq!(pod_waits(&pod), Some(("waits: InvalidImageName no such form".to_owned(), true)));
    }
}
