//! What kubectl shows of the main kinds, word for word: `get -o wide` and `describe`.
//!
//! The servers decide what stands in a table; `describe` is kubectl's own and shows whether the objects are as it expects
//! them. Names that are drawn, addresses and times are told by what they are.

use std::process::Output;

use super::{
    clients::installed,
    harness::{Cluster, text},
};

const OBJECTS: &str = include_str!("golden/objects.yaml");

/// By their resources; the name says which one is described.
const SHOWN: &[(&str, &str)] = &[
    ("deployments", "web"),
    ("replicasets", ""),
    ("pods", ""),
    ("services", "web"),
    ("endpointslices", ""),
    ("configmaps", "words"),
    ("secrets", "key"),
    ("jobs", "once"),
    ("cronjobs", "nightly"),
    ("ingresses", "web"),
    ("networkpolicies", "web"),
    ("poddisruptionbudgets", "web"),
    ("resourcequotas", "all"),
    ("limitranges", "usual"),
    ("horizontalpodautoscalers", "web"),
    ("serviceaccounts", "robot"),
    ("roles", "reader"),
    ("rolebindings", "robot"),
    ("storageclasses", "fast"),
    ("persistentvolumeclaims", "data"),
    ("priorityclasses", "system-node-critical"),
    ("namespaces", "default"),
];

#[test]
fn tables_and_descriptions_are_as_everywhere() {
    let cluster = Cluster::up(1, 1);
    cluster.apply(OBJECTS);
    cluster.until_ready("web", 1);
    let kubectl = installed().join("bin/kubectl");
    let k = |words: &[&str]| -> String {
        let output: Output = cluster.try_kubectl_of(&kubectl, words, &[]);
        assert!(output.status.success(), "kubectl {words:?}\n{}", text(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    k(&["wait", "job/once", "--for=condition=Complete", "--timeout=60s"]);
    cluster.until("the quota counts what is left", || k(&["get", "quota", "all"]).contains("pods: 1/10"));
    let mut tables = String::new();
    let mut descriptions = String::new();
    for (resource, name) in SHOWN {
        tables.push_str(&format!("$ kubectl get {resource} -o wide\n{}\n", told(&k(&["get", resource, "-o", "wide"]))));
        if !name.is_empty() {
            let shown = k(&["describe", resource, name, "--show-events=false"]);
            descriptions.push_str(&format!("$ kubectl describe {resource} {name}\n{}\n", told(&shown)));
        }
    }
    insta::assert_snapshot!("tables", tables);
    insta::assert_snapshot!("descriptions", descriptions);
}

/// Lines by their columns, with what differs from run to run told by what it is.
fn told(shown: &str) -> String {
    let lines = shown.lines().map(|line| {
        let indent = line.len() - line.trim_start().len();
        let columns = line.trim().split("  ").map(str::trim).filter(|column| !column.is_empty());
        let columns: Vec<String> = columns.map(column).collect();
        format!("{}{}", " ".repeat(indent), columns.join(" | "))
    });
    let mut lines: Vec<String> = lines.map(|line| line.trim_end().to_owned()).collect();
    if lines.first().is_some_and(|first| first.starts_with("NAME |")) {
        // Drawn names are in no order.
        lines[1..].sort();
    }
    lines.join("\n") + "\n"
}

fn column(text: &str) -> String {
    if text.starts_with("kubectl.kubernetes.io/last-applied-configuration") {
        return text.split(':').next().unwrap_or_default().to_owned();
    }
    if is_time(text) {
        return "TIME".to_owned();
    }
    text.split_inclusive([' ', ',', '/', ':', '=']).map(word).collect()
}

fn word(text: &str) -> String {
    let end = text.len() - usize::from(text.ends_with([' ', ',', '/', ':', '=']));
    let (own, mark) = text.split_at(end);
    if let Some(inner) = own.strip_prefix('(') {
        return format!("({}{mark}", word(inner));
    }
    let own = if is_duration(own) {
        "AGE"
    } else if own.parse::<std::net::IpAddr>().is_ok() && own != "0.0.0.0" {
        "ADDRESS"
    } else if is_uid(own) {
        "UID"
    } else {
        return format!("{}{mark}", undrawn(own));
    };
    format!("{own}{mark}")
}

/// `Mon, 23 Nov 2026 19:03:57 +0000`, `2026-11-23T19:03:57Z` or `2026-11-23 19:03:57 +0000 UTC`.
fn is_time(text: &str) -> bool {
    let is_rfc3339 = text.ends_with('Z') && text.parse::<copepod_api::Timestamp>().is_ok();
    let days = ["Mon, ", "Tue, ", "Wed, ", "Thu, ", "Fri, ", "Sat, ", "Sun, "];
    is_rfc3339 || text.ends_with(" +0000 UTC") || days.iter().any(|day| text.starts_with(day))
}

fn is_duration(text: &str) -> bool {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    text.ends_with(['s', 'm', 'h', 'd'])
        && text.split_inclusive(['s', 'm', 'h', 'd']).all(|part| is_number(&part[..part.len() - 1]))
}

fn is_uid(text: &str) -> bool {
    text.len() == 36 && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

/// A name with letters that were drawn for it, without them: no vowel, and no letter that looks like a digit.
fn undrawn(name: &str) -> String {
    let is_drawn = |part: &str| {
        [5, 10].contains(&part.len()) && part.bytes().all(|byte| b"bcdfghjklmnpqrstvwxz2456789".contains(&byte))
    };
    let parts: Vec<&str> = name.split('-').map(|part| if is_drawn(part) { "*" } else { part }).collect();
    parts.join("-")
}
