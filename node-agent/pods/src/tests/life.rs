//! The machine that stories are told to.

use std::collections::BTreeMap;

use copepod_api::{
    quantity::Quantity,
    time::{SignedDuration, Timestamp},
};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Value, json};

use crate::{
    Action, Desired, Ended, Image, Observed, ProbeKind, Run, RunState, Sandbox, Step, Trouble, next,
    observed::{Hook, StopRecord},
    resize, spec, status,
};

/// A pod and a machine on which every action succeeds at once, unless the story says otherwise.
pub struct Life {
    pub pod: Pod,
    wanted: bool,
    pub observed: Observed,
    pub now: Timestamp,
    /// What probes answer; true when not named.
    answers: BTreeMap<(String, ProbeKind), bool>,
    /// Images that cannot be had, with the reason.
    no_image: BTreeMap<String, String>,
    /// Containers that do not react to the stop signal.
    stubborn: Vec<String>,
    told: Vec<String>,
}

pub const BEGIN: i64 = 1_000_000;

impl Life {
    pub fn of(spec: Value) -> Life {
        let pod = json!({"metadata": {"name": "p", "namespace": "d", "uid": "u", "generation": 1}, "spec": spec});
        Life {
            pod: serde_json::from_value(pod).unwrap(),
            wanted: true,
            observed: Observed { host_ips: vec!["198.18.0.1".into()], ..Observed::default() },
            now: Timestamp::from_second(BEGIN).unwrap(),
            answers: BTreeMap::new(),
            no_image: BTreeMap::new(),
            stubborn: Vec::new(),
            told: Vec::new(),
        }
    }

    /// Runs a story, and returns what was done.
    pub fn tell(&mut self, story: &str) -> String {
        self.told.clear();
        self.observed.accepted_at.get_or_insert(self.now);
        for line in story.lines().map(str::trim).filter(|line| !line.is_empty()) {
            self.line(line);
        }
        self.told.join("\n")
    }

