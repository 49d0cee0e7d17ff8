//! What this server did so far, in the text format of Prometheus.
//!
//! Names and labels are those of Kubernetes, so that dashboards made for it show something here. Labels come from the
//! catalog and never from what clients write, so there are as many series as there are kinds, verbs and codes.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Instant,
};

use copepod_store::View;

use crate::{fairness::Fairness, path::Asked};

/// The upper ends of the buckets of durations, in seconds.
const BUCKETS: [f64; 12] = [0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 5.0, 15.0];

/// A kind that is gone leaves its series behind; beyond this many, what is new is not counted apart.
const SERIES_MAX: usize = 20_000;

/// What is said of a request, apart from how it went.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Labels {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    is_dry: bool,
}

#[derive(Default)]
struct Series {
    by_code: BTreeMap<u16, u64>,
    /// One count a bucket, each with what is in the buckets before.
    buckets: [u64; BUCKETS.len()],
    count: u64,
    seconds: f64,
    /// Under way, of those that are long by nature.
    running: i64,
}

#[derive(Default)]
pub struct Metrics {
    series: Mutex<BTreeMap<Labels, Series>>,
    reading: AtomicI64,
    writing: AtomicI64,
}

impl Labels {
    pub fn of(asked: &Asked, verb: &str, is_apply: bool, is_dry: bool) -> Labels {
        let kind = &asked.row.kind;
        Labels {
            verb: match verb {
                "get" => "GET",
                "list" => "LIST",
                "watch" => "WATCH",
                "create" => "POST",
                "update" => "PUT",
                "patch" if is_apply => "APPLY",
                "patch" => "PATCH",
                "delete" => "DELETE",
                "deletecollection" => "DELETECOLLECTION",
                _ => "CONNECT",
            },
            group: kind.group.to_string(),
            version: kind.version.to_string(),
            resource: kind.plural.to_string(),
            subresource: asked.subresource.clone(),
            scope: match (asked.name.is_empty(), asked.namespace.is_empty()) {
                (false, _) => "resource",
                (true, false) => "namespace",
                (true, true) => "cluster",
            },
            is_dry,
        }
    }

    /// A request that is not about objects.
    pub fn of_path() -> Labels {
        Labels { verb: "GET", ..Labels::default() }
    }

    fn is_writing(&self) -> bool {
        !["GET", "LIST", "WATCH", "CONNECT"].contains(&self.verb)
    }

    fn text(&self) -> String {
        let dry = if self.is_dry { "All" } else { "" };
        format!(
            r#"component="apiserver",dry_run="{dry}",group="{}",resource="{}",scope="{}",subresource="{}",verb="{}",version="{}""#,
            self.group, self.resource, self.scope, self.subresource, self.verb, self.version
        )
    }
}

/// A request that is under way until it is dropped.
pub struct UnderWay<'a>(&'a AtomicI64);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A watch or a stream that goes on until it is dropped.
pub struct Running {
    metrics: Arc<Metrics>,
    labels: Labels,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(series) = self.metrics.lock().get_mut(&self.labels) {
            series.running -= 1;
        }
    }
}

