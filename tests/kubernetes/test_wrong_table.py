"""The table of wrong resources (tests/wrong/table.yaml) in a real cluster: what the API server refuses by itself, and
for what it takes the conditions and the Event that the control plane writes, while the rest of the mesh is as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from pymesh.control.install.values import NAMESPACE as ROOT
from pymesh.control.sources.kubernetes.mesh import KubernetesMesh
from tests.kubernetes.api import Object
from tests.kubernetes.cluster import ApiRefused, Cluster
from tests.kubernetes.meshes import configuration, following
from tests.kubernetes.planes import Planes
from tests.proxy.running import eventually
from tests.wrong.rows import MESH, NAMESPACE, Row, rows
from tests.wrong.test_table import CART, EDGE

ROWS = rows()
TAKEN = [row for row in ROWS if not row.server]


def _rounds(severity: str, partial: bool) -> list[list[Row]]:
    """Of each kind one at a time, so that no two of a kind are in each other's way."""
    left = [row for row in TAKEN if (row.severity, row.partial) == (severity, partial)]
    found = []
    while left:
        firsts = {row.kind: row for row in reversed(left)}
        found.append(list(firsts.values()))
        left = [row for row in left if row not in firsts.values()]
    return found


ROUNDS = [
    (severity, here)
    for severity, partial in (("error", False), ("error", True), ("warning", False))
    for here in _rounds(severity, partial)
]


@pytest.fixture(scope="module", name="filled")
def _filled(mesh_apis: Cluster) -> Iterator[Cluster]:
    with mesh_apis.namespace(NAMESPACE), mesh_apis.namespace(ROOT):
        mesh_apis.apply(MESH)
        yield mesh_apis


@pytest.fixture(scope="module", name="planes")
def _planes(filled: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planes]:
    made = Planes(filled, tmp_path_factory.mktemp("planes"))
    try:
        made.start("first")
        yield made
    finally:
        made.close()
        filled.delete("coordination.k8s.io/v1", "Lease", "pymesh-status", "default")
        filled.delete("gateway.networking.k8s.io/v1", "GatewayClass", "pymesh", "")


@pytest.mark.parametrize("row", [row for row in ROWS if row.server], ids=lambda row: f"{row.kind}-{row.at}")
def test_the_api_server_refuses_it_by_itself(filled: Cluster, row: Row) -> None:
    with pytest.raises(ApiRefused) as caught:
        filled.apply([row.document()], dry_run=True)
    assert row.server in caught.value.message


@pytest.mark.parametrize(("severity", "here"), ROUNDS, ids=lambda one: one if isinstance(one, str) else "")
def test_what_it_takes_is_told_of_and_the_rest_goes_on(
    filled: Cluster, planes: Planes, severity: str, here: list[Row]
) -> None:
    def wrong(mesh: KubernetesMesh) -> set[str]:
        return {one["at"] for one in mesh.diagnostics() if one["severity"] == "error"}

    with following(filled.kubeconfig, grace_seconds=0) as followed:
        followed.until(lambda mesh: wrong(mesh) == set())
        alone = configuration(followed.mesh, [CART, EDGE])
        filled.apply([row.document() for row in here])
        try:
            assert eventually(lambda: not _untold(filled, here), 60), f"{_untold(filled, here)}\n{planes.logs()}"
            assert _good(filled) == {"True"}
            if severity == "error":
                expected = {row.place for row in here if row.is_found_in_a_cluster}
                followed.until(lambda mesh: wrong(mesh) == expected)
                assert (configuration(followed.mesh, [CART, EDGE]) == alone) is not any(row.partial for row in here)
        finally:
            for row in here:
                one = row.document()
                filled.delete(one["apiVersion"], one["kind"], one["metadata"]["name"], one["metadata"]["namespace"])
        followed.until(lambda mesh: configuration(mesh, [CART, EDGE]) == alone)


def _untold(cluster: Cluster, here: list[Row]) -> list[str]:
    """Each row of which the cluster does not say all that it should, with what it says."""
    found = []
    for row in here:
        one = row.document()
        name, namespace = one["metadata"]["name"], one["metadata"]["namespace"]
        object_ = cluster.get(one["apiVersion"], one["kind"], name, namespace) or {}
        said = _conditions(object_)
        if row.is_found_in_a_cluster and said != row.expected_conditions():
            found.append(f"{row.kind} {row.at}: {said} is not {row.expected_conditions()}")
        notes = _notes(cluster, one, object_, row.event)
        if notes != ([row.line] if row.severity == "error" and row.is_found_in_a_cluster else []):
            found.append(f"{row.kind} {row.at}: Events {notes}")
    return found


def _conditions(object_: Object) -> list[tuple[str, str]]:
    status: dict[str, Any] = object_.get("status", {})
    parents = [one for parent in status.get("parents", ()) for one in parent["conditions"]]
    generation = object_.get("metadata", {}).get("generation")
    return [
        (f"{one['type']}={one['status']} {one['reason']}", one["message"])
        for one in status.get("conditions") or parents
        if one.get("observedGeneration") == generation and _is_ours(one)
    ]


def _is_ours(condition: Object) -> bool:
    """Whether it is not what the definition of a kind has by default, before any controller."""
    return bool(condition["reason"] != "Pending" or "Waiting for controller" not in condition["message"])


def _notes(cluster: Cluster, one: Object, object_: Object, reason: str) -> list[str]:
    events = cluster.list("events.k8s.io/v1", "Event", one["metadata"]["namespace"])
    uid = object_.get("metadata", {}).get("uid")
    return [o["note"] for o in events if o["reason"] == reason and o["regarding"].get("uid") == uid]


def _good(cluster: Cluster) -> set[str]:
    """Status of all conditions of what is right."""
    routes = [one for one in yaml.safe_load_all(MESH) if one["kind"] == "HTTPRoute"]
    found = [cluster.get(o["apiVersion"], o["kind"], o["metadata"]["name"], NAMESPACE) or {} for o in routes]
    assert found
    return {c["status"] for o in found for parent in o["status"]["parents"] for c in parent["conditions"]}
