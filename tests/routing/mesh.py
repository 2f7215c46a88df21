"""One control plane over a folder of resources, and behind it our proxy and Envoy as gateways, each on its own port."""

from __future__ import annotations

import asyncio
import json
import socket
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from pymesh.control.sources.mesh import FileMesh
from tests.proxy import bootstrap
from tests.proxy.running import Proxy, eventually, proxy
from tests.routing.outcome import Asked
from tests.tools.banner import banners
from tests.tools.control import control_plane
from tests.tools.ports import free_port, free_ports
from tests.tools.wire.client import Answer, exchange, http1_connection
from tests.tools.wire.message import Request
from tests.tools.wire.origin import origin

Document = dict[str, Any]
NAMESPACE = "shop"
ORIGINS = ("a", "b", "c")
GATEWAYS = ("pymesh", "envoy")
#: By which Istio's Gateways and the Gateway API's are told which proxy runs them.
LABELS = ("gateway", "gateway.networking.k8s.io/gateway-name")


@dataclass(frozen=True)
class Rig:
    """What runs."""

    proxies: dict[str, Proxy]
    ports: dict[str, int]

    def ask(self, kind: str, requests: Sequence[Asked]) -> list[Answer]:
        """The answers of one of the proxies, over connections that are kept."""
        return asyncio.run(asyncio.wait_for(_all(self.ports[kind], requests), 300))


async def _all(port: int, requests: Sequence[Asked]) -> list[Answer]:
    found: list[Answer] = []
    while len(found) < len(requests):
        async with http1_connection(port) as client:
            for one in requests[len(found) :]:
                sink = await client.send(Request(one.method, one.target, one.host, list(one.headers.items())))
                found.append(await exchange(sink, client, one.method, b""))
                if found[-1].header("connection") == "close":
                    break
    return found


def document(kind: str, name: str, spec: Document, namespace: str = NAMESPACE, **metadata: Any) -> Document:
    """A resource; the group follows from its kind."""
    istio = "gatewayClassName" not in spec and kind in ("VirtualService", "DestinationRule", "Gateway", "WorkloadEntry")
    version = "v1alpha2" if kind in ("TCPRoute", "TLSRoute") else "v1"
    group = "networking.istio.io/v1" if istio else "v1" if kind == "Service" else f"gateway.networking.k8s.io/{version}"
    return {
        "apiVersion": group,
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace, **metadata},
        "spec": spec,
    }


def services(ports: dict[str, int], protocol: str) -> list[Document]:
    """A service for each origin, by its name."""
    found = []
    for name, port in ports.items():
        served = [{"name": protocol, "port": 80, "targetPort": port}]
        found.append(document("Service", name, {"selector": {"app": name}, "ports": served}))
        found.append(document("WorkloadEntry", name, {"address": "127.0.0.1", "labels": {"app": name}}))
    return found


@contextmanager
def running(
    folder: Path,
    written: Sequence[Document],
    ports: dict[str, int],
    *also: int,
    protocol: Literal["http", "tcp"] = "http",
    gateways: Sequence[str] = GATEWAYS,
) -> Iterator[Rig]:
    """Both proxies with these resources, all acknowledged; for TCP the origins say their name and nothing else."""
    with ExitStack() as stack:
        if protocol == "http":
            origins = {name: stack.enter_context(origin(name)).port for name in ORIGINS}
        else:
            lines = [name.encode() for name in ORIGINS]
            origins = dict(zip(ORIGINS, stack.enter_context(banners(lines)), strict=True))
        config = folder / "config"
        config.mkdir()
        (config / "all.yaml").write_text(yaml.safe_dump_all([*services(origins, protocol), *written]))
        plane = stack.enter_context(control_plane(folder, FileMesh([config]), config=(config,), insecure_xds=True))
        server = bootstrap.cluster("xds", [plane.xds_address.port], http2=True)
        proxies = {}
        for kind in gateways:
            made = bootstrap.dynamic("DELTA_GRPC", server, free_port())
            made["node"] = {
                "id": f"router~127.0.0.1~{kind}.{NAMESPACE}~{NAMESPACE}.svc.cluster.local",
                "cluster": kind,
                "metadata": {"NAMESPACE": NAMESPACE, "LABELS": {**dict.fromkeys(LABELS, kind), "tier": "edge"}},
            }
            proxies[kind] = stack.enter_context(proxy(kind, made))
        rig = Rig(proxies, ports)
        for port in (*ports.values(), *also):
            assert eventually(lambda port=port: _listens(port), 60), proxies["envoy"].process.tail()  # type: ignore[misc]
        refused = eventually(lambda: _settled(str(plane.admin_address), len(proxies)), 60)
        assert refused, _synced(str(plane.admin_address))
        yield rig


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _synced(address: str) -> Any:
    with urllib.request.urlopen(f"http://{address}/debug/syncz", timeout=10) as answered:
        return json.loads(answered.read())


def _settled(address: str, count: int) -> bool:
    """Whether so many proxies have acknowledged everything; nothing may have been refused."""
    proxies = _synced(address)
    kinds = [kind for one in proxies for kind in one["types"].values()]
    assert not [one for one in kinds if "rejected" in one], proxies
    return len(proxies) == count and all(one["synced"] for one in kinds)


def two_ports() -> dict[str, int]:
    """A port for each gateway."""
    return dict(zip(GATEWAYS, free_ports(len(GATEWAYS)), strict=True))
