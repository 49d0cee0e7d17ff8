//! What is refused, and in which words. A case is a change of something valid and the errors it must cause.

use serde_json::{Value, json};

use super::fixture::{Fixture, deployment, pod, service};

/// The errors of creating `object`, one a line: `field: message`.
fn errors(plural: &str, object: Value) -> String {
    match Fixture::new().create(plural, object) {
        Ok(_) => String::new(),
        Err(refused) => {
            let causes = refused.details().and_then(|details| details.causes.clone()).unwrap_or_default();
            assert_eq!((refused.code(), refused.reason()), (422, "Invalid"), "{refused}");
            let line = |cause: copepod_api::k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusCause| {
                format!("{}: {}", cause.field.unwrap_or_default(), cause.message.unwrap_or_default())
            };
            causes.into_iter().map(line).collect::<Vec<_>>().join("\n")
        }
    }
}

/// `object` with values put at JSON pointers; `null` takes away.
fn with(mut object: Value, changes: &[(&str, Value)]) -> Value {
    for (pointer, value) in changes {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        let parent = object.pointer_mut(parent).unwrap_or_else(|| panic!("no {parent}"));
        match parent {
            Value::Array(items) => items[field.parse::<usize>().unwrap()] = value.clone(),
            other => other[field] = value.clone(),
        }
    }
    object
}

#[test]
fn pods() {
    let container = "/spec/containers/0";
    let at = |field: &str| format!("{container}/{field}");
    let cases: Vec<(Vec<(String, Value)>, &str)> = vec![
        (vec![], ""),
        (vec![("/spec/containers".into(), json!([]))], "spec.containers: Required value"),
        (vec![(at("image"), json!(null))], "spec.containers[0].image: Required value"),
        (
            vec![(at("image"), json!(" x"))],
            "spec.containers[0].image: Invalid value: \" x\": must not have leading or trailing whitespace",
        ),
        (vec![(at("name"), json!(""))], "spec.containers[0].name: Required value"),
        (
            vec![(at("imagePullPolicy"), json!("Sometimes"))],
            "spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
        ),
        (
            vec![("/spec/containers".into(), json!([{"name": "c", "image": "x"}, {"name": "c", "image": "x"}]))],
            "spec.containers[1].name: Duplicate value: \"c\"",
        ),
        (
            vec![(at("volumeMounts"), json!([{"name": "v", "mountPath": "/x"}]))],
            "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
        ),
        (
            vec![(at("resources"), json!({"requests": {"cpu": "2"}, "limits": {"cpu": "500m"}}))],
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 500m",
        ),
        (
            vec![(at("readinessProbe"), json!({}))],
            "spec.containers[0].readinessProbe: Required value: must specify a handler type",
        ),
        (
            vec![(at("livenessProbe"), json!({"tcpSocket": {"port": 1}, "successThreshold": 2}))],
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
        ),
        (
            vec![(at("ports"), json!([{"containerPort": 0}]))],
            "spec.containers[0].ports[0].containerPort: Required value",
        ),
        (
            vec![("/spec/restartPolicy".into(), json!("Maybe"))],
            "spec.restartPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"Never\", \"OnFailure\"",
        ),
        (
            vec![("/spec/volumes".into(), json!([{"name": "v", "hostPath": {"path": "/a/../b"}}]))],
            "spec.volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
        ),
        (
            vec![("/spec/volumes".into(), json!([{"name": "v", "emptyDir": {}, "secret": {"secretName": "s"}}]))],
            "spec.volumes[0].secret: Forbidden: may not specify more than 1 volume type",
        ),
        (
            vec![("/spec/terminationGracePeriodSeconds".into(), json!(-1))],
            "spec.terminationGracePeriodSeconds: Invalid value: -1: must be greater than or equal to 0",
        ),
    ];
    for (changes, expected) in cases {
        let changes: Vec<(&str, Value)> = changes.iter().map(|(pointer, value)| (&**pointer, value.clone())).collect();
        assert_eq!(errors("pods", with(pod("a"), &changes)), expected, "{changes:?}");
    }
}

#[test]
fn all_errors_come_at_once() {
    let broken =
        with(pod("Bad_Name"), &[("/spec/containers/0/image", json!(null)), ("/spec/restartPolicy", json!("x"))]);
    let errors = errors("pods", broken);
    assert_eq!(errors.lines().count(), 3, "{errors}");
    assert!(
        errors
            .starts_with("metadata.name: Invalid value: \"Bad_Name\": a lowercase RFC 1123 subdomain must consist of")
    );
}

