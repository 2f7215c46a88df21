"""From counts to the picture."""

from __future__ import annotations

import json

from pymesh.control.live.graph import picture
from pymesh.control.live.inventory import Inventory, Known, KnownService
from pymesh.control.live.samples import Counts, End, Link
from pymesh.control.live.window import Tick, Total, Window

WEB, V1, V2 = End("shop", "web", "v1"), End("shop", "reviews", "v1"), End("shop", "reviews", "v2")
KNOWN = Inventory.of(
    [
        Known("shop", "ingress", "ingress", "", "ingress", is_gateway=True, is_connected=True),
        Known("shop", "web-0", "web", "v1", "web", is_connected=True),
        Known("shop", "reviews-1", "reviews", "v1", "reviews"),
        Known("shop", "reviews-2", "reviews", "v2", "reviews"),
        Known("bank", "ledger", "ledger", "v1", "ledger"),
    ],
    [
        KnownService("shop", "web", "web.shop.svc.cluster.local", apps=("web",)),
        KnownService("shop", "opinions", "opinions.shop.svc.cluster.local", apps=("reviews",)),
        KnownService("bank", "api", "api.bank.example", is_external=True),
    ],
)


def sent(source: End, destination: End, service: str = "", host: str = "", namespace: str = "shop") -> Link:
    return Link("source", source, destination, (namespace if service else "", service), host, "http", "unknown", "")


def received(destination: End, account: str | None, namespace: str = "shop") -> Link:
    principal = f"spiffe://cluster.local/ns/{namespace}/sa/{account}" if account else ""
    security = "mutual_tls" if account else "none"
    return Link("destination", End("", ""), destination, ("", ""), "", "http", security, principal)


def counts(requests: float, failed: float = 0) -> Counts:
    return Counts(requests, failed, {10.0: requests, float("inf"): requests}, {"200": requests - failed, "503": failed})


def made(links: dict[Link, Counts], seconds: float = 10.0) -> dict[str, dict[str, dict[str, object]]]:
    state = picture(Total(0, seconds, links, {("shop", "reviews-2"): 3}), KNOWN)
    json.dumps(state)
    return state


def test_edges_are_what_the_callers_tell() -> None:
    state = made({sent(WEB, V1): counts(100), sent(WEB, V2): counts(50, 5), received(V1, "web"): counts(99)})
    assert state["edges"]["shop/web/v1>shop/reviews/v1"]["rate"] == 10
    second = state["edges"]["shop/web/v1>shop/reviews/v2"]
    assert (second["rate"], second["success"], second["p99"]) == (5, 0.9, 9.9)
    assert state["services"]["shop/reviews"]["rate"] == 15
    assert state["services"]["shop/reviews"]["answers"] == {"200": 14.5, "503": 0.5}
    assert state["services"]["shop/reviews"]["versions"] == ["v1", "v2"]
    assert state["nodes"]["shop/reviews/v2"]["inFlight"] == 3
    assert state["namespaces"]["shop"]["services"] == 3


def test_a_lock_is_what_the_called_proxy_saw_of_the_callers_identity() -> None:
    links = {sent(WEB, V1): counts(9), sent(WEB, V2): counts(9), sent(V2, End("bank", "ledger", "v1")): counts(9)}
    links |= {received(V1, "web"): counts(9), received(V2, None): counts(9)}
    edges = made(links)["edges"]
    assert {key: edge["mtls"] for key, edge in edges.items()} == {
        "shop/web/v1>shop/reviews/v1": "mutual_tls",
        "shop/web/v1>shop/reviews/v2": "none",
        "shop/reviews/v2>bank/ledger/v1": "unknown",
    }


def test_both_ways_at_once_are_told_and_what_is_past_gives_way_to_what_is() -> None:
    key = "shop/web/v1>shop/reviews/v1"
    plain = received(V1, "web")._replace(security="none")
    assert (
        made({sent(WEB, V1): counts(9), received(V1, "web"): counts(5), plain: counts(4)})["edges"][key]["mtls"]
        == "mixed"
    )
    assert (
        made({sent(WEB, V1): counts(9), received(V1, "web"): counts(9), plain: Counts()})["edges"][key]["mtls"]
        == "mutual_tls"
    )


def test_callers_that_tell_nothing_are_known_by_whom_they_call() -> None:
    edges = made({received(V1, "web"): counts(10), received(V2, None): counts(20)})["edges"]
    assert edges["shop/web/v1>shop/reviews/v1"]["rate"] == 1
    assert edges["/outside the mesh>shop/reviews/v2"]["rate"] == 2
    assert len(edges) == 2


def test_requests_that_reached_nobody_are_at_whom_they_were_for() -> None:
    nobody = End("", "")
    state = made(
        {
            sent(WEB, nobody, "opinions"): counts(10, 10),
            sent(WEB, nobody): counts(10),
            sent(WEB, nobody, "api", "api.bank.example", "bank"): counts(10),
            sent(WEB, nobody, host="else.example"): counts(10),
        }
    )
    kinds = {key: state["nodes"][key.partition(">")[2]]["kind"] for key in state["edges"]}
    assert kinds == {
        "shop/web/v1>shop/reviews": "service",
        "shop/web/v1>/no route": "unknown",
        "shop/web/v1>bank/api": "external",
        "shop/web/v1>/else.example": "external",
    }


def test_a_gateways_signals_are_those_of_what_it_sends() -> None:
    state = made({sent(End("shop", "ingress"), WEB): counts(40, 4)})
    assert state["services"]["shop/ingress"]["rate"] == 4
    assert state["services"]["shop/ingress"]["success"] == 0.9
    assert state["nodes"]["shop/ingress"]["kind"] == "gateway"


def test_what_nobody_calls_is_there_all_the_same() -> None:
    state = made({}, 0)
    assert set(state["nodes"]) == {
        *("shop/ingress", "shop/web/v1", "shop/reviews/v1", "shop/reviews/v2", "bank/ledger/v1", "bank/api"),
    }
    assert state["services"]["shop/web"]["rate"] is None


def test_a_window_forgets_and_its_rate_is_by_the_time_that_passed() -> None:
    window, link = Window(), sent(WEB, V1)
    for number in range(15):
        total = window.add(Tick(number, 2.0, {link: counts(20)}))
    assert (total.seconds, total.links[link].requests) == (10.0, 100)
    total = window.add(Tick(16, 30.0, {link: counts(3)}))
    assert (total.seconds, total.links[link].requests) == (30.0, 3)
