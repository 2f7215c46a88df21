"""What proxies have in common is made once, and is what would have been made for each of them alone."""

from __future__ import annotations

import random
from typing import Any

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.metadata import Resource
from pymesh.control.resources.objects import load_object
from pymesh.control.store.refreshed import Basis, refreshed
from pymesh.control.store.store import MeshOptions, Store, assemble
from pymesh.control.store.workloads import Locality
from pymesh.control.translate import Translation, translate
from pymesh.control.translate.proxy import Proxy
from pymesh.control.xds import pb
from pymesh.control.xds.cache import ResourceCache
from pymesh.control.xds.layers import Layered

Encoded = dict[tuple[str, str], bytes]


def one(version: str, kind: str, name: str, labels: Any = None, **fields: Any) -> Resource:
    report = Report()
    meta = {"name": name, "namespace": "shop", "labels": labels or {}}
    made = load_object({"apiVersion": version, "kind": kind, "metadata": meta, **fields}, report)
    assert made is not None, report.diagnostics
    return made


def service(name: str, **more: Any) -> Resource:
    ports = [{"name": "http", "port": 80, "targetPort": 8080}, {"name": "tcp-data", "port": 7000}]
    spec = {"selector": {"app": name}, "clusterIP": f"10.96.0.{len(name)}", "ports": ports, **more}
    return one("v1", "Service", name, spec=spec)


def slices(owner: str, *addresses: str, number: int = 0) -> Resource:
    endpoints = [
        {"addresses": [each], "nodeName": f"n{each[-1]}", "targetRef": {"kind": "Pod", "name": f"{owner}-{each[-1]}"}}
        for each in addresses
    ]
    return one(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        f"{owner}-{number}",
        {"kubernetes.io/service-name": owner},
        addressType="IPv4",
        ports=[{"name": "http", "port": 8080}, {"name": "tcp-data", "port": 7000}],
        endpoints=endpoints,
    )


def pod(owner: str, number: int, **labels: str) -> Resource:
    return one("v1", "Pod", f"{owner}-{number}", {"app": owner, **labels}, spec={"serviceAccountName": owner})


ROUTES = {
    "hosts": ["cart"],
    "http": [
        {"match": [{"sourceLabels": {"version": "v2"}}], "route": [{"destination": {"host": "web"}}]},
        {"route": [{"destination": {"host": "cart", "subset": "v1"}}]},
    ],
}
RULE = {
    "host": "cart",
    "subsets": [{"name": "v1", "labels": {"version": "v1"}}],
    "trafficPolicy": {
        "outlierDetection": {"consecutive5xxErrors": 5},
        "loadBalancer": {"localityLbSetting": {"failoverPriority": ["rack", "version"]}},
    },
}
MESH = (
    service("web"),
    service("cart"),
    one("networking.istio.io/v1", "VirtualService", "cart", spec=ROUTES),
    one("networking.istio.io/v1", "DestinationRule", "cart", spec=RULE),
)
MOVING = (
    slices("cart", "10.1.0.1", "10.1.0.2"),
    slices("cart", "10.1.0.3", number=1),
    slices("web", "10.1.0.4"),
    pod("cart", 1, version="v1", rack="a"),
    pod("cart", 2, version="v2", rack="b"),
    pod("web", 4, **{"security.istio.io/tlsMode": "istio"}),
)


def proxies() -> list[Proxy]:
    found = []
    for app, version, rack in (("web", "v1", "a"), ("web", "v2", "a"), ("cart", "v1", "a"), ("cart", "v2", "")):
        for place in (Locality(), Locality("eu", "eu-1")):
            labels = {"app": app, "version": version, **({"rack": rack} if rack else {})}
            name = f"{app}-{len(found)}"
            found.append(
                Proxy("sidecar", f"10.1.0.{len(found)}", name, "shop", labels, interception="REDIRECT", locality=place)
            )
    return found


def store_of(*resources: Resource) -> Store:
    report = Report()
    made = assemble(resources, MeshOptions(), report)
    assert not report.failed, report.diagnostics
    return made


#: By the proxy that it is of: a mesh holds what was made for those that are connected.
HELD: dict[str, Translation] = {}