    fn line(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["until", at] => self.until(at.trim_end_matches('s').parse().unwrap()),
            [name, "exits", code] => self.exit(name, code.parse().unwrap()),
            [name, kind @ ("Startup" | "Readiness" | "Liveness"), answer] => {
                let kind = ProbeKind::ALL.into_iter().find(|k| k.name() == kind).unwrap();
                self.answers.insert((name.into(), kind), answer == "passes");
            }
            [name, "ignores", "signals"] => self.stubborn.push(name.into()),
            [name, "image", "missing", reason] => drop(self.no_image.insert(name.into(), reason.into())),
            [name, "cpu", amount] => {
                let amounts = json!({"requests": {"cpu": amount}});
                let containers = &mut self.pod.spec.as_mut().unwrap().containers;
                let container = containers.iter_mut().find(|c| c.name == name).unwrap();
                container.resources = Some(serde_json::from_value(amounts).unwrap());
            }
            [name, "joins", target] => {
                let ephemeral = json!({"name": name, "image": "tools:1", "targetContainerName": target});
                let joined = &mut self.pod.spec.as_mut().unwrap().ephemeral_containers;
                joined.get_or_insert_default().push(serde_json::from_value(ephemeral).unwrap());
            }
            ["room", all, taken] => {
                let amount = |text: &str| [("cpu".to_owned(), Quantity::parse(text).unwrap())].into();
                self.observed.room = Some(resize::Room { allocatable: amount(all), taken: amount(taken) });
            }
            [name, "image", "there"] => drop(self.no_image.remove(name)),
            [name, "image", image] => {
                let containers = &mut self.pod.spec.as_mut().unwrap().containers;
                containers.iter_mut().find(|c| c.name == name).unwrap().image = Some(image.into());
            }
            ["delete", grace] => {
                let at = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(self.now);
                self.pod.metadata.deletion_timestamp = Some(at);
                self.pod.metadata.deletion_grace_period_seconds = Some(grace.parse().unwrap());
                self.observed.leaving_since.get_or_insert(self.now);
            }
            ["vanish"] => {
                self.wanted = false;
                self.observed.leaving_since.get_or_insert(self.now);
            }
            ["released"] => self.observed.released = true,
            ["reboot"] => {
                self.observed.lose_sandbox(0);
                let names: Vec<String> = self.observed.containers.keys().cloned().collect();
                for name in names {
                    if self.observed.containers[&name].running().is_some() {
                        self.exit(&name, 137);
                    }
                }
            }
            ["status"] => {
                let line = self.status_line();
                self.told.push(line);
            }
            _ => panic!("the story has no {line:?}"),
        }
    }

    fn until(&mut self, second: i64) {
        let end = Timestamp::from_second(BEGIN + second).unwrap();
        loop {
            let actions = next(Desired { pod: &self.pod, wanted: self.wanted }, &self.observed, self.now);
            for action in &actions.now {
                self.act(action);
            }
            if !actions.now.is_empty() {
                continue;
            }
            match actions.look_again.filter(|at| *at <= end) {
                Some(at) => {
                    assert!(at > self.now, "asked to look again in the past: it would spin");
                    self.now = at;
                }
                None => break,
            }
        }
        self.now = end;
    }

    fn act(&mut self, action: &Action) {
        let now = self.now;
        let text = match action {
            Action::PrepareVolumes => {
                self.observed.volumes = Step::Done;
                "volumes".into()
            }
            Action::CreateSandbox { attempt } => {
                self.observed.sandbox = Sandbox::Ready { attempt: *attempt, ips: vec!["10.0.0.5".into()] };
                format!("sandbox {attempt}")
            }
            Action::RemoveSandbox => {
                self.observed.sandbox = Sandbox::Absent;
                "remove sandbox".into()
            }
            Action::StopSandbox => {
                let ips = self.observed.sandbox.ips().to_vec();
                self.observed.sandbox = Sandbox::Stopped { ips };
                "stop sandbox".into()
            }
            Action::TearDown => {
                self.observed.gone = true;
                "tear down".into()
            }
            Action::EnsureImage { container, attempt } => {
                let seen = self.observed.containers.entry(container.clone()).or_default();
                seen.image = match self.no_image.get(container) {
                    None => Image::Ready { id: "sha256:1".into(), attempt: *attempt },
                    Some(reason) => {
                        let before = match &seen.image {
                            Image::Failed(trouble) => Some(trouble),
                            _ => None,
                        };
                        let mut trouble = Trouble::again(before, reason, "nobody has it".into(), now);
                        trouble.hopeless = reason == "InvalidImageName";
                        Image::Failed(trouble)
                    }
                };
                format!("image {container}")
            }
            Action::Start { container, attempt } => {
                let wanted = spec::container(&self.pod, container).unwrap();
                let (image, resources) = (spec::image(&wanted).to_owned(), wanted.resources.clone());
                drop(wanted);
                let seen = self.observed.containers.entry(container.clone()).or_default();
                seen.began(Run {
                    id: format!("{container}-{attempt}"),
                    attempt: *attempt,
                    image,
                    image_id: "sha256:1".into(),
                    resources,
                    state: RunState::Running { since: now },
                    post_start: Hook::Pending,
                });
                format!("start {container} {attempt}")
            }
            Action::Resize { container } => {
                let wanted = spec::container(&self.pod, container).unwrap().resources.clone();
                self.observed.containers.get_mut(container).unwrap().run.as_mut().unwrap().resources = wanted;
                format!("resize {container}")
            }
            Action::PostStart { container } => {
                self.observed.containers.get_mut(container).unwrap().run.as_mut().unwrap().post_start = Hook::Done;
                format!("postStart {container}")
            }
            Action::PreStop { container, seconds } => {
                let seen = self.observed.containers.get_mut(container).unwrap();
                seen.stop = Some(StopRecord { since: now, pre_stop: Hook::Done, deadline: None });
                format!("preStop {container} {seconds}s")
            }
            Action::Stop { container, grace_seconds } => {
                let seen = self.observed.containers.get_mut(container).unwrap();
                let stop = seen.stop.get_or_insert(StopRecord { since: now, pre_stop: Hook::Pending, deadline: None });
                stop.deadline = Some(now + SignedDuration::from_secs(*grace_seconds));
                if !self.stubborn.contains(container) {
                    self.exit(container, 143);
                }
                format!("stop {container} {grace_seconds}s")
            }
            Action::Probe { container, kind } => {
                let passed = self.answers.get(&(container.clone(), *kind)).copied().unwrap_or(true);
                let probe = kind.of(&spec::container(&self.pod, container).unwrap()).unwrap().clone();
                let record = self.observed.containers.get_mut(container).unwrap().probes.entry(*kind).or_default();
                record.record(&probe, passed, "answer".into(), now);
                return; // Too many to tell; what follows from them is told.
            }
            Action::Condemn(verdict) => {
                self.observed.verdict = Some(verdict.clone());
                format!("condemn {}", verdict.reason)
            }
        };
        let at = self.now.duration_since(Timestamp::from_second(BEGIN).unwrap());
        self.told.push(format!("{}.{}s {text}", at.as_secs(), at.subsec_millis() / 100));
    }

    fn exit(&mut self, name: &str, exit_code: i32) {
        let now = self.now;
        let seen = self.observed.containers.get_mut(name).unwrap();
        let (run, since) = seen.running().unwrap();
        let ended = Ended {
            container_id: run.id.clone(),
            exit_code,
            signal: None,
            reason: Ended::reason_of(exit_code, false).into(),
            message: String::new(),
            started_at: Some(since),
            finished_at: now,
        };
        seen.ended_with(ended);
    }

    pub fn status(&mut self) -> PodStatus {
        let status = status(&self.pod, &self.observed, self.now);
        self.observed.reported = Some(status.clone());
        status
    }

    /// `Running Ready a=Running b=Waiting:CrashLoopBackOff(2)`: phase, true conditions, containers with restarts.
    fn status_line(&mut self) -> String {
        let status = self.status();
        let mut words = vec![status.phase.clone().unwrap()];
        words.extend(status.reason.clone());
        for condition in status.conditions.iter().flatten() {
            if condition.status == "True" && condition.type_ == "Ready" {
                words.push("Ready".into());
            }
            if condition.type_.starts_with("PodResize") {
                words.push(format!("{}:{}", condition.type_, condition.reason.as_deref().unwrap_or_default()));
            }
        }
        for container in status
            .init_container_statuses
            .iter()
            .flatten()
            .chain(status.container_statuses.iter().flatten())
            .chain(status.ephemeral_container_statuses.iter().flatten())
        {
            let state = container.state.clone().unwrap();
            let text = match (state.running, state.waiting, state.terminated) {
                (Some(_), _, _) => "Running".to_owned(),
                (_, Some(waiting), _) => format!("Waiting:{}", waiting.reason.unwrap()),
                (_, _, Some(terminated)) => format!("{}:{}", terminated.reason.unwrap(), terminated.exit_code),
                _ => "?".into(),
            };
            let last = container.last_state.clone().and_then(|last| last.terminated);
            let last = last.map_or(String::new(), |last| format!("<{}", last.exit_code));
            words.push(format!("{}={text}{last}({})", container.name, container.restart_count));
        }
        words.join(" ")
    }
}

#[track_caller]
pub fn story(life: &mut Life, story: &str, expected: &str) {
    let told = life.tell(story);
    let expected: Vec<&str> = expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert_eq!(told, expected.join("\n"), "after: {story}\ngot:\n{told}\n");
}

pub fn one() -> Value {
    json!({"containers": [{"name": "a", "image": "x:1"}]})
}
