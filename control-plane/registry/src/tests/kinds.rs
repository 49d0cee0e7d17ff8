//! All kinds alike: what is served is what Kubernetes serves, and each kind has an object that it accepts.

use copepod_api::{Action, Patch};
use serde_json::{Value, json};

use super::fixture::{Fixture, body, refusal, request};
use crate::{Row, row::VERBS, rows};

/// What Kubernetes v1.36 serves in stable versions: group and version, resource, singular, scope, kind, verbs, short
/// names, categories. `all` stands for the verbs of an ordinary resource.
const SERVED: &str = include_str!("served.txt");

/// What is not served by rows of the registry, and why.
const ELSEWHERE: &[(&str, &str)] = &[
    ("v1 bindings", "an old way to say pods/binding that no client uses"),
    ("v1 componentstatuses", "deprecated since 1.19, and there are no components"),
    ("authentication.k8s.io/v1", "reviews are answered by the API server and never stored"),
    ("authorization.k8s.io/v1", "reviews are answered by the API server and never stored"),
];

fn described(row: &Row) -> Vec<String> {
    let kind = &row.kind;
    let words = |words: Vec<String>| if words.is_empty() { "-".to_owned() } else { words.join(",") };
    let verbs = |verbs: &[&str]| {
        let mut sorted: Vec<String> = verbs.iter().map(|verb| (*verb).to_owned()).collect();
        sorted.sort();
        if verbs == VERBS { "all".to_owned() } else { words(sorted) }
    };
    let scope = if kind.is_namespaced() { "namespaced" } else { "cluster" };
    let texts = |names: &[copepod_api::kind::Text]| words(names.iter().map(ToString::to_string).collect());
    let mut lines = vec![format!(
        "{} {} {} {scope} {} {} {} {}",
        kind.api_version(),
        kind.plural,
        kind.singular,
        kind.name,
        verbs(row.verbs),
        texts(&kind.short),
        texts(&kind.categories),
    )];
    for part in &kind.subresources {
        let name = part.kind.map_or(kind.name.as_ref(), |(_, _, name)| name);
        let verbs = verbs(part.verbs);
        lines.push(format!("{} {}/{} - {scope} {name} {verbs} - -", kind.api_version(), kind.plural, part.name));
    }
    lines
}

#[test]
fn what_is_served_is_what_kubernetes_serves() {
    let served: Vec<String> = rows().iter().flat_map(|row| described(row)).collect();
    let known: Vec<&str> = SERVED.lines().collect();
    // The version of a kind that answers for another (`autoscaling/v1.Scale`) is told by discovery.
    let without_version = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let kind = words[4].rsplit('.').next().unwrap_or_default();
        [&words[..4], &[kind], &words[5..]].concat().join(" ")
    };
    let missing: Vec<&&str> = known
        .iter()
        .filter(|line| !ELSEWHERE.iter().any(|(prefix, _)| line.starts_with(prefix)))
        .filter(|line| !served.contains(&without_version(line)))
        .collect();
    assert!(missing.is_empty(), "not served, or not like that: {missing:#?}");
    let invented: Vec<&String> =
        served.iter().filter(|line| !known.iter().any(|known| without_version(known) == **line)).collect();
    assert!(invented.is_empty(), "served, but unknown: {invented:#?}");
}

