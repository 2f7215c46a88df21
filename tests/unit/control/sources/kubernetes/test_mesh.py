"""The mesh of an API server goes on whatever it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from pymesh.control.resources.objects import Object
from pymesh.control.sources.kubernetes import mesh as kubernetes_mesh
from pymesh.control.sources.kubernetes.mesh import KubernetesMesh
from pymesh.control.translate.proxy import ProxyError
from pymesh.control.xds.node import Node


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