#[test]
fn deployments() {
    let cases: &[(&[(&str, Value)], &str)] = &[
        (&[], ""),
        (&[("/spec/replicas", json!(-1))], "spec.replicas: Invalid value: -1: must be greater than or equal to 0"),
        (
            &[("/spec/template/metadata", json!({"labels": {"app": "b"}}))],
            "spec.template.metadata.labels: Invalid value: {\"app\":\"b\"}: `selector` does not match template `labels`",
        ),
        (
            &[("/spec/selector", json!({"matchLabels": {}}))],
            "spec.selector: Invalid value: {}: empty selector is invalid for deployment",
        ),
        (
            &[("/spec/selector", json!(null))],
            "spec.selector: Required value: it must select the labels of the template",
        ),
        (
            &[("/spec/strategy", json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}}))],
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0",
        ),
        (
            &[("/spec/strategy", json!({"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}))],
            "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
        ),
        (&[("/spec/strategy", json!({"type": "Recreate"}))], ""),
        (
            &[("/spec/template/spec/restartPolicy", json!("Never"))],
            "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
        ),
        (
            &[("/spec/minReadySeconds", json!(700))],
            "spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds",
        ),
    ];
    for (changes, expected) in cases {
        assert_eq!(errors("deployments", with(deployment("a"), changes)), *expected, "{changes:?}");
    }
}

fn stateful(changes: &[(&str, Value)]) -> Value {
    let mut set = deployment("a");
    set["kind"] = json!("StatefulSet");
    with(set, changes)
}

#[test]
fn stateful_sets() {
    let strategy = "/spec/updateStrategy";
    let rolling = |max: Value| json!({"rollingUpdate": {"maxUnavailable": max}});
    let field = "spec.updateStrategy.rollingUpdate.maxUnavailable";
    let cases = [
        (json!({}), String::new()),
        (rolling(json!(2)), String::new()),
        (rolling(json!("100%")), String::new()),
        (rolling(json!(0)), format!("{field}: Invalid value: 0: cannot be 0")),
        (rolling(json!("0%")), format!("{field}: Invalid value: \"0%\": cannot be 0")),
        (rolling(json!(-1)), format!("{field}: Invalid value: -1: must be greater than or equal to 0")),
        (rolling(json!("101%")), format!("{field}: Invalid value: \"101%\": must not be greater than 100%")),
        (json!({"type": "OnDelete"}), String::new()),
    ];
    for (value, expected) in cases {
        let said = errors("statefulsets", stateful(&[(strategy, value.clone())]));
        assert_eq!(said, expected, "{value}");
    }
}

#[test]
fn the_containers_of_a_stateful_set_may_mount_its_claims() {
    let claim = json!([{
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }]);
    let mount = |name: &str| json!([{"name": name, "mountPath": "/data"}]);
    let mounts = "/spec/template/spec/containers/0/volumeMounts";
    let of = |name: &str| stateful(&[("/spec/volumeClaimTemplates", claim.clone()), (mounts, mount(name))]);
    assert_eq!(errors("statefulsets", of("data")), "");
    let missing = "spec.template.spec.containers[0].volumeMounts[0].name: Not found: \"other\"";
    assert_eq!(errors("statefulsets", of("other")), missing);
}

#[test]
fn the_defaults_of_stateful_sets() {
    let defaults = |changes: &[(&str, Value)]| {
        let made = Fixture::new().create("statefulsets", stateful(changes)).unwrap();
        ["podManagementPolicy", "updateStrategy", "persistentVolumeClaimRetentionPolicy", "revisionHistoryLimit"]
            .map(|field| made["spec"][field].to_string())
            .join(" ")
            .replace('"', "")
    };
    let rest = "{whenDeleted:Retain,whenScaled:Retain} 10";
    let rolling = "{rollingUpdate:{partition:0},type:RollingUpdate}";
    assert_eq!(defaults(&[]), format!("OrderedReady {rolling} {rest}"));
    let typed = [("/spec/updateStrategy", json!({"type": "RollingUpdate"}))];
    assert_eq!(defaults(&typed), format!("OrderedReady {{type:RollingUpdate}} {rest}"));
}

#[test]
fn services() {
    let cases: &[(Value, &str)] = &[
        (json!({}), ""),
        (json!({"type": "ExternalName", "externalName": "a.b", "ports": []}), ""),
        (json!({"ports": []}), "spec.ports: Required value"),
        (
            json!({"type": "Odd"}),
            "spec.type: Unsupported value: \"Odd\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
        ),
        (json!({"ports": [{"port": 1}, {"port": 2, "name": "b"}]}), "spec.ports[0].name: Required value"),
        (
            json!({"ports": [{"port": 1, "nodePort": 30000}]}),
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
        ),
        (
            json!({"clusterIP": "10.1.1.1"}),
            "spec.clusterIPs[0]: Invalid value: \"10.1.1.1\": failed to allocate IP 10.1.1.1: the provided IP (10.1.1.1) is not in the valid range. The range of valid IPs is 10.96.0.0/16",
        ),
        (
            json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 80}]}),
            "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767",
        ),
    ];
    for (more, expected) in cases {
        assert_eq!(errors("services", service("a", more.clone())), *expected, "{more}");
    }
}