/// An object of each kind that says no more than it must.
fn smallest(plural: &str) -> Value {
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let mut once = template.clone();
    once["spec"]["restartPolicy"] = json!("Never");
    let webhook = json!({
        "name": "a.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": "https://example.com/"},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
    });
    let constraints = json!({"resourceRules": webhook["rules"]});
    let mut object = match plural {
        "apiservices" => json!({"spec": {
            "group": "example.com", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1,
        }}),
        "clusterrolebindings" | "rolebindings" => {
            json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}})
        }
        "certificatesigningrequests" => json!({"spec": {
            "request": "LS0t", "signerName": "example.com/own", "usages": ["client auth"],
        }}),
        "csinodes" => json!({"spec": {"drivers": []}}),
        "csidrivers" | "deviceclasses" | "networkpolicies" | "resourceclaims" => json!({"spec": {}}),
        "csistoragecapacities" => json!({"storageClassName": "fast"}),
        "daemonsets" | "deployments" | "replicasets" | "statefulsets" => {
            json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}})
        }
        "controllerrevisions" => json!({"revision": 1, "data": {}}),
        "customresourcedefinitions" => json!({"spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}],
        }}),
        "cronjobs" => json!({"spec": {"schedule": "*/5 * * * *", "jobTemplate": {"spec": {"template": once}}}}),
        "horizontalpodautoscalers" => {
            json!({"spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "web"}}})
        }
        "jobs" => json!({"spec": {"template": once}}),
        "podtemplates" => json!({"template": template}),
        "replicationcontrollers" => json!({"spec": {"selector": {"a": "b"}, "template": template}}),
        "endpointslices" => json!({"addressType": "IPv4", "endpoints": []}),
        "events" => json!({
            "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"},
            "regarding": {"kind": "Pod", "namespace": "default", "name": "p"},
            "reportingController": "example.com/a", "reportingInstance": "a", "action": "Do", "reason": "So",
            "type": "Normal", "eventTime": "2026-11-23T10:00:00.000000Z",
        }),
        "flowschemas" => json!({"spec": {"priorityLevelConfiguration": {"name": "global-default"}}}),
        "ingressclasses" => json!({"spec": {"controller": "example.com/own"}}),
        "ingresses" => json!({"spec": {"defaultBackend": {"service": {"name": "web", "port": {"number": 80}}}}}),
        "ipaddresses" => json!({"spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "s"}}}),
        "limitranges" => json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}}]}}),
        "mutatingadmissionpolicies" => json!({"spec": {
            "matchConstraints": constraints, "reinvocationPolicy": "Never",
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}}],
        }}),
        "mutatingadmissionpolicybindings" => json!({"spec": {"policyName": "p"}}),
        "mutatingwebhookconfigurations" | "validatingwebhookconfigurations" => json!({"webhooks": [webhook]}),
        "persistentvolumeclaims" => json!({"spec": {
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
        }}),
        "persistentvolumes" => json!({"spec": {
            "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/data"},
        }}),
        "pods" => template["spec"].as_object().map(|spec| json!({"spec": spec})).unwrap_or_default(),
        "prioritylevelconfigurations" => {
            json!({"spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}}})
        }
        "priorityclasses" => json!({"value": 7}),
        "resourceclaimtemplates" => json!({"spec": {"spec": {}}}),
        "resourceslices" => json!({"spec": {"driver": "d.example.com", "nodeName": "n1", "pool": {
            "name": "n1", "generation": 1, "resourceSliceCount": 1,
        }}}),
        "runtimeclasses" => json!({"handler": "own"}),
        "servicecidrs" => json!({"spec": {"cidrs": ["10.100.0.0/24"]}}),
        "services" => json!({"spec": {"ports": [{"port": 80}]}}),
        "storageclasses" => json!({"provisioner": "example.com/own"}),
        "validatingadmissionpolicies" => {
            json!({"spec": {"matchConstraints": constraints, "validations": [{"expression": "true"}]}})
        }
        "validatingadmissionpolicybindings" => json!({"spec": {"policyName": "p", "validationActions": ["Deny"]}}),
        "volumeattachments" => json!({"spec": {
            "attacher": "example.com/own", "nodeName": "n1", "source": {"persistentVolumeName": "v"},
        }}),
        "volumeattributesclasses" => json!({"driverName": "example.com", "parameters": {"a": "b"}}),
        _ => json!({}),
    };
    let name = match plural {
        "ipaddresses" => "10.96.0.99",
        "customresourcedefinitions" => "widgets.example.com",
        "apiservices" => "v1.example.com",
        _ => "a",
    };
    object["metadata"] = json!({"name": name, "labels": {"own": "yes"}});
    object
}

#[test]
fn the_smallest_object_of_each_kind_is_stored_and_applying_it_again_changes_nothing() {
    for row in rows().iter().filter(|row| row.verbs.contains(&"create")) {
        let (plural, group) = (&row.kind.plural, &row.kind.group);
        let mut world = Fixture::new();
        let mut object = smallest(plural);
        row.schema().prune(&mut object);
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let target = format!("{plural}.{group}/{name}");
        let mut apply = || {
            let action = Action::Patch { patch: Patch::Apply(object.clone()) };
            let mut request = request(&target, action);
            request.target.version = row.kind.version.as_ref().into();
            world.one(request).map(|reply| body(&reply))
        };
        let first = apply().unwrap_or_else(|refusal| panic!("{target}: {}", refusal.message()));
        let second = apply().unwrap_or_else(|refusal| panic!("{target}: {}", refusal.message()));
        assert_eq!(first, second, "{target}");
        // What is stored is what is shown, and nothing in it is foreign to the kind.
        let findings = row.schema().check(&first);
        assert!(findings.unknown.is_empty() && findings.errors.is_empty(), "{target}: {:?}", findings.unknown);
    }
}

