"""The same resources mean the same, byte by byte, whether a folder or an API server tells of them.

The cases are those of tests/golden: everything that the control plane can say. What an API server decides by itself
(virtual addresses, and when something was made) is written into the folder.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from pymesh.control.sources.mesh import FileMesh
from pymesh.control.store.store import MeshOptions
from pymesh.control.store.workloads import Locality
from tests.kubernetes.cluster import ApiRefused, Cluster, Object
from tests.kubernetes.meshes import Described, configuration, following
from tests.proxy.running import eventually

GOLDEN = Path(__file__).parents[1] / "golden"
WHOLE = "PYMESH_KUBERNETES_WHOLE" in os.environ
#: One for each kind of resource; the long form has all of them.
FEW = (
    "captured-sidecar", "gateway-api", "gateway-tls", "namespace-labels", "python-filter", "selected-pods",
    "slices-and-localities", "weights-and-subsets",
)  # fmt: skip
#: What an API server refuses by the schemas of its kinds, so that it can be in a folder only; and its words. Some of
#: them the experimental channel of the Gateway API has (test_channels.py).
OF_FOLDERS = {
    "authorization": "Cannot set serviceAccounts with namespaces or principals",
    "gateway-api-mesh": "spec.hostnames: Required value",
    "fault-and-cors": "AllowOrigins cannot contain '*' alongside other origins",
    "gateway-api-routes": "duplicate entries for key",
    "limits-and-retries": "retry: field not declared in schema",
    "session-persistence": "sessionPersistence: field not declared in schema",
}
CASES = sorted({path.parent.name for path in GOLDEN.glob("*/in.yaml")} - OF_FOLDERS.keys()) if WHOLE else FEW


@pytest.mark.parametrize("case", CASES)
def test_a_folder_and_a_cluster_mean_the_same(case: str, mesh_apis: Cluster, tmp_path: Path) -> None:
    assert_same(case, mesh_apis, tmp_path)


def assert_same(case: str, cluster: Cluster, folder: Path) -> None:
    """Of a golden case."""
    head, documents, options = read(case)
    namespaces = sorted({one["metadata"].get("namespace", "default") for one in documents})
    try:
        with following(cluster.kubeconfig, mesh_options=options) as followed:
            for name in namespaces:
                cluster.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}])
            cluster.apply(accounts(documents))
            made = cluster.apply(documents)
            for one in documents:
                if one["kind"] == "Pod":
                    run(cluster, one)
            of_folder = [*map(decided, documents, made), own_service(cluster)]
            (folder / "all.yaml").write_text(yaml.safe_dump_all(of_folder))
            of_files = FileMesh([folder], options)
            assert of_files.load() == []
            proxies = [described(one) for one in head["proxies"]]
            expected = configuration(of_files, proxies)
            followed.until(lambda mesh: configuration(mesh, proxies) == expected, timeout=20)
            assert sum(map(len, expected.values())) > len(proxies)
    finally:
        for name in namespaces:
            cluster.remove_namespace(name)
        for one in documents:
            if one["kind"] == "Node":
                cluster.delete("v1", "Node", one["metadata"]["name"], "")


def accounts(documents: list[Object]) -> list[Object]:
    """The service accounts that pods name, without which an API server takes none."""
    named = {
        (one["metadata"]["namespace"], one["spec"].get("serviceAccountName", "default"))
        for one in documents
        if one["kind"] == "Pod"
    }
    metadata = [{"name": name, "namespace": namespace} for namespace, name in sorted(named)]
    return [{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": one} for one in metadata]


def run(cluster: Cluster, pod: Object) -> None:
    """Say of a pod what a kubelet would say."""
    meta = pod["metadata"]
    path = f"{cluster.path('v1', 'Pod', meta['name'], meta['namespace'])}/status"
    cluster.request("PATCH", path, {"status": pod["status"]}, content_type="application/merge-patch+json")


@pytest.mark.parametrize("case", OF_FOLDERS)
def test_what_is_left_out_above_can_be_in_no_cluster(case: str, mesh_apis: Cluster) -> None:
    refused = refusals(case, mesh_apis)
    assert any(OF_FOLDERS[case] in one for one in refused), refused


def refusals(case: str, cluster: Cluster) -> list[str]:
    """What the API server does not take of a golden case."""
    refused = []
    _, documents, _ = read(case)
    with ExitStack() as stack:
        for name in sorted({one["metadata"].get("namespace", "default") for one in documents}):
            stack.enter_context(cluster.namespace(name))
        for one in documents:
            try:
                cluster.apply([one], dry_run=True)
            except ApiRefused as error:
                refused.append(str(error))
    return refused


def read(case: str) -> tuple[Any, list[Object], MeshOptions]:
    head, _, rest = (
        (GOLDEN / case / "in.yaml")
        .read_text()
        .replace("10.96.0.", "10.96.2.")
        .replace("10.1.0.", "10.96.1.")
        # A folder may have the older versions too, which no API server serves any more.
        .replace("gateway.networking.k8s.io/v1alpha2", "gateway.networking.k8s.io/v1")
        .replace("gateway.networking.k8s.io/v1alpha3", "gateway.networking.k8s.io/v1")
        .partition("\n---\n")
    )
    asked = yaml.safe_load(head)
    return asked, [one for one in yaml.safe_load_all(rest) if one], MeshOptions(**asked.get("options", {}))


def decided(written: Object, made: Object) -> Object:
    """What was written, with what the API server has decided."""
    meta = {**written["metadata"], "creationTimestamp": made["metadata"]["creationTimestamp"]}
    found = {**written, "metadata": meta}
    if written["kind"] == "Service" and written["spec"].get("type") != "ExternalName":
        given = {name: made["spec"][name] for name in ("clusterIP", "clusterIPs")}
        found["spec"] = {**written["spec"], **given}
    return found


def own_service(cluster: Cluster) -> Object:
    """The Service that every API server makes for itself; again within ten seconds, if its namespace was cleared."""
    assert eventually(lambda: cluster.get("v1", "Service", "kubernetes") is not None, 60)
    made = cluster.get("v1", "Service", "kubernetes")
    assert made is not None
    ports = [{name: one[name] for name in ("name", "port", "targetPort")} for one in made["spec"]["ports"]]
    written = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "kubernetes"}, "spec": {"ports": ports}}
    return decided(written, made)


def described(one: Any) -> Described:
    place = Locality.parse(one.get("locality", ""))
    where = (place.region, place.zone, place.sub_zone)
    return Described(one["id"], one.get("metadata", {}), one.get("userAgent", ""), where)
