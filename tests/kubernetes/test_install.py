"""`pymesh install` into a real API server: taken as a whole, repeatable, no right too many, gone without a rest."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from click.testing import CliRunner, Result

from pymesh.cli.main import main
from pymesh.control.install.apply import path
from pymesh.control.install.objects import objects
from pymesh.control.install.values import Values
from tests.kubernetes.cluster import ApiRefused, Cluster

Json = dict[str, Any]
NAMESPACE = "istio-system"
ROOTS = "istio-ca-root-cert"
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:pymesh-control"


def command(cluster: Cluster, *words: str) -> Result:
    return CliRunner().invoke(main, [words[0], "--kubeconfig", str(cluster.kubeconfig), *words[1:]])


def roots(cluster: Cluster, namespace: str, manager: str) -> None:
    """The ConfigMap of the roots, as that control plane writes it."""
    where = {"name": ROOTS, "namespace": namespace}
    one = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": where, "data": {"root-cert.pem": "x"}}
    query = {"fieldManager": manager, "force": "true"}
    place = f"/api/v1/namespaces/{namespace}/configmaps/{ROOTS}"
    cluster.request("PATCH", place, one, query=query, content_type="application/apply-patch+yaml")


def there(cluster: Cluster) -> dict[str, Json]:
    """Of the objects of an installation those that the cluster has, without what is counted at each write."""
    found = {}
    for one in objects(Values()):
        try:
            made = cluster.request("GET", path(one))
        except ApiRefused as error:
            if error.code != 404:
                raise
        else:
            for name in ("managedFields", "resourceVersion"):
                made["metadata"].pop(name, None)
            found[path(one)] = made
    return found


@contextmanager
def installed(cluster: Cluster) -> Iterator[None]:
    done = command(cluster, "install")
    assert done.exit_code == 0, done.output
    try:
        yield
    finally:
        done = command(cluster, "uninstall")
        assert done.exit_code == 0, done.output
        # There is no controller that would see that no pod uses the volume.
        volume = f"/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims/pymesh-control-state"
        released = {"metadata": {"finalizers": None}}
        cluster.request("PATCH", volume, released, content_type="application/merge-patch+json")
        cluster.remove_namespace(NAMESPACE)


def test_the_api_server_takes_all_of_it_and_changes_nothing(mesh_apis: Cluster) -> None:
    before = there(mesh_apis)
    done = command(mesh_apis, "install", "--dry-run=server")
    assert done.exit_code == 0, done.output
    assert there(mesh_apis) == before
    assert len(done.stdout.splitlines()) == len(objects(Values()))
    assert "Deployment istio-system/pymesh-control would be applied" in done.stdout


def test_a_second_time_changes_nothing_and_uninstall_leaves_what_users_have_written(mesh_apis: Cluster) -> None:
    with installed(mesh_apis):
        first = there(mesh_apis)
        assert len(first) == len(objects(Values()))
        assert command(mesh_apis, "install").exit_code == 0
        assert there(mesh_apis) == first
        done = command(mesh_apis, "uninstall")
        assert "PersistentVolumeClaim istio-system/pymesh-control-state kept; --purge removes it" in done.stdout
        kept = {key.rsplit("/", 2)[-2] for key in there(mesh_apis)}
        assert kept == {"customresourcedefinitions", "namespaces", "persistentvolumeclaims"}


def test_what_somebody_else_has_set_besides_stays(mesh_apis: Cluster) -> None:
    with installed(mesh_apis):
        where = (
            f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/pymesh-sidecar-injector-{NAMESPACE}"
        )
        bundle = base64.b64encode(mesh_apis.ca.read_bytes()).decode()
        patch = [{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": bundle}]
        mesh_apis.request("PATCH", where, patch, content_type="application/json-patch+json")
        assert command(mesh_apis, "install").exit_code == 0
        assert mesh_apis.request("GET", where)["webhooks"][0]["clientConfig"]["caBundle"] == bundle


def may(cluster: Cluster, verb: str, resource: str, namespace: str = "", name: str = "") -> bool:
    """What the API server says of the control plane's rights."""
    plural, _, group = resource.partition(".")
    plural, _, part = plural.partition("/")
    asked = {
        "namespace": namespace, "verb": verb, "group": group, "version": "*", "resource": plural,
        "subresource": part, "name": name,
    }  # fmt: skip
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": ACCOUNT, "groups": ["system:serviceaccounts"], "resourceAttributes": asked},
    }
    answer = cluster.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    return bool(answer["status"].get("allowed"))