#[test]
fn others() {
    let named = |more: Value| {
        let mut object = json!({"metadata": {"name": "a"}});
        for (field, value) in more.as_object().unwrap() {
            object[field] = value.clone();
        }
        object
    };
    let cases: &[(&str, Value, &str)] = &[
        (
            "configmaps",
            json!({"data": {"a b": "x"}}),
            "data[a b]: Invalid value: \"a b\": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
        ),
        (
            "secrets",
            json!({"type": "kubernetes.io/tls", "stringData": {"tls.crt": "x"}}),
            "data[tls.key]: Required value",
        ),
        (
            "poddisruptionbudgets",
            json!({"spec": {"minAvailable": "150%"}}),
            "spec.minAvailable: Invalid value: \"150%\": must not be greater than 100%",
        ),
        (
            "nodes",
            json!({"spec": {"taints": [{"key": "k", "effect": "x"}]}}),
            "spec.taints[0].effect: Unsupported value: \"x\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
        ),
        (
            "leases",
            json!({"spec": {"leaseDurationSeconds": 0}}),
            "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
        ),
        (
            "endpointslices",
            json!({"addressType": "IPv4", "endpoints": [{"addresses": ["x"]}]}),
            "endpoints[0].addresses[0]: Invalid value: \"x\": must be a valid IPv4 address",
        ),
        (
            "configmaps",
            json!({"metadata": {"name": "a", "labels": {"a": "b c"}}}),
            "metadata.labels: Invalid value: \"b c\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
        ),
    ];
    for (plural, more, expected) in cases {
        assert_eq!(errors(plural, named(more.clone())), *expected, "{plural} {more}");
    }
    let secret = Fixture::new().create("secrets", named(json!({"stringData": {"a": "b"}}))).unwrap();
    assert_eq!((&secret["data"]["a"], secret.get("stringData")), (&json!("Yg=="), None));
}

#[test]
fn what_pods_ask_for_as_a_whole() {
    let said = |whole: Value, own: Value| {
        errors("pods", with(pod("p"), &[("/spec/resources", whole), ("/spec/containers/0/resources", own)]))
    };
    assert_eq!(said(json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}), json!({"requests": {"cpu": "1"}})), "");
    for (whole, own, expected) in [
        (
            json!({"requests": {"cpu": "1"}}),
            json!({"requests": {"cpu": "1500m"}}),
            "spec.resources.requests[cpu]: Invalid value: \"1\": must be greater than or equal to aggregate container \
             requests of 1500m",
        ),
        (
            json!({"limits": {"memory": "1Gi"}}),
            json!({"limits": {"memory": "2Gi"}}),
            "spec.resources.containers[0][memory].limits: Invalid value: \"2Gi\": must be less than or equal to pod \
             limits of 1Gi",
        ),
        (
            json!({"limits": {"example.com/gpu": "1"}}),
            json!({}),
            "spec.resources.limits[example.com/gpu]: Unsupported value: \"example.com/gpu\": supported values: \"cpu\", \
             \"hugepages-\", \"memory\"",
        ),
        (
            json!({"requests": {"cpu": "3"}, "limits": {"cpu": "2"}}),
            json!({}),
            "spec.resources.requests: Invalid value: \"3\": must be less than or equal to cpu limit of 2",
        ),
    ] {
        let told = said(whole, own);
        assert!(told.contains(expected), "{told}");
    }
}

#[test]
fn how_containers_take_a_change_of_their_resources() {
    let said = |restart: &str, list: &str, policy: Value| {
        let mut container = pod("p")["spec"]["containers"][0].clone();
        container["name"] = json!("resized");
        container["resizePolicy"] = policy;
        let mut object = with(pod("p"), &[("/spec/restartPolicy", json!(restart))]);
        match object["spec"][list].as_array_mut() {
            Some(containers) => containers.push(container),
            None => object["spec"][list] = json!([container]),
        }
        errors("pods", object)
    };
    let policy = |resource: &str, restart: &str| json!({"resourceName": resource, "restartPolicy": restart});
    let restarts = || json!([policy("cpu", "RestartContainer")]);
    assert_eq!(said("Always", "containers", restarts()), "");
    for (told, expected) in [
        (
            said("Never", "containers", restarts()),
            "spec.containers[1].resizePolicy: Invalid value: \"RestartContainer\": must be 'NotRequired' when pod \
             `restartPolicy` is 'Never'",
        ),
        (
            said("Always", "initContainers", restarts()),
            "spec.initContainers[0].resizePolicy[0].restartPolicy: Invalid value: \"RestartContainer\": must not be set \
             to 'RestartContainer' for non-sidecar initContainers",
        ),
        (
            said("Always", "containers", json!([policy("cpu", "NotRequired"), policy("cpu", "NotRequired")])),
            "spec.containers[1].resizePolicy[1]: Duplicate value: \"cpu\"",
        ),
        (
            said("Always", "containers", json!([policy("disk", "Sometimes")])),
            "spec.containers[1].resizePolicy: Unsupported value: \"disk\": supported values: \"cpu\", \"memory\"",
        ),
    ] {
        assert!(told.contains(expected), "{told}");
    }
}