def encoded(store: Store, proxy: Proxy) -> Encoded:
    made = HELD[proxy.name] = translate(store, proxy)
    return {(url, name): pb.encode(each) for url, named in made.messages.items() for name, each in named.items()}


def alone(resources: tuple[Resource, ...], proxy: Proxy) -> Encoded:
    held = HELD.get(proxy.name)
    found = encoded(store_of(*resources), proxy)
    if held is not None:
        HELD[proxy.name] = held
    return found


def test_together_is_the_same_as_alone() -> None:
    together = store_of(*MESH, *MOVING)
    for proxy in proxies():
        assert encoded(together, proxy) == alone((*MESH, *MOVING), proxy), proxy.name
    outbound = [found for key, found in together.memo.items() if isinstance(key, tuple) and key[0] == "outbound"]
    assert 2 < sum(map(len, outbound)) < len(proxies()), "some have it in common, and not all"


def test_only_labels_that_were_asked_for_tell_proxies_apart() -> None:
    together = store_of(service("web"), service("cart"))
    first, *others = proxies()
    for proxy in (first, *others[1::2]):
        encoded(together, proxy)
    (outbound,) = (found for key, found in together.memo.items() if isinstance(key, tuple) and key[0] == "outbound")
    assert len(outbound) == 1


def test_a_refreshed_store_is_the_same_as_a_new_one() -> None:
    rng = random.Random(7)
    now: dict[str, Resource] = {each.at.file: each for each in (*MESH, *MOVING)}
    store = store_of(*now.values())
    basis = Basis(list(now.values()))
    changes: list[tuple[Resource | None, str]] = []
    for turn in range(30):
        owner = rng.choice(["cart", "web"])
        addresses = [f"10.1.{turn}.{last}" for last in rng.sample(range(1, 6), rng.randrange(4))]
        moved: Resource | None = slices(owner, *addresses, number=rng.randrange(2))
        if rng.random() < 0.3:
            moved = pod(owner, rng.randrange(1, 6), version=rng.choice(["v1", "v2"]), rack=rng.choice("ab"))
        assert moved is not None
        file = moved.at.file
        gone = now.pop(file, None)
        if rng.random() < 0.8 or gone is None:
            now[file] = moved
        changes.append((now.get(file), file))
        fresh = refreshed(store, basis, [(gone, now.get(file))])
        assert fresh is not None
        store = fresh
        if rng.random() < 0.3:
            continue  # nobody asks in between
        for proxy in proxies():
            assert encoded(store, proxy) == alone(tuple(now.values()), proxy), (turn, proxy.name)


def test_more_than_endpoints_is_not_refreshed() -> None:
    store = store_of(*MESH, *MOVING)
    assert refreshed(store, Basis([*MESH, *MOVING]), [(MESH[0], None)]) is None
    headless = service("web", clusterIP="None")
    store = store_of(headless, slices("web", "10.1.0.4"))
    moved = slices("web", "10.1.0.5")
    assert refreshed(store, Basis([headless]), [(None, moved)]) is None, "its endpoints are in listeners as well"


def test_tables_are_those_of_the_messages_and_stay_where_nothing_changed() -> None:
    cache, plain = ResourceCache(), ResourceCache()
    store = store_of(*MESH, *MOVING)
    proxy = proxies()[0]
    messages = translate(store, proxy).messages
    assert all(isinstance(named, Layered) for named in messages.values())
    first = cache.snapshot(messages)
    whole = plain.snapshot({url: dict(named) for url, named in messages.items()})
    for url, table in first.items():
        assert {name: each.version for name, each in table.resources.items()} == {
            name: each.version for name, each in whole[url].resources.items()
        }
        assert list(table.resources) == sorted(table.resources)
    moved = slices("cart", "10.1.0.1", "10.1.0.9")
    fresh = refreshed(store, Basis([*MESH, *MOVING]), [(MOVING[0], moved)])
    assert fresh is not None
    second = cache.snapshot(translate(fresh, proxy).messages, first)
    same = {url for url in first if second[url] is first[url]}
    assert same == {pb.LISTENER, pb.ROUTES, pb.CLUSTER, pb.SECRET}
    changed = {
        name for name, each in second[pb.ENDPOINTS].resources.items() if first[pb.ENDPOINTS].resources[name] is not each
    }
    assert changed == {name for name in first[pb.ENDPOINTS].resources if "||cart" in name}
