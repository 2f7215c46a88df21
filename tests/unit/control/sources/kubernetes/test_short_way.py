"""What the mesh does quickly it does right: after any changes, in any portions, it has what one has that comes new."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from pymesh.control.resources.diagnostics import ConfigError
from pymesh.control.resources.objects import Object
from pymesh.control.sources.kubernetes import mesh as kubernetes_mesh
from pymesh.control.sources.kubernetes.mesh import KubernetesMesh
from pymesh.control.xds import pb
from pymesh.control.xds.node import Node

NAMES = ("cart", "web")
PROXIES = [
    Node(f"sidecar~10.1.0.{n}~{name}-{n}.shop~x", "", {"INTERCEPTION_MODE": "REDIRECT"}, ("", "", ""), "envoy", None)
    for name in NAMES
    for n in (1, 2)
]


class Nobody:
    """An API server that is not asked: the test is."""


def made(kind: str, name: str, version: int, **more: Any) -> Object:
    group = {"EndpointSlice": "discovery.k8s.io/v1", "ServiceEntry": "networking.istio.io/v1"}.get(kind, "v1")
    meta = {"name": name, "namespace": "" if kind == "Node" else "shop", "resourceVersion": str(version)}
    return {"apiVersion": group, "kind": kind, "metadata": {**meta, **more.pop("meta", {})}, **more}


def service(rng: random.Random, version: int) -> Object:
    name = rng.choice(NAMES)
    spec = {"clusterIP": f"10.96.0.{NAMES.index(name) + 1}", "ports": [{"name": "http", "port": 80}]}
    if rng.random() < 0.2:
        spec["ports"] = [{"name": "http", "port": "eighty"}]  # wrong
    return made("Service", name, version, spec={**spec, "selector": {"app": name}})


def slice_of(rng: random.Random, version: int) -> Object:
    owner = rng.choice([*NAMES, "nobody"])
    endpoints: list[Any] = [
        {"addresses": [f"10.1.0.{n}"], "nodeName": f"n{n}", "targetRef": {"kind": "Pod", "name": f"{owner}-{n}"}}
        for n in rng.sample(range(1, 5), rng.randrange(4))
    ]
    if rng.random() < 0.2:
        endpoints.insert(0, rng.choice([{"addresses": "10.1.0.9"}, {"addresses": ["x"]}, {"adresses": []}]))  # wrong
    meta = {"labels": {"kubernetes.io/service-name": owner}}
    ports = [{"name": "http", "port": 8080, "protocol": rng.choice(["TCP", "TCP", "UDP"])}]
    name = f"{owner}-{rng.randrange(2)}"
    return made("EndpointSlice", name, version, meta=meta, addressType="IPv4", ports=ports, endpoints=endpoints)


def pod(rng: random.Random, version: int) -> Object:
    app, number = rng.choice(NAMES), rng.randrange(1, 5)
    meta = {"labels": {"app": app, "version": rng.choice(["v1", "v2"])}}
    spec = {"nodeName": f"n{number}", "serviceAccountName": app}
    conditions = [{"type": "Ready", "status": rng.choice(["True", "False"])}]
    phase = rng.choice(["Running", "Running", "Succeeded"])
    status = {"phase": phase, "podIP": f"10.1.0.{number}", "conditions": conditions}
    return made("Pod", f"{app}-{number}", version, meta=meta, spec=spec, status=status)


def node(rng: random.Random, version: int) -> Object:
    labels = {"topology.kubernetes.io/region": "eu", "topology.kubernetes.io/zone": f"eu-{rng.randrange(2)}"}
    status = {"heartbeat": version}  # another version, which says the same
    return made("Node", f"n{rng.randrange(1, 5)}", version, meta={"labels": labels}, status=status)


def entry(rng: random.Random, version: int) -> Object:
    ports = [{"name": "http", "number": 80, "protocol": "HTTP", "targetPort": 8080}]
    selector = {"labels": {"app": "cart", **rng.choice([{}, {"version": "v1"}])}}
    spec = {"hosts": ["carts.test"], "resolution": "STATIC", "ports": ports, "workloadSelector": selector}
    return made("ServiceEntry", "carts", version, spec=spec)


KINDS: dict[str, Callable[[random.Random, int], Object]] = {
    "EndpointSlice": slice_of,
    "Node": node,
    "Pod": pod,
    "Service": service,
    "ServiceEntry": entry,
}


def known(mesh: KubernetesMesh) -> tuple[Any, Any]:
    """Everything that proxies have, and all that is wrong."""
    messages = [
        {(url, name): pb.encode(one) for url, named in mesh.messages(each).items() for name, one in named.items()}
        for each in PROXIES
    ]
    return messages, mesh.diagnostics()


def started() -> KubernetesMesh:
    mesh = KubernetesMesh(Nobody(), grace_seconds=0)  # type: ignore[arg-type]
    for one in mesh.reflectors:
        one.is_synced, one._served = True, "v1"
    mesh._synced.set()
    return mesh


def take_over(mesh: KubernetesMesh) -> bool:
    """As `_follow` does; whether by the short way."""
    moved = mesh._moved()
    if moved is not None and mesh._refresh(moved):
        return True
    assert mesh._replace([one for each in mesh.reflectors for one in each.objects.values()], 0.0)
    return False


@pytest.mark.parametrize("seed", range(4))
def test_changes_in_any_portions_lead_where_a_new_start_leads(seed: int) -> None:
    async def main() -> int:
        rng = random.Random(seed)
        mesh = started()
        reflectors = {one.kind.name: one for one in mesh.reflectors if one.kind.name in KINDS}
        short = 0
        for version in range(1, 91):
            kind = rng.choices(list(KINDS), weights=[10, 2, 6, 1, 1])[0]
            if version < 20:
                kind = rng.choice(list(KINDS))
            one = KINDS[kind](rng, version)
            what = "DELETED" if rng.random() < 0.15 else "MODIFIED"
            reflectors[kind]._take({"type": what, "object": one})
            if rng.random() < 0.4:
                continue
            short += take_over(mesh)
            fresh = started()
            for name, reflector in reflectors.items():
                next(each for each in fresh.reflectors if each.kind.name == name).objects = reflector.objects
            take_over(fresh)
            assert known(mesh) == known(fresh), version
        return short

    assert asyncio.run(main()) > 5, "else the short way is not what was tried"


def test_what_serves_a_service_serves_whoever_has_it_by_another_name_from_the_first_endpoint_on() -> None:
    mesh = started()
    reflectors = {one.kind.name: one for one in mesh.reflectors if one.kind.name in KINDS}
    port: Any = {"name": "http", "port": 80}
    other = {"type": "ExternalName", "externalName": "cart.shop.svc.cluster.local", "ports": [port]}
    cart = {"clusterIP": "10.96.0.1", "ports": [port]}
    endpoints = made(
        "EndpointSlice",
        "cart-1",
        3,
        meta={"labels": {"kubernetes.io/service-name": "cart"}},
        addressType="IPv4",
        ports=[{"name": "http", "port": 8080}],
        endpoints=[{"addresses": ["10.1.0.1"]}],
    )
    for one in (made("Service", "cart", 1, spec=cart), made("Service", "other", 2, spec=other)):
        reflectors["Service"]._take({"type": "ADDED", "object": one})
    take_over(mesh)
    assert not mesh.store.services["other.shop.svc.cluster.local"].backends[80]
    reflectors["EndpointSlice"]._take({"type": "ADDED", "object": endpoints})
    take_over(mesh)
    (reached,) = mesh.store.services["other.shop.svc.cluster.local"].backends[80]
    assert reached.workload.address == "10.1.0.1"


def test_what_could_not_be_put_in_force_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The short way takes what moved since the last time: a change that nobody has taken over yet is older."""
    mesh = started()
    reflectors = {one.kind.name: one for one in mesh.reflectors if one.kind.name in KINDS}
    cart = made("Service", "cart", 1, spec={"clusterIP": "10.96.0.1", "ports": [{"name": "http", "port": 80}]})
    reflectors["Service"]._take({"type": "ADDED", "object": cart})
    with monkeypatch.context() as patched:

        def refused(*_: Any) -> Any:
            raise ConfigError(())

        patched.setattr(kubernetes_mesh, "assemble_usable", refused)
        assert mesh._moved() is None
        assert not mesh._replace([cart], 0.0)
    reflectors["Pod"]._take({"type": "ADDED", "object": pod(random.Random(0), 2)})
    assert not take_over(mesh)
    assert list(mesh.store.services) == ["cart.shop.svc.cluster.local"]
