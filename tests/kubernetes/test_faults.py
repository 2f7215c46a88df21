"""Faults at every kind of event, and the configuration is the same in the end as without them.

The three that controllers are known to stumble over: a crash in the middle, a start from a server that is behind its
time, and an event that nobody told of.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest

from pymesh.control.sources.kubernetes.client import ApiClient, Object
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.meshes import Configuration, Described, Followed, configuration, following

PROXIES = (
    Described(
        "sidecar~10.1.0.9~web-1.shop~shop.svc.cluster.local",
        {"INTERCEPTION_MODE": "REDIRECT", "LABELS": {"app": "web"}},
    ),
    Described("router~10.1.0.8~gate.shop~shop.svc.cluster.local", {"LABELS": {"istio": "gate"}}),
)
ISTIO, GATEWAY_API = "networking.istio.io/v1", "gateway.networking.k8s.io/v1"
#: Every event has its fault in the long form (`make test-kubernetes`), one in five else.
EVERY = 1 if "PYMESH_KUBERNETES_WHOLE" in os.environ else 5
SERVICE_OF = "kubernetes.io/service-name"

Step = Callable[[Cluster, str], object]


def put(version: str, kind: str, name: str, labels: Any = None, **fields: Any) -> Step:
    def step(cluster: Cluster, namespace: str) -> None:
        meta = {"name": name, "namespace": namespace, "labels": labels or {}}
        cluster.apply([{"apiVersion": version, "kind": kind, "metadata": meta, **fields}])

    return step


def drop(version: str, kind: str, name: str) -> Step:
    return lambda cluster, namespace: cluster.delete(version, kind, name, namespace)


def slices(*addresses: str) -> Step:
    endpoints = [
        {
            "addresses": [each],
            "conditions": {"ready": True},
            "targetRef": {"kind": "Pod", "name": f"cart-{n}"},
            "nodeName": "n",
        }
        for n, each in enumerate(addresses)
    ]
    ports = [{"name": "http", "port": 8080, "protocol": "TCP"}]
    return put(
        "discovery.k8s.io/v1", "EndpointSlice", "cart-x", {SERVICE_OF: "cart"},
        addressType="IPv4", ports=ports, endpoints=endpoints,
    )  # fmt: skip


def service(name: str, port: int = 80) -> Step:
    return put("v1", "Service", name, spec={"selector": {"app": name}, "ports": [{"name": "http", "port": port}]})


def virtual(subset: str) -> Step:
    destination = {"host": "cart", **({"subset": subset} if subset else {})}
    return put(
        ISTIO, "VirtualService", "cart", spec={"hosts": ["cart"], "http": [{"route": [{"destination": destination}]}]}
    )


def rule(*subsets: str) -> Step:
    named = [{"name": each, "labels": {"version": each}} for each in subsets]
    return put(ISTIO, "DestinationRule", "cart", spec={"host": "cart", "subsets": named})


def pod(name: str, version: str) -> Step:
    labels = {"app": "cart", "version": version, "security.istio.io/tlsMode": "istio"}
    spec = {"containers": [{"name": "app", "image": "app"}], "automountServiceAccountToken": False}
    return put("v1", "Pod", name, labels, spec=spec)


def policy(path: str) -> Step:
    rules = [{"to": [{"operation": {"paths": [path]}}]}]
    selector = {"matchLabels": {"app": "web"}}
    return put("security.istio.io/v1", "AuthorizationPolicy", "p", spec={"selector": selector, "rules": rules})


def gateway(port: int) -> Step:
    servers = [{"port": {"number": port, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}]
    return put(ISTIO, "Gateway", "gate", spec={"selector": {"istio": "gate"}, "servers": servers})


def route(path: str) -> Step:
    rules = [{"matches": [{"path": {"value": path}}], "backendRefs": [{"name": "web", "port": 80}]}]
    parents = [{"kind": "Service", "group": "", "name": "web"}]
    return put(GATEWAY_API, "HTTPRoute", "web", spec={"parentRefs": parents, "rules": rules})


#: Each kind is added, changed and removed; what refers to something comes and goes before and after it.
STEPS: tuple[Step, ...] = (
    service("web"), service("cart"), slices("10.1.0.1"), slices("10.1.0.1", "10.1.0.2"), pod("cart-0", "v1"),
    pod("cart-1", "v2"), rule("v1"), rule("v1", "v2"), virtual("v1"), virtual("v2"), policy("/a"), policy("/b"),
    gateway(8080), gateway(8081), route("/a"), route("/b"), drop("v1", "Pod", "cart-1"),
    drop(ISTIO, "VirtualService", "cart"), virtual("v3"), rule("v1", "v3"), drop(ISTIO, "DestinationRule", "cart"),
    virtual(""),
    drop("security.istio.io/v1", "AuthorizationPolicy", "p"), drop(ISTIO, "Gateway", "gate"),
    drop(GATEWAY_API, "HTTPRoute", "web"), drop("discovery.k8s.io/v1", "EndpointSlice", "cart-x"), slices("10.1.0.7"),
    drop("v1", "Service", "cart"), service("cart", 81), rule("v1"), policy("/c"), gateway(8082), route("/c"),
)  # fmt: skip


def current(followed: Followed) -> Configuration:
    return configuration(followed.mesh, PROXIES)


def expected(cluster: Cluster) -> Configuration:
    """What a control plane makes of it that has met no fault."""
    with following(cluster.kubeconfig) as undisturbed:
        return current(undisturbed)


@pytest.fixture
def shop(mesh_apis: Cluster) -> Iterator[str]:
    with mesh_apis.namespace("shop") as name:
        yield name


def between(cluster: Cluster, namespace: str) -> Iterator[Step]:
    """The steps at which there is a fault; the others are done before each of them."""
    for number, step in enumerate(STEPS, start=1):
        if number % EVERY and number < len(STEPS):
            step(cluster, namespace)
        else:
            yield step


def test_a_crash_after_every_event(mesh_apis: Cluster, shop: str) -> None:
    seen = []
    for step in between(mesh_apis, shop):
        # Each life sees one event, and ends while that may still be on its way.
        with following(mesh_apis.kubeconfig, settle_seconds=0):
            step(mesh_apis, shop)
        with following(mesh_apis.kubeconfig) as next_life:
            seen.append(current(next_life))
    assert seen[-1] == expected(mesh_apis)
    assert len({str(sorted(each.items())) for each in seen}) > len(seen) / 2, "the steps have to make a difference"


class Behind(ApiClient):
    """A client whose server answers each first list as it was before the latest event."""

    #: Path -> the answers that were given to lists, the oldest first.
    history: ClassVar[dict[str, list[Object]]] = {}

    def __init__(self, access: Any) -> None:
        super().__init__(access)
        self._listed: set[str] = set()

    async def request(self, method: str, path: str, body: Any = None, **more: Any) -> Object:
        found = await super().request(method, path, body, **more)
        if method != "GET" or (found.get("metadata") or {}).get("continue"):
            return found
        known = self.history.setdefault(path, [])
        known.append(found)
        if path in self._listed or len(known) < 2:
            return found
        self._listed.add(path)
        return known[-2]


def test_a_start_from_a_server_that_is_behind_at_every_event(mesh_apis: Cluster, shop: str) -> None:
    Behind.history.clear()
    for step in between(mesh_apis, shop):
        with following(mesh_apis.kubeconfig, client=Behind) as followed:
            now = expected(mesh_apis)
            followed.until(lambda _, f=followed, n=now: current(f) == n)  # type: ignore[misc]
            step(mesh_apis, shop)
            now = expected(mesh_apis)
            followed.until(lambda _, f=followed, n=now: current(f) == n)  # type: ignore[misc]


class Deaf(ApiClient):
    """A client that is never told of one event of each kind and type; the others come."""

    def __init__(self, access: Any) -> None:
        super().__init__(access)
        self.missed: set[tuple[str, str]] = set()

    async def watch(
        self, path: str, query: Mapping[str, str], opened: Callable[[], None] = lambda: None
    ) -> AsyncGenerator[Object, None]:
        async for event in super().watch(path, query, opened):
            what = (path, event["type"])
            if event["type"] in ("ADDED", "MODIFIED", "DELETED") and what not in self.missed:
                self.missed.add(what)
                continue
            yield event


@contextmanager
def deaf(cluster: Cluster) -> Iterator[tuple[Followed, Deaf]]:
    with following(cluster.kubeconfig, client=Deaf, relist_seconds=2) as followed:
        client = followed.mesh._client
        assert isinstance(client, Deaf)
        yield followed, client


def test_an_event_of_every_kind_that_is_missed(mesh_apis: Cluster, shop: str) -> None:
    with deaf(mesh_apis) as (followed, client):
        for step in STEPS:
            step(mesh_apis, shop)
        now = expected(mesh_apis)
        followed.until(lambda _: current(followed) == now)
        kinds = {path.rpartition("/")[2] for path, _ in client.missed}
        assert kinds >= {"services", "endpointslices", "pods", "virtualservices", "destinationrules", "httproutes"}
        assert {"ADDED", "MODIFIED", "DELETED"} == {what for _, what in client.missed}
