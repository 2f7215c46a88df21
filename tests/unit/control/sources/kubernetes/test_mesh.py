"""The mesh of an API server goes on whatever it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pymesh.control.injection.settings import InjectionSettings
from pymesh.control.install import gateways
from pymesh.control.resources.gateway_api import KubeGateway
from pymesh.control.resources.objects import Object, place
from pymesh.control.resources.reduced import readable
from pymesh.control.sources.kubernetes import mesh as kubernetes_mesh
from pymesh.control.sources.kubernetes.mesh import KubernetesMesh
from pymesh.control.sources.kubernetes.status import wanted
from pymesh.control.status.gateways import CONTROLLER, gateway_status
from pymesh.control.translate.proxy import ProxyError
from pymesh.control.xds.node import Node
from tests.tools.certificates import Authority


class Nobody:
    """An API server that is not asked."""

    async def close(self) -> None:
        pass


class Still:
    """A reflector that has everything."""

    def __init__(self, kind: Any, objects: Iterable[Object]) -> None:
        self.kind, self.is_synced, self.trouble = kind, True, ""
        self.objects = {(one["metadata"]["namespace"], one["metadata"]["name"]): one for one in objects}

    async def run(self) -> None:
        await asyncio.Event().wait()

    def moved(self) -> None:
        """Anything may have."""

    def place(self, key: tuple[str, str]) -> str:
        return place(self.objects[key])


def service(name: str, version: int) -> Object:
    meta = {"name": name, "namespace": "shop", "resourceVersion": str(version)}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": [{"port": 80}]}}


def test_a_fault_of_ours_is_told_and_the_last_good_mesh_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes_mesh, "_FAULT_SECONDS", 0.01)
    mesh = KubernetesMesh(Nobody())  # type: ignore[arg-type]
    kind = next(one.kind for one in mesh.reflectors if one.kind.name == "Service")
    reflector = Still(kind, [service("a", 1)])
    mesh.reflectors = [reflector]  # type: ignore[list-item]
    read, broken = kubernetes_mesh.load_object, asyncio.Event()

    def breaks(one: Object, report: Any) -> Any:
        if one["metadata"]["name"] == "b":
            raise ZeroDivisionError("ours")
        return read(one, report)

    monkeypatch.setattr(kubernetes_mesh, "load_object", breaks)
    hosts = ["a.shop.svc.cluster.local"]

    async def until(holds: Any) -> None:
        async with asyncio.timeout(60):
            while not holds():  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def main() -> None:
        watching = asyncio.create_task(mesh.watch(broken.set))
        mesh._dirty.set()
        await mesh.synced()
        reflector.objects["shop", "b"] = service("b", 2)
        mesh._dirty.set()
        await until(mesh.diagnostics)
        assert [(one["at"], one["message"]) for one in mesh.diagnostics()] == [
            ("(all objects)", "the configuration cannot be read: ZeroDivisionError('ours')")
        ]
        assert list(mesh.store.services) == hosts
        assert not watching.done()
        # Without another word of the server: it is tried again.
        monkeypatch.setattr(kubernetes_mesh, "load_object", read)
        await until(lambda: not mesh.diagnostics())
        assert sorted(mesh.store.services) == [*hosts, "b.shop.svc.cluster.local"]
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    asyncio.run(main())


def test_what_the_cluster_knows_of_a_pod_comes_before_what_its_proxy_says() -> None:
    mesh = KubernetesMesh(Nobody(), cluster_id=lambda: "here")  # type: ignore[arg-type]
    place = {"topology.kubernetes.io/region": "eu", "topology.kubernetes.io/zone": "eu-1"}
    objects: list[Object] = [
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": place}},
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "web-1", "namespace": "shop", "labels": {"app": "web"}},
            "spec": {"nodeName": "n1", "serviceAccountName": "web"},
            "status": {"phase": "Running", "podIP": "10.0.0.1"},
        },
    ]
    assert mesh._replace(objects, 0.0)
    metadata: dict[str, Any] = {"LABELS": {"app": "bank"}, "NODE_NAME": "n2", "CLUSTER_ID": "there"}
    node = ("sidecar~10.0.0.1~web-1.shop~x", "", metadata, ("us", "us-9", ""), "pymesh", None)
    served = mesh._serving(Node(*node)).proxy
    assert dict(served.labels) == {"app": "web", "kubernetes.io/hostname": "n1"}
    assert served.cluster_id == "here"
    assert (served.locality.region, served.locality.zone) == ("eu", "eu-1")
    metadata["UPSTREAM_MARK"] = "7"
    with pytest.raises(ProxyError, match=r"web-1\.shop says UPSTREAM_MARK"):
        mesh.messages(Node(*node))


GATEWAYS = {
    "gateway.networking.k8s.io/v1": ("listeners", {"gatewayClassName": "pymesh"}, [
        {"name": "open", "port": 80, "protocol": "HTTP"},
        {"name": "no-secret", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "none"}]}},
        {"name": "wrong", "port": 81, "protocol": "SCTP"},
        {"name": "last", "port": 82, "protocol": "HTTP"},
    ]),
    "networking.istio.io/v1": ("servers", {"selector": {"app": "edge"}}, [
        {"port": {"number": 80, "name": "open", "protocol": "HTTP"}, "hosts": ["*"]},
        {"port": {"number": 443, "name": "no-secret", "protocol": "HTTPS"}, "hosts": ["*"],
         "tls": {"mode": "SIMPLE", "credentialName": "none"}},
        {"port": {"number": 81, "name": "wrong", "protocol": "SCTP"}, "hosts": ["*"]},
        {"port": {"number": 82, "name": "last", "protocol": "HTTP"}, "hosts": ["*"]},
    ]),
}  # fmt: skip


def in_force(documents: list[Object]) -> KubernetesMesh:
    """The mesh that a server with these objects describes, after every grace."""
    mesh = KubernetesMesh(Nobody(), grace_seconds=0)  # type: ignore[arg-type]
    kinds = {(one.kind.name, one.kind.group): one.kind for one in mesh.reflectors}

    def key(one: Object) -> tuple[str, str]:
        return one["kind"], one["apiVersion"].rpartition("/")[0]

    found = [Still(kind, [one for one in documents if key(one) == name]) for name, kind in kinds.items()]
    mesh.reflectors = found  # type: ignore[assignment]

    async def main() -> None:
        task = asyncio.create_task(mesh.watch(lambda: None))
        mesh._dirty.set()
        async with asyncio.timeout(60):
            await mesh.synced()
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(main())
    return mesh


def gateway(version: str, *left: str) -> Object:
    field, spec, parts = GATEWAYS[version]
    kept = [one for one in parts if (one.get("name") or one["port"]["name"]) in left or not left]
    meta = {"name": "edge", "namespace": "shop", "resourceVersion": "1"}
    return {"apiVersion": version, "kind": "Gateway", "metadata": meta, "spec": {**spec, field: kept}}


def open_ports(mesh: KubernetesMesh) -> list[int]:
    listeners = [one.port for each in mesh.store.kube_gateways for one in each.spec.listeners]
    return listeners + [one.port.number for each in mesh.store.gateways for one in each.spec.servers]


@pytest.mark.parametrize("version", GATEWAYS)
def test_what_is_wrong_with_one_listener_closes_no_other(version: str) -> None:
    mesh = in_force([gateway(version)])
    assert open_ports(mesh) == [80, 82]
    field = GATEWAYS[version][0]
    # Each at the place where its author finds it.
    assert [one["at"].partition(":")[2].partition("]")[0] for one in mesh.diagnostics()] == [
        f"spec.{field}[1",
        f"spec.{field}[2",
    ]


@pytest.mark.parametrize("version", GATEWAYS)
@pytest.mark.parametrize("left", [("no-secret",), ("wrong",), ("wrong", "no-secret")])
def test_nothing_is_left_of_a_gateway_without_a_good_listener(version: str, left: tuple[str, ...]) -> None:
    assert open_ports(in_force([gateway(version, *left)])) == []


def test_what_is_wrong_with_the_whole_is_no_listeners_fault() -> None:
    version = "gateway.networking.k8s.io/v1"
    whole = gateway(version)
    assert open_ports(in_force([{**whole, "spec": {**whole["spec"], "surprise": 1}}])) == []


def test_listeners_that_conflict_close_no_other() -> None:
    """By the standard none of them is used. One that cannot be read stands beside them: it is told of, too."""
    listeners = [
        {"name": "open", "port": 80, "protocol": "HTTP"},
        {"name": "wrong", "port": 82, "protocol": "SCTP"},
        {"name": "first", "port": 81, "protocol": "HTTP"},
        {"name": "second", "port": 81, "protocol": "TCP"},
    ]
    one = gateway("gateway.networking.k8s.io/v1")
    mesh = in_force([{**one, "spec": {**one["spec"], "listeners": listeners}}])
    assert open_ports(mesh) == [80]
    places = [each["at"].rpartition(":")[2] for each in mesh.diagnostics()]
    assert places == ["spec.listeners[1].protocol", "spec.listeners[2]", "spec.listeners[3]"]
    state = mesh.state()
    (told,) = (each for each in state.objects if each.kind == "Gateway")
    status = gateway_status(state.store, told, [], datetime(2026, 1, 1, tzinfo=UTC))
    conflicted = [
        next(each for each in listener["conditions"] if each["type"] == "Conflicted")["reason"]
        for listener in status["listeners"]
    ]
    assert conflicted == ["NoConflicts", "NoConflicts", "ProtocolConflict", "ProtocolConflict"]


def test_a_status_tells_which_listener_it_is() -> None:
    mesh = in_force([gateway("gateway.networking.k8s.io/v1", "open", "no-secret")])
    state = mesh.state()
    (told,) = (one for one in state.objects if one.kind == "Gateway")
    status = gateway_status(state.store, told, [], datetime(2026, 1, 1, tzinfo=UTC))

    def shown(conditions: Any) -> list[str]:
        return [f"{one['type']}={one['status']} {one['reason']}" for one in conditions]

    assert shown(status["conditions"]) == ["Accepted=True ListenersNotValid", "Programmed=False AddressNotAssigned"]
    assert "there is no Secret shop/none" in status["conditions"][0]["message"]
    assert {one["name"]: shown(one["conditions"]) for one in status["listeners"]} == {
        "open": [
            "Accepted=True Accepted",
            "Conflicted=False NoConflicts",
            "ResolvedRefs=True ResolvedRefs",
            "Programmed=False Pending",
        ],
        "no-secret": [
            "Accepted=True Accepted",
            "Conflicted=False NoConflicts",
            "ResolvedRefs=False InvalidCertificateRef",
            "Programmed=False Invalid",
        ],
    }


def test_a_route_at_a_listener_that_cannot_be_used_waits_for_it() -> None:
    version = "gateway.networking.k8s.io/v1"
    spec = {"parentRefs": [{"name": "edge", "sectionName": "no-secret"}, {"name": "edge", "sectionName": "open"}]}
    meta = {"name": "r", "namespace": "shop", "resourceVersion": "1"}
    route = {"apiVersion": version, "kind": "HTTPRoute", "metadata": meta, "spec": spec}
    mesh = in_force([gateway(version, "open", "no-secret"), route])
    (found,) = (one for one in mesh.diagnostics() if one["at"].startswith("HTTPRoute"))
    assert found == {
        "at": "HTTPRoute/shop/r:spec.parentRefs[0].sectionName",
        "severity": "warning",
        "message": "listener 'no-secret' of Gateway shop/edge cannot be used",
        "hint": "the Gateway's status says why",
    }
    (made,) = mesh.store.kube_gateways
    (bound,) = mesh.store.http_routes
    assert [one.name for one in made.spec.listeners if mesh.store.binds(bound, made, one)] == ["open"]


def test_what_was_told_of_a_route_that_is_others_now_is_taken_back() -> None:
    version, theirs = "gateway.networking.k8s.io/v1", {"controllerName": "others.test/controller", "conditions": []}
    status = {"parents": [{"controllerName": CONTROLLER, "parentRef": {"name": "edge"}, "conditions": []}, theirs]}

    def made(kind: str, name: str, **fields: Any) -> Object:
        meta = {"name": name, "namespace": "shop", "generation": 2, "resourceVersion": "5", "uid": name}
        return {"apiVersion": version, "kind": kind, "metadata": meta, **fields}

    gateways = [
        made(
            "Gateway", name, spec={"gatewayClassName": of, "listeners": [{"name": "a", "port": 80, "protocol": "HTTP"}]}
        )
        for name, of in (("edge", "pymesh"), ("theirs", "cilium"))
    ]
    moved = made("HTTPRoute", "web", spec={"parentRefs": [{"name": "theirs"}], "rules": [{}]}, status=status)
    mesh = in_force([*gateways, moved])
    told = {one.name: status for one, status in wanted(mesh.state(), {}, datetime.now(UTC))}
    assert set(told) == {"edge", "web"}
    assert told["web"] == {"parents": [theirs]}


def test_a_secret_that_is_replaced_in_two_steps_closes_no_port(tmp_path: Path) -> None:
    name, meta = ("gateway.networking.k8s.io/v1", {"namespace": "shop", "resourceVersion": "1"})
    tls = {"certificateRefs": [{"name": "it"}]}
    listeners = [{"name": "a", "port": 443, "protocol": "HTTPS", "tls": tls}]
    edge = {"apiVersion": name, "kind": "Gateway", "metadata": {**meta, "name": "edge"},
            "spec": {"gatewayClassName": "pymesh", "listeners": listeners}}  # fmt: skip
    pair, moment = Authority(tmp_path).issue("it", dns=["a.test"]), 100.0
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {**meta, "name": "it"},
              "stringData": {"tls.crt": pair.chain.read_text(), "tls.key": pair.key.read_text()}}  # fmt: skip
    mesh = KubernetesMesh(Nobody(), grace_seconds=2.0, clock=lambda: moment)  # type: ignore[arg-type]
    assert mesh._replace([edge, secret], moment)
    assert open_ports(mesh) == [443]
    assert mesh._replace([edge], moment + 1)
    assert (open_ports(mesh), mesh.diagnostics()) == ([443], [])
    assert mesh._grace_left() is not None, "it is looked at again"
    assert mesh._replace([edge, secret], moment + 2)
    assert (open_ports(mesh), mesh._grace_left()) == ([443], None)
    assert mesh._replace([edge], moment + 3)
    assert mesh._replace([edge], moment + 5.1)
    assert open_ports(mesh) == []
    assert "there is no Secret shop/it" in str(mesh.diagnostics())


def test_a_gateway_with_a_listener_that_cannot_be_read_is_run_for_the_others() -> None:
    """And its Service keeps the port of one that can be mended."""
    one = gateway("gateway.networking.k8s.io/v1")
    listeners = [*one["spec"]["listeners"], {"name": "typo", "port": 83, "protocol": "HTTP", "hostnaem": "a.test"}]
    read = readable({**one, "spec": {**one["spec"], "listeners": listeners}})
    assert isinstance(read, KubeGateway)
    *_, service = gateways.objects(read, InjectionSettings(image="pymesh:1"))
    assert [each["port"] for each in service["spec"]["ports"]] == [15021, 80, 443, 82, 83]
