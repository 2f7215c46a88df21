"""What is wrong is left out, and nothing else is."""

from __future__ import annotations

from typing import Any

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.metadata import Resource
from pymesh.control.resources.objects import load_object
from pymesh.control.store.store import MeshOptions, Store
from pymesh.control.store.usable import assemble_usable

ISTIO = "networking.istio.io/v1"


def one(version: str, kind: str, name: str, spec: Any) -> Resource:
    report = Report()
    made = load_object(
        {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": "shop"}, "spec": spec}, report
    )
    assert made is not None, report.diagnostics
    return made


def service(name: str) -> Resource:
    return one("v1", "Service", name, {"ports": [{"name": "http", "port": 80}]})


def virtual(name: str, host: str, subset: str = "") -> Resource:
    destination = {"host": host, **({"subset": subset} if subset else {})}
    return one(ISTIO, "VirtualService", name, {"hosts": [host], "http": [{"route": [{"destination": destination}]}]})


def usable(
    *resources: Resource, instead: dict[str, list[Resource]] | None = None
) -> tuple[Store, list[str], list[str]]:
    report = Report()
    others = {file: iter(found) for file, found in (instead or {}).items()}
    store, used = assemble_usable(resources, MeshOptions(), report, lambda file: next(others.get(file, iter(())), None))
    return store, sorted(each.title for each in used), [str(found) for found in report.diagnostics]


def test_a_wrong_reference_takes_its_own_resource_away() -> None:
    store, used, found = usable(service("a"), service("b"), virtual("to-a", "a"), virtual("to-c", "c"))
    assert used == ["Service shop/a", "Service shop/b", "VirtualService shop/to-a"]
    assert len(store.virtual_services) == 1
    assert {text.partition(": ")[0] for text in found} == {
        "VirtualService/shop/to-c:spec.hosts",
        "VirtualService/shop/to-c:spec.http[0].route[0].destination.host",
    }


def test_what_depends_on_what_is_left_out_is_left_out_too() -> None:
    rule = one(ISTIO, "DestinationRule", "r", {"host": "nobody", "subsets": [{"name": "v1"}]})
    _, used, found = usable(service("a"), rule, virtual("v", "a", "v1"))
    assert used == ["Service shop/a"]
    assert len(found) == 2


def test_the_second_of_two_is_left_out() -> None:
    first, second = virtual("first", "a"), virtual("second", "a")
    _, used, (found,) = usable(service("a"), second, first)
    assert used == ["Service shop/a", "VirtualService shop/first"]
    assert found.startswith("VirtualService/shop/second:spec.hosts: error: 'a.shop.svc.cluster.local' has two")


def test_what_stands_in_is_judged_as_well() -> None:
    wrong = virtual("v", "a", "v2")
    still_wrong, right = virtual("v", "b"), virtual("v", "a")
    _, used, _ = usable(service("a"), wrong, instead={wrong.at.file: [still_wrong, right]})
    assert used == ["Service shop/a", "VirtualService shop/v"]
    _, used, _ = usable(service("a"), wrong, instead={wrong.at.file: [still_wrong]})
    assert used == ["Service shop/a"]