impl Metrics {
    pub fn begin(&self, labels: &Labels) -> UnderWay<'_> {
        let counter = if labels.is_writing() { &self.writing } else { &self.reading };
        counter.fetch_add(1, Ordering::Relaxed);
        UnderWay(counter)
    }

    pub fn end(&self, labels: &Labels, code: u16, since: Instant) {
        let seconds = since.elapsed().as_secs_f64();
        self.with(labels, |series| {
            *series.by_code.entry(code).or_default() += 1;
            series.count += 1;
            series.seconds += seconds;
            for (end, count) in BUCKETS.iter().zip(&mut series.buckets) {
                *count += u64::from(seconds <= *end);
            }
        });
    }

    pub fn running(self: &Arc<Self>, labels: Labels) -> Running {
        self.with(&labels, |series| series.running += 1);
        Running { metrics: self.clone(), labels }
    }

    fn with(&self, labels: &Labels, change: impl FnOnce(&mut Series)) {
        let mut all = self.lock();
        if let Some(series) = all.get_mut(labels) {
            change(series);
        } else if all.len() < SERIES_MAX {
            change(all.entry(labels.clone()).or_default());
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Labels, Series>> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything as text.
    pub fn text(&self, view: &View, fairness: &Fairness) -> String {
        let mut out = String::new();
        self.write_requests(&mut out);
        write_seats(&mut out, fairness);
        head(&mut out, "apiserver_resource_objects", "gauge", "Objects that are stored, by resource.");
        for resource in view.resources() {
            let (group, plural, count) = (&resource.group, &resource.plural, view.count(resource));
            line(&mut out, "apiserver_resource_objects", &format!(r#"group="{group}",resource="{plural}""#), count);
        }
        write_process(&mut out);
        out
    }

    fn write_requests(&self, out: &mut String) {
        let all = self.lock();
        head(
            out,
            "apiserver_request_total",
            "counter",
            "Requests that were answered, by what they asked and the code.",
        );
        for (labels, series) in &*all {
            let labels = labels.text();
            for (code, count) in &series.by_code {
                line(out, "apiserver_request_total", &format!(r#"code="{code}",{labels}"#), count);
            }
        }
        let name = "apiserver_request_duration_seconds";
        head(out, name, "histogram", "Seconds until the answer began, by what was asked.");
        for (labels, series) in all.iter().filter(|(_, series)| series.count > 0) {
            let labels = labels.text();
            for (end, count) in BUCKETS.iter().zip(&series.buckets) {
                line(out, &format!("{name}_bucket"), &format!(r#"{labels},le="{end}""#), count);
            }
            line(out, &format!("{name}_bucket"), &format!(r#"{labels},le="+Inf""#), series.count);
            line(out, &format!("{name}_sum"), &labels, series.seconds);
            line(out, &format!("{name}_count"), &labels, series.count);
        }
        head(out, "apiserver_longrunning_requests", "gauge", "Watches and streams that are open, by what they show.");
        for (labels, series) in all.iter().filter(|(labels, _)| ["WATCH", "CONNECT"].contains(&labels.verb)) {
            line(out, "apiserver_longrunning_requests", &labels.text(), series.running);
        }
        let name = "apiserver_current_inflight_requests";
        head(out, name, "gauge", "Requests that are being worked on.");
        line(out, name, r#"request_kind="mutating""#, self.writing.load(Ordering::Relaxed));
        line(out, name, r#"request_kind="readOnly""#, self.reading.load(Ordering::Relaxed));
    }
}

fn write_seats(out: &mut String, fairness: &Fairness) {
    let usage = fairness.usage();
    let level = |name: &str| format!(r#"priority_level="{name}""#);
    let name = "apiserver_flowcontrol_current_executing_seats";
    head(out, name, "gauge", "Seats that are taken, by priority level.");
    for (own, in_use, _) in &usage {
        line(out, name, &level(own), in_use);
    }
    let name = "apiserver_flowcontrol_current_inqueue_requests";
    head(out, name, "gauge", "Requests that wait for a seat, by priority level.");
    for (own, _, waiting) in &usage {
        line(out, name, &level(own), waiting);
    }
    let name = "apiserver_flowcontrol_rejected_requests_total";
    head(out, name, "counter", "Requests that found neither a seat nor room to wait, by schema and level.");
    for ((schema, level), count) in fairness.refusals() {
        line(out, name, &format!(r#"flow_schema="{schema}",priority_level="{level}",reason="queue-full""#), count);
    }
}

/// What Linux says of this process; nothing where it does not.
fn write_process(out: &mut String) {
    const PAGE_BYTES: u64 = 4096;
    const TICKS_A_SECOND: f64 = 100.0;
    let field = |path: &str, index: usize| {
        let text = std::fs::read_to_string(path).ok()?;
        // The program's name is in parentheses and may hold spaces.
        text.rsplit(") ").next()?.split_whitespace().nth(index)?.parse::<u64>().ok()
    };
    if let Some(pages) = field("/proc/self/statm", 1) {
        head(out, "process_resident_memory_bytes", "gauge", "Memory that the process holds.");
        line(out, "process_resident_memory_bytes", "", pages * PAGE_BYTES);
    }
    if let (Some(user), Some(system)) = (field("/proc/self/stat", 11), field("/proc/self/stat", 12)) {
        head(out, "process_cpu_seconds_total", "counter", "Processor time that the process used.");
        line(out, "process_cpu_seconds_total", "", (user + system) as f64 / TICKS_A_SECOND);
    }
    head(out, "kubernetes_build_info", "gauge", "The version of this program.");
    let labels = format!(r#"git_version="{}",major="1",minor="36",platform="linux""#, crate::health::git_version());
    line(out, "kubernetes_build_info", &labels, 1);
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
}

fn line(out: &mut String, name: &str, labels: &str, value: impl std::fmt::Display) {
    let _ = match labels {
        "" => writeln!(out, "{name} {value}"),
        labels => writeln!(out, "{name}{{{labels}}} {value}"),
    };
}
