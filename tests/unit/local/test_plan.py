"""From the shop's mesh file to workloads, and to the resources that describe them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from pymesh.local import config, meshfile, resources
from pymesh.local.errors import LocalMeshError
from pymesh.local.plan import Workload, workloads

SHOP = Path(__file__).resolve().parents[3] / "examples" / "shop"


def plan() -> dict[str, Workload]:
    ports = itertools.count(20000)
    return {workload.name: workload for workload in workloads(meshfile.read(SHOP), lambda: next(ports))}


def test_every_replica_is_a_workload() -> None:
    assert list(plan()) == ["ingress", "web", "catalog-0", "catalog-1", "reviews-v1", "reviews-v2", "ratings"]


def test_no_port_is_given_twice() -> None:
    given: list[int] = []
    for workload in plan().values():
        given += [workload.admin_port, *workload.outbound.values()]
        given += [port for inbound in workload.inbound for port in (inbound.app, inbound.sidecar)]
    assert len(given) == len(set(given))


def test_an_app_is_told_in_the_words_of_kubernetes() -> None:
    web = plan()["web"]
    environment = web.environment()
    assert environment["PORT"] == str(web.inbound[0].app)
    assert environment["CATALOG_SERVICE_HOST"] == "127.0.0.1"
    assert environment["CATALOG_SERVICE_PORT"] == str(web.outbound["catalog"])
    assert web.node_id == "sidecar~127.0.0.1~web.shop~shop.svc.cluster.local"
    assert web.spiffe_id == "spiffe://cluster.local/ns/shop/sa/web"


def test_a_workload_is_described_by_istio_resources() -> None:
    web = plan()["web"]
    entry, sidecar = resources.describe(web)
    assert entry["spec"]["labels"]["security.istio.io/tlsMode"] == "istio"
    assert entry["spec"]["ports"] == {"http": web.inbound[0].sidecar}
    assert [one["hosts"] for one in sidecar["spec"]["egress"]] == [
        ["shop/catalog.shop.svc.cluster.local"],
        ["shop/reviews.shop.svc.cluster.local"],
    ]
    assert resources.describe(plan()["ingress"]) == []


def test_an_app_may_call_whatever_the_mesh_knows() -> None:
    mesh = meshfile.read(SHOP)
    first, *others = mesh.apps
    mesh = replace(mesh, apps=(replace(first, calls=("catalog", meshfile.EVERYTHING)), *others))
    ports = itertools.count(20000)
    web = next(one for one in workloads(mesh, lambda: next(ports)) if one.name == "web")
    everything = resources.describe(web)[1]["spec"]["egress"][1]
    assert (everything["hosts"], everything["port"]["protocol"]) == (["*/*"], "HTTP")
    assert web.environment()["http_proxy"] == f"http://127.0.0.1:{everything['port']['number']}"


def test_weights_are_rewritten_in_a_copy(tmp_path: Path) -> None:
    mesh = meshfile.read(SHOP)
    folders = config.copied(mesh.folder, mesh.config, tmp_path / "copy")
    config.set_weights(folders, "reviews", {"v1": 1, "v2": 99})
    text = (folders[0] / "reviews.yaml").read_text()
    routes = next(iter(yaml.safe_load_all(text)))["spec"]["http"][0]["route"]
    assert [route["weight"] for route in routes] == [1, 99]
    with pytest.raises(LocalMeshError, match="no VirtualService for 'reviews'"):
        config.set_weights(folders, "reviews", {"v9": 1})
