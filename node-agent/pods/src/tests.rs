//! Lives of pods, as stories: what happens on the left margin, what the agent is asked to do below it.

use std::collections::BTreeMap;

use copepod_api::{
    quantity::Quantity,
    time::{SignedDuration, Timestamp},
};
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};
use serde_json::{Value, json};

use crate::{
    Action, Desired, Ended, Image, Observed, ProbeKind, QosClass, Run, RunState, Sandbox, Step, Trouble,
    downward::Facts,
    env::{self, Env},
    next,
    observed::{Hook, StopRecord},
    resize, spec, status,
};

/// A pod and a machine on which every action succeeds at once, unless the story says otherwise.
struct Life {
    pod: Pod,
    wanted: bool,
    observed: Observed,
    now: Timestamp,
    /// What probes answer; true when not named.
    answers: BTreeMap<(String, ProbeKind), bool>,
    /// Images that cannot be had, with the reason.
    no_image: BTreeMap<String, String>,
    /// Containers that do not react to the stop signal.
    stubborn: Vec<String>,
    told: Vec<String>,
}

const BEGIN: i64 = 1_000_000;

impl Life {
    fn of(spec: Value) -> Life {
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
    fn tell(&mut self, story: &str) -> String {
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

    fn status(&mut self) -> PodStatus {
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
fn story(life: &mut Life, story: &str, expected: &str) {
    let told = life.tell(story);
    let expected: Vec<&str> = expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert_eq!(told, expected.join("\n"), "after: {story}\ngot:\n{told}\n");
}

fn one() -> Value {
    json!({"containers": [{"name": "a", "image": "x:1"}]})
}

#[test]
fn a_pod_comes_up() {
    let mut life = Life::of(json!({"containers": [{"name": "a", "image": "x:1"}, {"name": "b", "image": "x:1"}]}));
    story(&mut life, "status", "Pending a=Waiting:ContainerCreating(0) b=Waiting:ContainerCreating(0)");
    story(
        &mut life,
        "until 1s
         status",
        "0.0s volumes
         0.0s sandbox 0
         0.0s image a
         0.0s image b
         0.0s start a 0
         0.0s start b 0
         Running Ready a=Running(0) b=Running(0)",
    );
    let status = life.status();
    assert_eq!((status.pod_ip.as_deref(), status.host_ip.as_deref()), (Some("10.0.0.5"), Some("198.18.0.1")));
    assert_eq!(status.start_time.unwrap().0.as_second(), BEGIN);
    assert_eq!(status.container_statuses.unwrap()[0].container_id.as_deref(), Some("copepod://a-0"));
}

#[test]
fn crashes_are_spaced_out_and_clean_exits_are_not_punished() {
    let mut life = Life::of(one());
    life.tell("until 0s");
    story(&mut life, "a exits 1\nstatus\nuntil 1s", "Running a=Error:1(0)\n1.0s start a 1");
    story(
        &mut life,
        "a exits 1\nstatus\nuntil 3s\nstatus",
        "Running a=Waiting:CrashLoopBackOff<1(1)\n3.0s start a 2\nRunning Ready a=Running<1(2)",
    );
    story(&mut life, "a exits 1\nuntil 10s", "7.0s start a 3");
    story(&mut life, "a exits 0\nuntil 20s", "11.0s start a 4");
    // A clean exit cleared the slate.
    story(&mut life, "a exits 1\nuntil 30s", "21.0s start a 5");
}

#[test]
fn the_longest_wait_is_a_minute_and_a_long_run_clears_the_slate() {
    let mut life = Life::of(one());
    life.tell("until 0s");
    for _ in 0..12 {
        let now = life.now.as_second() - BEGIN;
        life.tell(&format!("a exits 1\nuntil {}s", now + 61));
        assert!(life.observed.containers["a"].running().is_some(), "waited longer than a minute");
    }
    let now = life.now.as_second() - BEGIN + 600;
    story(&mut life, &format!("until {now}s\na exits 1\nuntil {}s", now + 1), &format!("{}.0s start a 13", now + 1));
}

#[test]
fn restart_policies_decide_who_runs_again() {
    let cases = [
        ("Never", 0, "0.0s stop sandbox\nSucceeded a=Completed:0(0)"),
        ("Never", 3, "0.0s stop sandbox\nFailed a=Error:3(0)"),
        ("OnFailure", 0, "0.0s stop sandbox\nSucceeded a=Completed:0(0)"),
        ("OnFailure", 3, "1.0s start a 1\nRunning Ready a=Running<3(1)"),
        ("Always", 0, "1.0s start a 1\nRunning Ready a=Running<0(1)"),
    ];
    for (policy, code, expected) in cases {
        let mut life = Life::of(json!({"restartPolicy": policy, "containers": [{"name": "a", "image": "x:1"}]}));
        life.tell("until 0s");
        story(&mut life, &format!("a exits {code}\nuntil 2s\nstatus"), expected);
    }
}

#[test]
fn init_containers_run_in_order() {
    let mut life = Life::of(json!({
        "initContainers": [{"name": "i", "image": "x:1"}, {"name": "j", "image": "x:1"}],
        "containers": [{"name": "a", "image": "x:1"}],
    }));
    life.tell("until 0s");
    story(
        &mut life,
        "status
         i exits 1
         until 2s
         i exits 0
         until 3s
         j exits 0
         status
         until 4s
         status",
        "Pending i=Running(0) j=Waiting:PodInitializing(0) a=Waiting:PodInitializing(0)
         1.0s start i 1
         2.0s start j 0
         Pending i=Completed:0<1(1) j=Completed:0(0) a=Waiting:PodInitializing(0)
         3.0s start a 0
         Running Ready i=Completed:0<1(1) j=Completed:0(0) a=Running(0)",
    );
}

#[test]
fn an_init_container_that_fails_for_good_fails_the_pod() {
    let mut life = Life::of(json!({
        "restartPolicy": "Never",
        "initContainers": [{"name": "i", "image": "x:1"}],
        "containers": [{"name": "a", "image": "x:1"}],
    }));
    life.tell("until 0s");
    story(
        &mut life,
        "i exits 1\nuntil 5s\nstatus",
        "0.0s stop sandbox\nFailed i=Error:1(0) a=Waiting:PodInitializing(0)",
    );
}

#[test]
fn sidecars_start_before_and_end_after_the_others() {
    let mut life = Life::of(json!({
        "initContainers": [
            {"name": "s", "image": "x:1", "restartPolicy": "Always", "startupProbe": {"periodSeconds": 1}},
            {"name": "t", "image": "x:1", "restartPolicy": "Always"}],
        "containers": [{"name": "a", "image": "x:1"}],
    }));
    story(
        &mut life,
        "s Startup fails
         until 1s
         status
         s Startup passes
         until 3s
         status
         delete 30
         released
         a ignores signals
         until 4s
         a exits 0
         until 5s",
        "0.0s volumes
         0.0s sandbox 0
         0.0s image s
         0.0s image t
         0.0s image a
         0.0s start s 0
         Pending s=Running(0) t=Waiting:PodInitializing(0) a=Waiting:PodInitializing(0)
         1.5s start t 0
         1.5s start a 0
         Running Ready s=Running(0) t=Running(0) a=Running(0)
         3.0s stop a 30s
         4.0s stop t 30s
         4.0s stop s 30s
         4.0s tear down",
    );
}

#[test]
fn images_that_cannot_be_had_are_named_and_tried_again() {
    let mut life = Life::of(one());
    life.tell("a image missing ErrImagePull\nuntil 0s");
    story(
        &mut life,
        "status
         until 3s
         status
         a image there
         until 7s
         status",
        "Pending a=Waiting:ErrImagePull(0)
         2.0s image a
         Pending a=Waiting:ImagePullBackOff(0)
         6.0s image a
         6.0s start a 0
         Running Ready a=Running(0)",
    );
    let mut life = Life::of(one());
    life.tell("a image missing InvalidImageName\nuntil 0s");
    story(&mut life, "until 900s\nstatus", "Pending a=Waiting:InvalidImageName(0)");
}

#[test]
fn an_image_that_is_always_looked_up_is_looked_up_for_each_run() {
    let mut life = Life::of(json!({"containers": [{"name": "a", "image": "x", "imagePullPolicy": "Always"}]}));
    life.tell("until 0s");
    story(&mut life, "a exits 1\nuntil 2s", "0.0s image a\n1.0s start a 1");
}

#[test]
fn a_changed_image_replaces_the_container_at_once() {
    let mut life = Life::of(one());
    life.tell("until 0s");
    story(&mut life, "a image y:1\nuntil 1s", "0.0s stop a 30s\n0.0s start a 1");
}

#[test]
fn readiness_is_found_early_and_liveness_restarts() {
    let probe = |threshold: i32| json!({"periodSeconds": 10, "failureThreshold": threshold, "httpGet": {"port": 80}});
    let mut life = Life::of(
        json!({"containers": [{"name": "a", "image": "x:1", "readinessProbe": probe(3), "livenessProbe": probe(2)}]}),
    );
    life.tell("a Readiness fails\nuntil 0s");
    story(
        &mut life,
        "status\nuntil 1s\na Readiness passes\nuntil 2s\nstatus",
        "Running a=Running(0)\nRunning Ready a=Running(0)",
    );
    // Not ready only after three failures in a row, ten seconds apart.
    story(
        &mut life,
        "a Readiness fails\nuntil 30s\nstatus\nuntil 45s\nstatus",
        "Running Ready a=Running(0)\nRunning a=Running(0)",
    );
    story(
        &mut life,
        "a Liveness fails\nuntil 62s\nstatus",
        "60.0s stop a 30s\n61.0s start a 1\nRunning a=Running<143(1)",
    );
}

#[test]
fn a_slow_start_holds_the_other_probes_back() {
    let mut life = Life::of(json!({"containers": [{"name": "a", "image": "x:1",
        "startupProbe": {"periodSeconds": 5, "failureThreshold": 4},
        "livenessProbe": {"periodSeconds": 1, "failureThreshold": 1}}]}));
    life.tell("a Startup fails\na Liveness fails\nuntil 0s");
    story(&mut life, "until 14s\nstatus", "Running a=Running(0)");
    let told = life.tell("until 16s");
    assert!(told.contains("stop a 30s"), "given up after four periods: {told}");
}

#[test]
fn hooks_run_at_their_moments() {
    let mut life = Life::of(
        json!({"terminationGracePeriodSeconds": 5, "containers": [{"name": "a", "image": "x:1", "lifecycle": {
        "postStart": {"exec": {"command": ["x"]}}, "preStop": {"exec": {"command": ["x"]}}}}]}),
    );
    let told = life.tell("until 1s\nstatus");
    assert!(told.ends_with("0.0s start a 0\n0.0s postStart a\nRunning Ready a=Running(0)"), "{told}");
    story(&mut life, "vanish\nuntil 2s", "1.0s preStop a 5s\n1.0s stop a 5s\n1.0s tear down");
}

#[test]
fn a_leaving_pod_waits_to_be_out_of_the_data_path() {
    let mut life = Life::of(one());
    life.tell("until 0s");
    story(&mut life, "delete 30\nuntil 4s\nstatus", "Running Ready a=Running(0)");
    story(&mut life, "released\nuntil 5s", "4.0s stop a 30s\n4.0s tear down");

    // Cut off from the control plane, it waits no longer than its bound.
    let mut life = Life::of(one());
    life.tell("until 0s");
    story(&mut life, "delete 30\nuntil 30s", "10.0s stop a 30s\n10.0s tear down");

    // Nobody sends traffic to a pod that the control plane no longer knows, or that is deleted by force.
    for how in ["vanish", "delete 0"] {
        let mut life = Life::of(one());
        life.tell("until 0s");
        let grace = if how == "vanish" { 30 } else { 0 };
        story(&mut life, &format!("{how}\nuntil 1s"), &format!("0.0s stop a {grace}s\n0.0s tear down"));
    }
}

#[test]
fn a_second_deletion_with_less_patience_is_heard() {
    let mut life = Life::of(one());
    life.tell("until 0s\na ignores signals");
    story(&mut life, "delete 300\nreleased\nuntil 5s\ndelete 10\nuntil 6s", "0.0s stop a 300s\n5.0s stop a 5s");
}

#[test]
fn a_pod_over_its_deadline_fails_for_good() {
    let mut life = Life::of(json!({"activeDeadlineSeconds": 5, "containers": [{"name": "a", "image": "x:1"}]}));
    life.tell("until 1s");
    story(
        &mut life,
        "until 9s\nstatus",
        "5.0s condemn DeadlineExceeded\n5.0s stop a 30s\n5.0s stop sandbox\nFailed DeadlineExceeded a=Error:143(0)",
    );
}

#[test]
fn after_a_reboot_everything_is_made_anew() {
    let mut life = Life::of(one());
    life.tell("until 1s");
    story(
        &mut life,
        "reboot\nuntil 3s\nstatus",
        "1.0s remove sandbox\n1.0s sandbox 0\n2.0s start a 1\nRunning Ready a=Running<137(1)",
    );
}

#[test]
fn another_sandbox_is_initialized_anew() {
    let mut life = Life::of(json!({
        "initContainers": [{"name": "i", "image": "x:1"}, {"name": "s", "image": "x:1", "restartPolicy": "Always"}],
        "containers": [{"name": "a", "image": "x:1"}, {"name": "b", "image": "x:1"}],
    }));
    life.tell("until 0s\ni exits 0\nuntil 1s");
    story(
        &mut life,
        "status\nreboot\nuntil 4s\nstatus\ni exits 0\nuntil 5s\nstatus",
        "Running Ready i=Completed:0(0) s=Running(0) a=Running(0) b=Running(0)
         1.0s remove sandbox
         1.0s sandbox 0
         1.0s start i 1
         Running i=Running<0(1) s=Error:137(0) a=Error:137(0) b=Error:137(0)
         4.0s start s 1
         4.0s start a 1
         4.0s start b 1
         Running Ready i=Completed:0<0(1) s=Running<137(1) a=Running<137(1) b=Running<137(1)",
    );
}

#[test]
fn a_pod_that_is_known_to_be_over_is_not_run_again() {
    let mut life = Life::of(one());
    life.pod.status = serde_json::from_value(json!({"phase": "Succeeded", "podIP": "10.0.0.9"})).unwrap();
    story(&mut life, "until 9s", "");
    let status = life.status();
    assert_eq!((status.phase.as_deref(), status.pod_ip.as_deref()), (Some("Succeeded"), Some("10.0.0.9")));
}

#[test]
fn times_of_conditions_tell_when_they_changed() {
    let mut life = Life::of(one());
    let since = |status: &PodStatus, type_: &str| {
        let condition = status.conditions.iter().flatten().find(|c| c.type_ == type_).unwrap();
        condition.last_transition_time.as_ref().unwrap().0.as_second() - BEGIN
    };
    life.tell("status\nuntil 3s\nstatus\nuntil 9s");
    let status = life.status();
    assert_eq!((since(&status, "PodScheduled"), since(&status, "Ready")), (0, 3));
    life.tell("a exits 1");
    assert_eq!(since(&life.status(), "Ready"), 9);
}

#[test]
fn readiness_gates_and_foreign_conditions_are_respected() {
    let mut life =
        Life::of(json!({"readinessGates": [{"conditionType": "x/y"}], "containers": [{"name": "a", "image": "x:1"}]}));
    life.tell("until 1s");
    story(&mut life, "status", "Running a=Running(0)");
    life.pod.status = serde_json::from_value(json!({"conditions": [{"type": "x/y", "status": "True"}]})).unwrap();
    story(&mut life, "status", "Running Ready a=Running(0)");
    assert!(life.status().conditions.unwrap().iter().any(|condition| condition.type_ == "x/y"));
}

#[test]
fn quality_of_service_follows_requests_and_limits() {
    let cases = [
        (json!([{}]), QosClass::BestEffort),
        (json!([{"limits": {"cpu": "1", "memory": "1Gi"}}]), QosClass::Guaranteed),
        (
            json!([{"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}]),
            QosClass::Guaranteed,
        ),
        (json!([{"limits": {"cpu": "1", "memory": "1Gi"}}, {}]), QosClass::Burstable),
        (json!([{"requests": {"cpu": "1"}}]), QosClass::Burstable),
        (json!([{"requests": {"cpu": "0"}}]), QosClass::BestEffort),
    ];
    for (resources, expected) in cases {
        let containers: Vec<Value> =
            resources.as_array().unwrap().iter().map(|r| json!({"name": "a", "resources": r})).collect();
        assert_eq!(QosClass::of(&Life::of(json!({"containers": containers})).pod), expected, "{resources}");
    }
}

struct NoConfig;

impl env::Sources for NoConfig {
    fn config_map(&self, name: &str) -> Option<k8s_openapi::api::core::v1::ConfigMap> {
        (name == "c").then(|| serde_json::from_value(json!({"metadata": {}, "data": {"k": "v", "b=d": "x"}})).unwrap())
    }

    fn secret(&self, name: &str) -> Option<k8s_openapi::api::core::v1::Secret> {
        (name == "s").then(|| serde_json::from_value(json!({"metadata": {}, "data": {"k": "c2VjcmV0"}})).unwrap())
    }
}

fn env_of(container: Value) -> Result<Env, String> {
    let container: Container = serde_json::from_value(container).unwrap();
    let mut pod = Life::of(json!({"nodeName": "n1", "containers": []})).pod;
    pod.metadata.labels = Some(BTreeMap::from([("app".into(), "web".into())]));
    pod.spec.as_mut().unwrap().containers.push(container.clone());
    let service = serde_json::from_value(json!({"metadata": {"name": "my-db", "namespace": "d"},
        "spec": {"clusterIP": "10.96.0.9", "ports": [{"port": 5432, "name": "sql"}]}}))
    .unwrap();
    let facts = Facts {
        host_ips: vec!["1.1.1.1".into()],
        pod_ips: vec!["10.0.0.5".into()],
        allocatable: [("cpu".into(), copepod_api::quantity::Quantity::from_value(4))].into(),
    };
    env::resolve(&pod, &container, &[service], &NoConfig, &facts)
}

#[test]
fn variables_come_from_everywhere() {
    let env = env_of(json!({"name": "a",
    "resources": {"limits": {"memory": "64Mi"}, "requests": {"cpu": "250m"}},
    "envFrom": [{"prefix": "P_", "configMapRef": {"name": "c"}}, {"secretRef": {"name": "none", "optional": true}}],
    "env": [
        {"name": "A", "value": "1"}, {"name": "B", "value": "$(A)-$(NO)-$$(A)-$"},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
        {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
        {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
        {"name": "REQ", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu"}}},
        {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        {"name": "O", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "none", "optional": true}}},
    ]}))
    .unwrap();
    let expected = [
        ("P_k", "v"),
        ("A", "1"),
        ("B", "1-$(NO)-$(A)-$"),
        ("IP", "10.0.0.5"),
        ("APP", "web"),
        ("MEM", "64"),
        ("CPU", "4"),
        ("REQ", "1"),
        ("S", "secret"),
        ("MY_DB_SERVICE_HOST", "10.96.0.9"),
        ("MY_DB_SERVICE_PORT_SQL", "5432"),
        ("MY_DB_PORT", "tcp://10.96.0.9:5432"),
        ("MY_DB_PORT_5432_TCP_ADDR", "10.96.0.9"),
    ];
    for (name, value) in expected {
        assert_eq!(env.get(name), Some(value), "{name}");
    }
    assert!(env.get("O").is_none() && env.get("P_b=d").is_none());
}

#[test]
fn missing_configuration_is_named() {
    let cases = [
        (json!({"configMapKeyRef": {"name": "no", "key": "k"}}), "configmap \"no\" not found"),
        (json!({"configMapKeyRef": {"name": "c", "key": "no"}}), "couldn't find key no in ConfigMap d/c"),
        (json!({"secretKeyRef": {"name": "s", "key": "no"}}), "couldn't find key no in Secret d/s"),
        (json!({"fieldRef": {"fieldPath": "spec.no"}}), "field path \"spec.no\" is not supported"),
    ];
    for (source, message) in cases {
        assert_eq!(env_of(json!({"name": "a", "env": [{"name": "X", "valueFrom": source}]})).unwrap_err(), message);
    }
}

#[test]
fn who_joins_a_pod_waits_for_its_target_runs_once_and_leaves_with_the_pod() {
    let mut life = Life::of(json!({"containers": [{"name": "a", "image": "a:1"}]}));
    life.tell("until 1s");
    let told = life.tell("shell joins a\n until 2s\n status");
    assert_eq!(told, "1.0s image shell\n1.0s start shell 0\nRunning Ready a=Running(0) shell=Running(0)");
    let told = life.tell("shell exits 7\n until 100s\n status");
    assert_eq!(told, "Running Ready a=Running(0) shell=Error:7(0)", "it is not repeated, and nobody minds");
    life.tell("other joins a\n until 101s");
    let told = life.tell("vanish\n until 103s");
    assert_eq!(told, "101.0s stop a 30s\n101.0s stop other 30s\n101.0s tear down");

    let mut early = Life::of(json!({"containers": [{"name": "a", "image": "a:1"}]}));
    let told = early.tell("shell joins a\n a image missing ErrImagePull\n until 1s\n a image there\n until 9s");
    assert!(told.ends_with("start a 0\n2.0s image shell\n2.0s start shell 0"), "{told}");
}

#[test]
fn amounts_change_in_place_when_there_is_room() {
    let container = json!({"name": "a", "image": "a:1", "resources": {"requests": {"cpu": "100m"}}});
    let mut life = Life::of(json!({"containers": [container]}));
    life.tell("until 1s");
    assert_eq!(life.tell("room 2 1\n a cpu 500m\n until 2s\n status"), "1.0s resize a\nRunning Ready a=Running(0)");
    let told = life.tell("a cpu 1500m\n until 3s\n status");
    assert_eq!(told, "Running Ready PodResizePending:Deferred a=Running(0)");
    let status = life.status();
    let shown = &status.container_statuses.unwrap()[0];
    assert_eq!(shown.allocated_resources.as_ref().unwrap()["cpu"].0, "500m", "what is not taken is not promised");
    let told = life.tell("a cpu 3\n until 4s\n status");
    assert_eq!(told, "Running Ready PodResizePending:Infeasible a=Running(0)");
    assert_eq!(life.tell("room 4 1\n until 20s\n status"), "4.0s resize a\nRunning Ready a=Running(0)");
}

#[test]
fn a_container_that_wants_it_is_run_anew_with_other_amounts() {
    let policy = json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]);
    let container = json!({"name": "a", "image": "a:1", "resizePolicy": policy});
    let mut life = Life::of(json!({"containers": [container]}));
    life.tell("until 1s");
    let told = life.tell("a cpu 500m\n until 9s\n status");
    assert_eq!(told, "1.0s stop a 30s\n1.0s start a 1\nRunning Ready a=Running<143(1)");
}
