"""A control plane without a mesh: its proxies are connections in name only, and their metrics are made here.

What the browser sees has come the whole way: pages of text, read by the collector, pictured, and sent by the API.
"""

from __future__ import annotations

import asyncio
import random
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry

from pymesh.control.admin.pages import application
from pymesh.control.admin.serving import AdminServer
from pymesh.control.live import scrape
from pymesh.control.live.collector import Collector
from pymesh.control.live.inventory import Known, KnownService
from pymesh.control.live.scrape import ScrapeError, Target
from pymesh.control.xds import pb
from pymesh.control.xds.delta import DeltaSession
from pymesh.control.xds.fleet import Fleet
from pymesh.control.xds.metrics import XdsMetrics
from pymesh.control.xds.node import Node
from pymesh.control.xds.session import TypeStatus

BUCKETS = (1, 5, 10, 25, 50, 100, 250, "+Inf")


@dataclass(frozen=True)
class Call:
    """One service calls another, so often a second, and so many of its requests fail."""

    source: str
    target: str
    rate: float
    failing: float = 0.0


@dataclass
class SyntheticMesh:
    """Services are `NAMESPACE/NAME`, each one workload of version v1."""

    services: Sequence[str]
    calls: Sequence[Call]
    #: Service -> why its proxy refuses its listeners.
    refusals: Mapping[str, str] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def known(self) -> tuple[Sequence[Known], Sequence[KnownService]]:
        return (), ()

    def resources(self) -> Sequence[dict[str, Any]]:
        return []

    def diagnostics(self) -> Sequence[dict[str, Any]]:
        return []

    def standing(self) -> dict[str, Any]:
        return {"inForceSince": None, "refusedSince": None}

    async def page(self, where: Target, path: str) -> str:
        """The metrics of the proxy with this port; it has no other page."""
        if path != scrape.PATH:
            raise ScrapeError("no such page")
        service, passed = self.services[where.port - 1], time.monotonic() - self.started
        lines = []
        for call in self.calls:
            if service not in (call.source, call.target):
                continue
            is_source = service == call.source
            lines += _lines(call, "source" if is_source else "destination", call.rate * passed)
        return "\n".join(lines)


def large(services: int = 300, namespaces: int = 10, seed: int = 1) -> SyntheticMesh:
    """Teams whose services call each other from a front to what is behind it, and sometimes the next teams' fronts."""
    rng = random.Random(seed)
    names = [
        [f"team-{team}/service-{team}{number:02}" for number in range(services // namespaces)]
        for team in range(namespaces)
    ]
    calls = []
    for team, own in enumerate(names):
        for number, target in enumerate(own[1:], 1):
            calls.append(Call(own[(number - 1) // 3], target, rng.uniform(1, 90), 0.3 if rng.random() < 0.04 else 0.0))
            if rng.random() < 0.3:
                calls.append(Call(own[rng.randrange(number)], target, rng.uniform(1, 30)))
        for other in names[team + 1 : team + 3]:
            calls += [Call(caller, other[0], rng.uniform(1, 30)) for caller in rng.sample(own, 3)]
    unique = {(call.source, call.target): call for call in calls}
    return SyntheticMesh([name for own in names for name in own], list(unique.values()))


@contextmanager
def serving(mesh: SyntheticMesh, port: int = 0) -> Iterator[str]:
    """The address of the pages of its control plane; on a free port unless one is given."""
    ready, stop = threading.Event(), threading.Event()
    sock = socket.create_server(("127.0.0.1", port))

    async def main() -> None:
        fleet = Fleet(lambda *_: {}, XdsMetrics(CollectorRegistry()))
        for port, service in enumerate(mesh.services, 1):
            namespace, name = service.split("/")
            metadata = {"NAMESPACE": namespace, "SERVICE_ACCOUNT": name, "ENVOY_PROMETHEUS_PORT": port}
            metadata["LABELS"] = {"app": name, "version": "v1"}
            node = Node(f"sidecar~127.0.0.1~{name}.{namespace}~x", name, metadata, ("", "", ""), "pymesh", None)
            fleet.connect(node, _Refusing(mesh.refusals.get(service, "")), "127.0.0.1:1", "delta")
        collector = Collector(fleet, mesh, fetch=mesh.page)
        server = AdminServer(application(fleet, CollectorRegistry(), mesh, collector, lambda: True), sock)
        await server.start()
        ready.set()
        await asyncio.to_thread(stop.wait)
        await collector.stop()
        await server.stop()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    assert ready.wait(30)
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        stop.set()
        thread.join(30)


class _Refusing(DeltaSession):
    """The session of a proxy that has refused the newest listeners, if there is a reason."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self._reason = reason

    def status(self) -> list[TypeStatus]:
        refused = "two" if self._reason else ""
        sent = "two" if self._reason else "one"
        acked = "1" if self._reason else "2"
        return [TypeStatus(pb.LISTENER, True, 0, 0, "2", sent, acked, "one", refused, self._reason, False)]


def _lines(call: Call, reporter: str, count: float) -> Iterator[str]:
    (source_namespace, source), (namespace, target) = call.source.split("/"), call.target.split("/")
    labels = {
        "reporter": reporter,
        "source_canonical_service": source if reporter == "source" else "unknown",
        "source_canonical_revision": "v1",
        "source_workload_namespace": source_namespace,
        "destination_canonical_service": target,
        "destination_canonical_revision": "v1",
        "destination_workload_namespace": namespace,
        "destination_service_name": target,
        "destination_service_namespace": namespace,
        "response_flags": "-",
        "connection_security_policy": "mutual_tls" if reporter == "destination" else "unknown",
        "source_principal": f"spiffe://cluster.local/ns/{source_namespace}/sa/{source}"
        if reporter == "destination"
        else "unknown",
    }
    for code, share in (("200", 1 - call.failing), ("503", call.failing)):
        text = ",".join(f'{key}="{value}"' for key, value in {**labels, "response_code": code}.items())
        yield f"istio_requests_total{{{text}}} {int(count * share)}"
        for number, bound in enumerate(BUCKETS, 1):
            reached = int(count * share * number / len(BUCKETS))
            yield f'istio_request_duration_milliseconds_bucket{{{text},le="{bound}"}} {reached}'