#: What the control plane does, and what it must not be able to do: verb, resource, namespace, name.
RIGHTS = [
    ("list", "services", "", ""), ("watch", "pods", "", ""), ("list", "nodes", "", ""), ("list", "secrets", "", ""),
    ("watch", "endpointslices.discovery.k8s.io", "", ""), ("list", "virtualservices.networking.istio.io", "", ""),
    ("list", "httproutes.gateway.networking.k8s.io", "", ""), ("list", "pythonfilters.extensions.pymesh.dev", "", ""),
    ("patch", "serviceentries/status.networking.istio.io", "shop", "a"),
    ("patch", "gateways/status.gateway.networking.k8s.io", "shop", "a"),
    ("patch", "pythonfilters/status.extensions.pymesh.dev", "shop", "a"),
    ("create", "tokenreviews.authentication.k8s.io", "", ""), ("create", "events.events.k8s.io", "shop", ""),
    ("create", "subjectaccessreviews.authorization.k8s.io", "", ""),
    ("create", "deployments.apps", "shop", ""), ("delete", "services", "shop", "edge-pymesh"),
    ("patch", "serviceaccounts", "shop", "edge-pymesh"),
    ("create", "configmaps", "shop", ""), ("patch", "configmaps", "shop", "istio-ca-root-cert"),
    ("list", "configmaps", "", "istio-ca-root-cert"), ("watch", "configmaps", NAMESPACE, "istio"),
    ("update", "leases.coordination.k8s.io", NAMESPACE, "pymesh-status"),
    ("patch", "mutatingwebhookconfigurations.admissionregistration.k8s.io", "", f"pymesh-sidecar-injector-{NAMESPACE}"),
]  # fmt: skip
NO_RIGHTS = [
    ("create", "pods", "shop", ""), ("delete", "pods", "shop", "a"), ("patch", "pods", "shop", "a"),
    ("update", "secrets", "shop", "a"), ("create", "secrets", NAMESPACE, ""), ("get", "secrets", "shop", "a"),
    ("update", "serviceentries/status.networking.istio.io", "shop", "a"), ("watch", "deployments.apps", "", ""),
    ("update", "leases.coordination.k8s.io", NAMESPACE, "x"),
    ("create", "rolebindings.rbac.authorization.k8s.io", "shop", ""),
    ("list", "configmaps", "", ""),
    ("get", "configmaps", "shop", "other"), ("patch", "configmaps", "shop", "other"),
    ("patch", "virtualservices.networking.istio.io", "shop", "a"), ("create", "serviceaccounts/token", "shop", "a"),
    ("delete", "configmaps", "shop", "istio-ca-root-cert"), ("impersonate", "users", "", "x"),
    ("patch", "mutatingwebhookconfigurations.admissionregistration.k8s.io", "", "somebody-elses"),
    ("create", "mutatingwebhookconfigurations.admissionregistration.k8s.io", "", ""),
    ("patch", "clusterroles.rbac.authorization.k8s.io", "", "pymesh-control-istio-system"),
    ("update", "leases.coordination.k8s.io", "shop", "x"), ("create", "pods/exec", "shop", "a"),
]  # fmt: skip


def test_it_may_do_what_it_does_and_no_more(mesh_apis: Cluster) -> None:
    with installed(mesh_apis):
        assert [one for one in RIGHTS if not may(mesh_apis, *one)] == []
        assert [one for one in NO_RIGHTS if may(mesh_apis, *one)] == []


def test_who_may_not_install_is_told_everything_at_once(mesh_apis: Cluster, namespace: str) -> None:
    token = mesh_apis.account_token(namespace, "default")
    nobody = mesh_apis.kubeconfig_of(token=token, name="nobody")
    done = CliRunner().invoke(main, ["install", "--kubeconfig", str(nobody)])
    assert done.exit_code == 1
    lines = done.stderr.splitlines()
    assert len(lines) == len(objects(Values()))
    assert all("forbidden" in line for line in lines)


def test_a_cluster_that_is_not_there(mesh_apis: Cluster) -> None:
    done = CliRunner().invoke(main, ["install", "--kubeconfig", "/nowhere"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "/nowhere" in done.stderr


def test_a_bare_cluster_is_told_what_it_lacks_and_is_bare_again_afterwards(tmp_path: Any) -> None:
    with Cluster.running(tmp_path) as bare:
        done = command(bare, "install", "--dry-run=server")
        assert done.exit_code == 0, done.output
        assert "note: the cluster has no networking.istio.io (VirtualService, " in done.stderr
        assert "note: the cluster has no gateway.networking.k8s.io (the Gateway API)" in done.stderr
        # Alone in a cluster it can be removed to the last object.
        assert command(bare, "install", "--no-gateway").exit_code == 0
        roots(bare, "kube-public", "pymesh-control")
        roots(bare, "default", "istiod")
        managed = {"gateway.istio.io/managed": "pymesh.dev-gateway-controller"}
        for name, labels in (("edge-pymesh", managed), ("web", {})):
            where = {"name": name, "namespace": "default", "labels": labels}
            bare.apply([{"apiVersion": "v1", "kind": "Service", "metadata": where, "spec": {"ports": [{"port": 80}]}}])
        assert command(bare, "uninstall", "--purge").exit_code == 0
        # What the control plane has made elsewhere is gone as well, and nobody else's.
        assert bare.get("v1", "ConfigMap", ROOTS, "kube-public") is None
        assert bare.get("v1", "ConfigMap", ROOTS, "default") is not None
        assert bare.get("v1", "Service", "edge-pymesh") is None
        assert bare.get("v1", "Service", "web") is not None
        # What waits for controllers that this cluster lacks is marked for its end.
        left = {where for where, one in there(bare).items() if "deletionTimestamp" not in one["metadata"]}
        assert left == set()