#[test]
fn what_is_wrong_is_told_by_field() {
    let cases = [
        (
            "apiservices",
            json!({"spec": {"group": "g", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1001}}),
            "spec.versionPriority: Invalid value: 1001: must be positive and less than 1000",
        ),
        (
            "apiservices",
            json!({"spec": {"group": "g", "version": "v1", "caBundle": "eA==", "groupPriorityMinimum": 1, "versionPriority": 1}}),
            "spec.caBundle: Invalid value: \"\": local APIServices may not have a caBundle",
        ),
        (
            "priorityclasses",
            json!({"value": 2_000_000_000}),
            "value: Forbidden: maximum allowed value of a user defined priority is 1000000000",
        ),
        (
            "storageclasses",
            json!({"provisioner": "p", "reclaimPolicy": "Recycle"}),
            "reclaimPolicy: Unsupported value: \"Recycle\"",
        ),
        (
            "persistentvolumeclaims",
            json!({"spec": {"accessModes": []}}),
            "spec.accessModes: Required value: at least 1 access mode is required",
        ),
        (
            "persistentvolumeclaims",
            json!({"spec": {"accessModes": ["ReadWriteOnce"]}}),
            "spec.resources[storage]: Required value",
        ),
        (
            "persistentvolumes",
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1"}}}),
            "spec: Required value: must specify a volume type",
        ),
        ("limitranges", json!({"spec": {"limits": [{"type": "Pod", "min": {"cpu": "2"}, "max": {"cpu": "1"}}]}}), ""),
        (
            "limitranges",
            json!({"spec": {"limits": [{"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}}]}}),
            "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
        ),
        (
            "resourcequotas",
            json!({"spec": {"scopes": ["BestEffort", "NotBestEffort"]}}),
            "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: conflicting scopes",
        ),
        (
            "ingresses",
            json!({"spec": {"rules": [{"host": "1.2.3.4"}]}}),
            "spec.rules[0].host: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
        ),
        ("ingresses", json!({"spec": {}}), "either `defaultBackend` or `rules` must be specified"),
        (
            "networkpolicies",
            json!({"spec": {"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/9"]}}]}]}}),
            "spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/9\": must be a strict subset of `cidr`",
        ),
        (
            "certificatesigningrequests",
            json!({"spec": {"request": "LS0t", "signerName": "x", "usages": ["dance"]}}),
            "spec.usages[0]: Unsupported value: \"dance\"",
        ),
        (
            "validatingwebhookconfigurations",
            json!({"webhooks": [{"name": "a", "sideEffects": "Some", "admissionReviewVersions": ["v2"], "clientConfig": {"url": "http://x"}}]}),
            "webhooks[0].sideEffects: Unsupported value: \"Some\"",
        ),
        (
            "cronjobs",
            json!({"spec": {"schedule": "61 * * * *", "jobTemplate": {"spec": {"template": {}}}}}),
            "spec.schedule: Invalid value: \"61 * * * *\": end of range (61) above maximum (59): 61",
        ),
        (
            "cronjobs",
            json!({"spec": {"schedule": "@daily", "timeZone": "Moon/Base", "jobTemplate": {"spec": {"template": {}}}}}),
            "spec.timeZone: Invalid value: \"Moon/Base\": unknown time zone Moon/Base",
        ),
        (
            "horizontalpodautoscalers",
            json!({"spec": {"minReplicas": 5, "maxReplicas": 2, "scaleTargetRef": {"kind": "Deployment", "name": "d"}}}),
            "spec.maxReplicas: Invalid value: 2: must be greater than or equal to `minReplicas`",
        ),
        (
            "jobs",
            json!({"spec": {"completionMode": "Indexed", "parallelism": 1, "template": {}}}),
            "spec.completions: Required value: when completion mode is Indexed",
        ),
        (
            "daemonsets",
            json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {}}}),
            "`selector` does not match template `labels`",
        ),
        (
            "flowschemas",
            json!({"spec": {"matchingPrecedence": 1, "priorityLevelConfiguration": {"name": "a"}}}),
            "only the schema named 'exempt' may have matchingPrecedence 1",
        ),
        (
            "resourceclaims",
            json!({"spec": {"devices": {"requests": [{"name": "a"}]}}}),
            "spec.devices.requests[0]: Required value",
        ),
    ];
    for (plural, mut object, expected) in cases {
        object["metadata"] = json!({"name": "a"});
        let mut world = Fixture::new();
        let said = refusal(world.create(plural, object));
        assert!(said.starts_with("422 Invalid") && said.contains(expected), "{plural}: {said}");
    }
}

