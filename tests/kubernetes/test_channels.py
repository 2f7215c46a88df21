"""The Gateway API's definitions come in two channels. All tests have the standard one, which is what users have; here
is what only the experimental one has.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pymesh.control.resources.load import KINDS
from tests.kubernetes import crds
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.meshes import following
from tests.kubernetes.test_same_as_files import assert_same, refusals

GROUP = "gateway.networking.k8s.io"
#: As users of the standard channel write them.
OBJECTS = """
apiVersion: v1
kind: Service
metadata: {name: db, namespace: %(namespace)s}
spec: {selector: {app: db}, ports: [{name: tcp-db, port: 5432}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: db, namespace: %(namespace)s}
spec:
  parentRefs: [{group: "", kind: Service, name: db}]
  rules: [{backendRefs: [{name: db, port: 5432}]}]
"""


@pytest.mark.parametrize("channel", crds.CHANNELS)
def test_every_kind_is_asked_for_in_a_version_that_is_served(channel: str) -> None:
    served = {
        (one["spec"]["group"], one["spec"]["names"]["kind"]): {
            each["name"] for each in one["spec"]["versions"] if each["served"]
        }
        for one in crds.definitions(channel)
    }
    ours = {kind: set(versions) for kind, (versions, _) in KINDS.items() if kind in served}
    assert {name for group, name in ours if group == GROUP} >= {"Gateway", "HTTPRoute", "GRPCRoute", "TCPRoute"}
    assert [kind for kind, versions in ours.items() if not versions & served[kind]] == []


def test_a_route_of_the_standard_channel_is_in_force(mesh_apis: Cluster, namespace: str) -> None:
    with following(mesh_apis.kubeconfig) as followed:
        mesh_apis.apply(OBJECTS % {"namespace": namespace})
        followed.until(lambda mesh: mesh.store.tcp_routes and mesh.diagnostics() == [])


def test_what_only_the_experimental_channel_has(tmp_path: Path) -> None:
    for name in ("cluster", "mesh"):
        (tmp_path / name).mkdir()
    with Cluster.running(tmp_path / "cluster") as cluster:
        crds.install(cluster, "experimental")
        assert_same("session-persistence", cluster, tmp_path / "mesh")
        # It has `retry`, too, but not all that a folder may say of it.
        refused = refusals("limits-and-retries", cluster)
        assert any("retry.attempts in body should be greater than or equal to 1" in one for one in refused), refused
