"""Helm's own library installs, upgrades, rolls back and uninstalls a chart. Exits with a traceback at the first fault."""

import base64
import os
import sys
import time

import helm_python as helm
from kubernetes import client, config

CHART = os.path.join(os.path.dirname(os.path.abspath(__file__)), "chart")
NAMESPACE, NAME = "charts", "greeter"

config.load_kube_config()
core, apps, batch = client.CoreV1Api(), client.AppsV1Api(), client.BatchV1Api()
custom, rbac = client.CustomObjectsApi(), client.RbacAuthorizationV1Api()
core.create_namespace({"metadata": {"name": NAMESPACE}})


def deployment():
    return apps.read_namespaced_deployment(NAME, NAMESPACE)


def greeting():
    return core.read_namespaced_config_map(NAME, NAMESPACE).data["greeting"]


def own():
    """The object of the chart's own kind."""
    return custom.get_namespaced_custom_object("example.org", "v1", NAMESPACE, "greetings", NAME)["spec"]


def password():
    return base64.b64decode(core.read_namespaced_secret(NAME, NAMESPACE).data["password"])


findings = helm.lint(CHART)
assert not [finding for finding in findings.get("messages", []) if finding.get("severity", 0) > 2], findings

with helm.Config(kubeconfig_path=os.environ["KUBECONFIG"], namespace=NAMESPACE) as cluster:
    release = cluster.install(CHART, NAME, {"greeting": "one"}, wait="watcher", timeout=120)
    assert (release["revision"], release["status"]) == (1, "deployed"), release
    assert deployment().status.ready_replicas == 2 and greeting() == "one"
    assert own() == {"text": "one", "times": 1}, "defaults of the chart's own kind are filled in"
    assert rbac.read_namespaced_role_binding(NAME, NAMESPACE).subjects[0].name == NAME
    jobs = {job.metadata.name: job.status.succeeded for job in batch.list_namespaced_job(NAMESPACE).items}
    assert jobs == {f"{NAME}-told": 1}, "one hook goes when it has succeeded, the other stays"
    first = password()

    release = cluster.upgrade(CHART, NAME, {"greeting": "two", "replicas": 3}, wait="watcher", timeout=120)
    assert (release["revision"], release["status"]) == (2, "deployed"), release
    assert deployment().status.updated_replicas == 3 and greeting() == "two" and own()["text"] == "two"
    assert password() == first, "what is there can be looked up by a template"

    cluster.rollback(NAME, version=1, wait="watcher", timeout=120)
    assert deployment().spec.replicas == 2 and greeting() == "one"
    states = [(entry["revision"], entry["status"]) for entry in cluster.history(NAME)]
    assert states == [(1, "superseded"), (2, "superseded"), (3, "deployed")], states
    assert [release["name"] for release in cluster.list()] == [NAME]

    # What the chart's own kind forbids stops an upgrade with the reason that its definition gives.
    try:
        cluster.upgrade(CHART, NAME, {"greeting": "nothing"}, wait="watcher", timeout=30)
        raise AssertionError("an upgrade against a rule of the chart's own kind succeeded")
    except helm.HelmError as failure:
        assert "say something" in str(failure), failure
    cluster.rollback(NAME, version=3, wait="watcher", timeout=120)

    # A release that cannot become ready says so, and leaves the one before in place.
    try:
        cluster.upgrade(CHART, NAME, {"image": "copepod.local/absent:1"}, wait="watcher", timeout=5)
        raise AssertionError("an upgrade to an image that is nowhere succeeded")
    except helm.HelmError as failure:
        assert "context deadline exceeded" in str(failure) or "timed out" in str(failure) or "timeout" in str(
            failure
        ), failure
    assert deployment().status.ready_replicas >= 1
    cluster.rollback(NAME, version=3, wait="watcher", timeout=120)

    cluster.uninstall(NAME)
    assert not cluster.list()

# A hook that stays is nobody's: Helm leaves it, and its pods go with it.
batch.delete_namespaced_job(f"{NAME}-told", NAMESPACE, propagation_policy="Background")
deadline = time.monotonic() + 60
while apps.list_namespaced_deployment(NAMESPACE).items or core.list_namespaced_pod(NAMESPACE).items:
    assert time.monotonic() < deadline, "what a release made goes with it"
    time.sleep(0.2)
left = [item.metadata.name for item in core.list_namespaced_secret(NAMESPACE).items]
assert not [name for name in left if NAME in name], left
print("all as expected")
