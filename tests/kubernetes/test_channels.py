"""The Gateway API's definitions come in two channels: each kind of ours that one of them has is found there."""

from __future__ import annotations

from pathlib import Path

import pytest

from pymesh.control.resources.load import KINDS
from tests.kubernetes import crds
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.meshes import following

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


def test_a_route_of_the_standard_channel_is_in_force(tmp_path: Path) -> None:
    with Cluster.running(tmp_path) as cluster:
        crds.install(cluster, "standard")
        with cluster.namespace() as namespace, following(cluster.kubeconfig) as followed:
            cluster.apply(OBJECTS % {"namespace": namespace})
            # A server whose definitions are new is out of touch for a moment.
            followed.until(lambda mesh: mesh.store.tcp_routes and mesh.diagnostics() == [])
