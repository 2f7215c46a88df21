"""What is made for a proxy goes with it: with claims that nobody can check, one token could fill the memory else."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.load import load_text
from pymesh.control.resources.metadata import Resource
from pymesh.control.sources.stored import StoredMesh
from pymesh.control.store.store import MeshOptions, build
from pymesh.control.translate.asked import Alike
from pymesh.control.xds.cache import ResourceCache
from pymesh.control.xds.node import Node

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: s%d, namespace: shop}
spec: {clusterIP: 10.96.0.%d, ports: [{name: http, port: 80}]}
---
"""
SIDECAR = """
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: some, namespace: shop}
spec: {workloadSelector: {labels: {app: web}}, egress: [{hosts: ["./*"]}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: near, namespace: shop}
spec: {host: s1, trafficPolicy: {outlierDetection: {consecutive5xxErrors: 3}}}
"""
RECONNECTS = 1000


def resources() -> list[Resource]:
    report = Report()
    found = load_text("mesh.yaml", "".join(SERVICE % (n, n) for n in range(1, 4)) + SIDECAR, report)
    assert not report.failed, report.diagnostics
    return found


def mesh() -> StoredMesh:
    made = StoredMesh()
    store, _ = build(resources(), MeshOptions())
    made._use(store, resources())
    return made


def claims() -> Iterator[Node]:
    """One token, and always somebody else."""
    for number in range(RECONNECTS):
        metadata: dict[str, Any] = {
            "NAMESPACE": "shop",
            "SERVICE_ACCOUNT": "a",
            "INTERCEPTION_MODE": "REDIRECT",
            "LABELS": {"app": f"app-{number}"},
            "CLUSTER_ID": f"cluster-{number}",
            "UPSTREAM_MARK": str(number + 1),
        }
        place = ("eu", f"zone-{number}", "")
        yield Node(f"sidecar~10.0.{number >> 8}.{number & 255}~a-{number}.shop~x", "", metadata, place, "pymesh", None)


def kept(made: StoredMesh) -> int:
    """How much was made for somebody and is still there."""
    store = made.store
    parts = [*store.memo.values(), *(one for of_host in store.made_of.values() for one in of_host.values())]
    alike = [one for one in parts if isinstance(one, Alike)]
    assert alike, "nothing was made for many, so that nothing is measured"
    return sum(map(len, parts)) + len(made._served) + len(made._warned)


def test_what_was_made_for_proxies_that_have_gone_is_gone() -> None:
    made, cache = mesh(), ResourceCache()
    stays = next(claims())
    snapshot = cache.snapshot(made.messages(stays))
    before, resources_before = kept(made), len(cache)
    sizes = []
    for number, node in enumerate(claims()):
        cache.snapshot(made.messages(node))
        del node
        if number % 500 == 499:
            gc.collect()
            sizes.append(len(gc.get_objects()))
    gc.collect()
    assert kept(made) == before
    assert len(cache) == resources_before
    assert abs(sizes[1] - sizes[0]) < 500, "objects, of which 500 proxies leave none"
    again = cache.snapshot(made.messages(stays), snapshot)
    assert again == snapshot, "and who has stayed has what it had"


def test_those_that_are_alike_have_it_in_common_while_they_are_connected() -> None:
    made = mesh()
    metadata = {"INTERCEPTION_MODE": "REDIRECT", "LABELS": {"app": "web"}}
    nodes = [Node(f"sidecar~10.0.0.{n}~web-{n}.shop~x", "", metadata, ("", "", ""), "pymesh", None) for n in range(3)]
    first, second = (made.messages(node) for node in nodes[:2])
    alike = next(one for one in made.store.memo.values() if isinstance(one, Alike))
    assert len(alike) == 1
    assert {url: id(one.common) for url, one in first.items()} == {  # type: ignore[attr-defined]
        url: id(one.common)  # type: ignore[attr-defined]
        for url, one in second.items()
    }
    del first, second
    nodes.clear()
    gc.collect()
    assert len(alike) == 0