#[test]
fn an_autoscaler_is_the_same_in_both_of_its_versions() {
    let mut world = Fixture::new();
    let mut asked = smallest("horizontalpodautoscalers");
    asked["spec"]["metrics"] = json!([
        {"type": "Resource", "resource": {"name": "memory", "target": {"type": "Utilization", "averageUtilization": 50}}},
        {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}},
    ]);
    world.create("horizontalpodautoscalers", asked).unwrap();
    let first =
        rows().iter().find(|row| row.kind.plural == "horizontalpodautoscalers" && row.kind.version == "v1").unwrap();
    let key = copepod_api::Key::new(first.resource(), "default", "a");
    let shown = first.show(world.view.object(&key).unwrap());
    assert_eq!(shown.value()["spec"]["targetCPUUtilizationPercentage"], 70);
    assert!(shown.meta.annotations["autoscaling.alpha.kubernetes.io/metrics"].contains("memory"));
    // What the first version does not know survives a write by it.
    let mut change = request(
        "horizontalpodautoscalers/a",
        Action::Patch { patch: Patch::Merge(json!({"spec": {"targetCPUUtilizationPercentage": 60}})) },
    );
    change.target.version = "v1".into();
    let after = body(&world.one(change).unwrap());
    assert_eq!(
        (&after["apiVersion"], &after["spec"]["targetCPUUtilizationPercentage"]),
        (&json!("autoscaling/v1"), &json!(60))
    );
    let stored = world.get("horizontalpodautoscalers/a").unwrap();
    let names: Vec<&Value> =
        stored["spec"]["metrics"].as_array().unwrap().iter().map(|m| &m["resource"]["name"]).collect();
    assert_eq!(names, ["cpu", "memory"]);
    assert_eq!(stored["metadata"]["annotations"], json!({}));
}

#[test]
fn some_decisions_are_made_once() {
    let cases = [
        ("priorityclasses", json!({"value": 8}), "value: Forbidden: may not be changed in an update."),
        (
            "storageclasses",
            json!({"provisioner": "other"}),
            "provisioner: Invalid value: \"other\": field is immutable",
        ),
        ("runtimeclasses", json!({"handler": "other"}), "field is immutable"),
        (
            "persistentvolumes",
            json!({"spec": {"hostPath": {"path": "/other"}}}),
            "spec.persistentvolumesource is immutable after creation",
        ),
        (
            "persistentvolumeclaims",
            json!({"spec": {"accessModes": ["ReadOnlyMany"]}}),
            "spec is immutable after creation except",
        ),
        ("ingressclasses", json!({"spec": {"controller": "example.com/other"}}), "field is immutable"),
        ("certificatesigningrequests", json!({"spec": {"request": "LS0tLQ=="}}), "field is immutable"),
        ("volumeattachments", json!({"spec": {"nodeName": "n2"}}), "field is immutable"),
        (
            "statefulsets",
            json!({"spec": {"serviceName": "other"}}),
            "updates to statefulset spec for fields other than",
        ),
        ("jobs", json!({"spec": {"completions": 5}}), "spec.completions: Invalid value: 5: field is immutable"),
        ("controllerrevisions", json!({"data": {"a": "b"}}), "data: Invalid value"),
    ];
    for (plural, change, expected) in cases {
        let mut world = Fixture::new();
        world.create(plural, smallest(plural)).unwrap();
        let said = refusal(world.merge(&format!("{plural}/a"), change));
        assert!(said.contains(expected), "{plural}: {said}");
    }
}

#[test]
fn a_request_for_a_certificate_is_asked_approved_and_signed_by_three() {
    let mut world = Fixture::new();
    let mut asked = smallest("certificatesigningrequests");
    asked["spec"]["username"] = json!("somebody else");
    let made = world.create("certificatesigningrequests", asked).unwrap();
    assert_eq!(made["spec"]["username"], "tester", "who asks is not a matter of opinion");
    let approved = json!({"status": {
        "conditions": [{"type": "Approved", "reason": "Fine", "message": "m", "status": "True"}], "certificate": "LS0t",
    }});
    let after = world.merge("certificatesigningrequests/a/approval", approved).unwrap();
    assert_eq!(after["status"]["conditions"][0]["lastUpdateTime"], "2026-11-23T10:00:00Z");
    assert_eq!(after["status"]["certificate"], Value::Null, "who approves does not sign");
    let denied = json!({"status": {"conditions": [{"type": "Denied", "status": "True"}]}});
    let said = refusal(world.merge("certificatesigningrequests/a/approval", denied));
    assert!(said.contains("may not remove a condition of type \"Approved\""), "{said}");
    let signed =
        world.merge("certificatesigningrequests/a/status", json!({"status": {"certificate": "LS0t"}})).unwrap();
    assert_eq!(signed["status"]["certificate"], "LS0t");
}
