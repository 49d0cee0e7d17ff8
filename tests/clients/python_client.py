"""The Python client, used as its users use it. Exits with a traceback at the first thing that is not as it should be."""

import json
import sys
import threading
import time

from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException

IMAGE = sys.argv[1]
NAMESPACE = "python"


def refused(code, reason, call, *arguments, **named):
    """The call is refused with this code and reason; gives the message."""
    try:
        call(*arguments, **named)
    except ApiException as refusal:
        status = json.loads(refusal.body)
        assert (refusal.status, status["reason"]) == (code, reason), refusal
        return status["message"]
    raise AssertionError(f"{call.__name__} was not refused")


def until(what, condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"gave up waiting until {what}"
        time.sleep(0.1)


def deployment(name, replicas):
    labels = {"app": name}
    container = client.V1Container(
        name="hello",
        image=IMAGE,
        ports=[client.V1ContainerPort(container_port=8080, name="http")],
        readiness_probe=client.V1Probe(
            http_get=client.V1HTTPGetAction(path="/healthz", port="http"), period_seconds=1
        ),
    )
    template = client.V1PodTemplateSpec(
        metadata=client.V1ObjectMeta(labels=labels), spec=client.V1PodSpec(containers=[container])
    )
    return client.V1Deployment(
        metadata=client.V1ObjectMeta(name=name, labels=labels),
        spec=client.V1DeploymentSpec(
            replicas=replicas, selector=client.V1LabelSelector(match_labels=labels), template=template
        ),
    )


config.load_kube_config()
core, apps = client.CoreV1Api(), client.AppsV1Api()
assert client.VersionApi().get_code().git_version.startswith("v1.36")

core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE)))
message = refused(409, "AlreadyExists", core.create_namespace, {"metadata": {"name": NAMESPACE}})
assert message == f'namespaces "{NAMESPACE}" already exists', message

# A workload, watched from its creation to its last pod.
seen = []
started = core.list_namespaced_pod(NAMESPACE).metadata.resource_version


def follow():
    for event in watch.Watch().stream(
        core.list_namespaced_pod, NAMESPACE, resource_version=started, timeout_seconds=120
    ):
        seen.append((event["type"], event["object"].metadata.name))
        if len({name for kind, name in seen if kind == "DELETED"}) == 3:
            return


follower = threading.Thread(target=follow, daemon=True)
follower.start()
made = apps.create_namespaced_deployment(NAMESPACE, deployment("web", 2))
assert made.spec.strategy.rolling_update.max_surge == "25%" and made.spec.revision_history_limit == 10
ready = lambda: apps.read_namespaced_deployment_status("web", NAMESPACE).status.ready_replicas
until("two are ready", lambda: ready() == 2)
apps.patch_namespaced_deployment_scale("web", NAMESPACE, {"spec": {"replicas": 3}})
until("three are ready", lambda: ready() == 3)
pods = core.list_namespaced_pod(NAMESPACE, label_selector="app=web").items
assert all(pod.status.pod_ip and pod.spec.node_name for pod in pods)
assert "listening" in core.read_namespaced_pod_log(pods[0].metadata.name, NAMESPACE)

# An object changed by two.
core.create_namespaced_config_map(NAMESPACE, {"metadata": {"name": "shared"}, "data": {"a": "1"}})
mine = core.read_namespaced_config_map("shared", NAMESPACE)
yours = core.read_namespaced_config_map("shared", NAMESPACE)
mine.data["a"] = "2"
core.replace_namespaced_config_map("shared", NAMESPACE, mine)
yours.data["a"] = "3"
message = refused(409, "Conflict", core.replace_namespaced_config_map, "shared", NAMESPACE, yours)
assert "the object has been modified; please apply your changes to the latest version and try again" in message

# What is wrong is refused, and nothing is left of it.
message = refused(422, "Invalid", apps.create_namespaced_deployment, NAMESPACE, {
    "metadata": {"name": "wrong"},
    "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "c"}}}},
})
assert "selector" in message and "spec.template.spec.containers: Required value" in message, message
refused(404, "NotFound", apps.read_namespaced_deployment, "wrong", NAMESPACE)
core.create_namespaced_config_map(NAMESPACE, {"metadata": {"name": "dry"}}, dry_run="All")
refused(404, "NotFound", core.read_namespaced_config_map, "dry", NAMESPACE)

# Many objects, page by page.
for number in range(25):
    core.create_namespaced_config_map(NAMESPACE, {"metadata": {"generateName": "many-", "labels": {"many": "yes"}}})
names, token = [], None
while token != "":
    page = core.list_namespaced_config_map(NAMESPACE, label_selector="many=yes", limit=10, _continue=token)
    names += [item.metadata.name for item in page.items]
    token = page.metadata._continue or ""
assert len(names) == len(set(names)) == 25
core.delete_collection_namespaced_config_map(NAMESPACE, label_selector="many=yes")
assert not core.list_namespaced_config_map(NAMESPACE, label_selector="many=yes").items

# The dynamic client discovers what there is, and applies.
fluid = dynamic.DynamicClient(client.ApiClient())
maps = fluid.resources.get(api_version="v1", kind="ConfigMap")
body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": {"x": "1", "y": "1"}}
maps.server_side_apply(body=body, name="applied", namespace=NAMESPACE, field_manager="one")
refused_by = None
try:
    body["data"]["x"] = "2"
    maps.server_side_apply(body=body, name="applied", namespace=NAMESPACE, field_manager="two")
except dynamic.exceptions.ConflictError as conflict:
    refused_by = conflict.summary()
assert refused_by and 'conflict with "one"' in refused_by and ".data.x" in refused_by, refused_by
forced = maps.server_side_apply(
    body=body, name="applied", namespace=NAMESPACE, field_manager="two", force_conflicts=True
)
owners = {entry["manager"]: entry["fieldsV1"]["f:data"] for entry in forced.to_dict()["metadata"]["managedFields"]}
assert "f:x" not in owners["one"] and "f:x" in owners["two"], owners

# All of it goes with its namespace.
apps.delete_namespaced_deployment("web", NAMESPACE, propagation_policy="Foreground")
follower.join(60)
kinds = [kind for kind, _ in seen]
assert kinds.count("ADDED") == 3 and len({name for kind, name in seen if kind == "DELETED"}) == 3, seen
core.delete_namespace(NAMESPACE)
until("the namespace is gone", lambda: NAMESPACE not in [n.metadata.name for n in core.list_namespace().items])
print("all as expected")
