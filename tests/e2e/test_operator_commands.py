"""The operator's commands on the shop as it runs: real proxies, one of them a real Envoy."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from pymesh.operate.mesh import page
from tests.e2e.test_shop import SHOP
from tests.proxy.running import eventually
from tests.tools.shop import Shop, running_shop
from tests.tools.wire.client import fetch
from tests.tools.wire.message import Request

#: Accepted by the control plane; its automaton is larger than our proxy lets one become.
HUGE = "/(a{1000}){1000}"
WORKLOADS = ("catalog-0", "catalog-1", "ingress", "ratings", "reviews-v1", "reviews-v2", "web")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """The second version of the reviews stands behind Envoy. Every proxy has two workers."""
    with running_shop(
        tmp_path_factory.mktemp("shop"), words=["--envoy", "reviews-v2", "--concurrency", "2"]
    ) as running:
        yield running


def test_every_proxy_runs_what_it_was_sent_on_all_of_its_workers(shop: Shop) -> None:
    def are_in_sync() -> bool:
        states = {one["name"]: one for one in shop.json("proxy-status")}
        assert sorted(states) == [f"{name}.shop" for name in WORKLOADS]
        return all(kind["state"] != "STALE" for one in states.values() for kind in one["types"].values())

    assert eventually(are_in_sync, 30), shop.pymesh("proxy-status")
    for one in shop.json("proxy-status"):
        if one["name"] == "reviews-v2.shop":
            assert one["workers"] is None
            assert "not pymesh's own proxy" in one["unknown"]
            continue
        assert one["workers"]["current"] == one["workers"]["total"] == 2
        for kind in one["types"].values():
            if kind["state"] == "SYNCED":
                assert kind["effective"] == kind["acknowledged"]["nonce"] == kind["sent"]["nonce"] != ""
    table = shop.pymesh("proxy-status")
    assert re.search(r"^web\.shop +SYNCED +SYNCED +SYNCED +SYNCED +SYNCED +(\d+)/\1 +pymesh/", table, re.MULTILINE)


def test_the_mesh_that_runs_here_is_found(shop: Shop) -> None:
    """As README has it: without an address."""
    assert re.search(r"^web\.shop +", shop.untold("proxy-status"), re.MULTILINE)
    assert "no proxy" not in shop.untold("stat", "edges", "-t", "1")


def test_a_refusal_is_told_with_the_users_line(shop: Shop) -> None:
    rule = "    - route: [{destination: {host: catalog}}]\n"
    broken = f'    - match: [{{uri: {{regex: "{HUGE}"}}}}]\n      route: [{{destination: {{host: catalog}}}}]\n'
    before = shop.edit("catalog.yaml", lambda text: text.replace(rule, broken + rule))
    line = before.read_text().splitlines().index(broken.splitlines()[0]) + 1
    try:
        assert eventually(lambda: shop.state("web", "RDS") == "STALE", 20)
        told = shop.pymesh("proxy-status")
        assert "RDS of web.shop: refused; what was good before stays in force" in told
        assert "match.safe_regex.regex: Compiled regex exceeds size limit" in told
        assert f"VirtualService shop/catalog at {before}:{line}:7" in told
        (problem,) = shop.json("proxy-status", "web")["types"]["RDS"]["problems"]
        assert problem["objects"][0]["at"] == f"{before}:{line}:7"
    finally:
        shop.edit("catalog.yaml", lambda text: text.replace(broken, ""))
    assert eventually(lambda: shop.state("web", "RDS") == "SYNCED", 20), shop.pymesh("proxy-status")


def test_a_listener_that_cannot_be_opened_is_not_in_force(shop: Shop) -> None:
    port = shop.admin.rpartition(":")[2]
    extra = f"""apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: extra, namespace: shop}}
spec:
  selector: {{istio: ingressgateway}}
  servers: [{{port: {{number: {port}, name: http-x, protocol: HTTP}}, bind: 127.0.0.1, hosts: [x.example]}}]
"""
    (config,) = (one.parent for one in (shop.folder / "config").rglob("gateway.yaml"))
    file = config / "extra.yaml"
    file.write_text(extra)
    try:
        assert eventually(lambda: shop.state("ingress", "LDS") == "STALE", 20), shop.pymesh("proxy-status")
        told = shop.pymesh("proxy-status", "ingress")
        assert "LDS: not opened" in told
        assert "Address already in use" in told
        assert f"Gateway shop/extra at {file}:6:13" in told
    finally:
        file.unlink()
    assert eventually(lambda: shop.state("ingress", "LDS") == "SYNCED", 20), shop.pymesh("proxy-status")


STUCK = """import time
from pathlib import Path

from pymesh.filters import HttpFilter, When


class Stuck(HttpFilter):
    when = (When(":path", "prefix", "/stuck"),)

    def on_request_headers(self, request, ctx):
        while not Path({release!r}).exists():
            time.sleep(0.02)
"""


def test_what_one_worker_does_not_run_yet_is_not_in_force(shop: Shop, tmp_path: Path) -> None:
    """A filter holds up a worker: a change is acknowledged at once, and in sync once every worker runs it."""
    (config,) = (one.parent for one in (shop.folder / "config").rglob("gateway.yaml"))
    release, file, resource = tmp_path / "release", config / "stuck.py", config / "stuck.yaml"
    file.write_text(STUCK.format(release=str(release)))
    resource.write_text(
        "apiVersion: extensions.pymesh.dev/v1alpha1\nkind: PythonFilter\nmetadata: {name: stuck, namespace: shop}\n"
        'spec: {selector: {matchLabels: {app: web}}, class: "stuck:Stuck", file: stuck.py, timeout: 60s}\n'
    )

    def workers() -> tuple[int, int]:
        told = shop.json("proxy-status", "web")["workers"]
        return told["current"], told["total"]

    def is_filtered() -> bool:
        return "stuck" in json.dumps(shop.json("proxy-config", "listeners", "web"))

    held = Thread(target=lambda: fetch(shop.gateway, Request("GET", "/stuck", "shop.example")))
    try:
        assert eventually(lambda: is_filtered() and shop.state("web", "LDS") == "SYNCED", 20)
        current, total = workers()
        assert current == total == 2
        held.start()
        assert eventually(lambda: "filters.blocked: 1" in shop.page("/stats", "web.shop"), 20)
        shop.edit("reviews.yaml", lambda text: text.replace("weight: 80", "weight: 79"))
        assert eventually(lambda: workers() == (total - 1, total), 20), shop.pymesh("proxy-status")
        assert shop.state("web", "RDS") == "STALE"
        told = shop.pymesh("proxy-status", "web")
        assert f"RDS: in force on {total - 1}/{total} workers" in told
        release.touch()
        assert eventually(lambda: workers() == (total, total) and shop.state("web", "RDS") == "SYNCED", 20)
    finally:
        release.touch()
        if held.ident is not None:
            held.join(60)
        shop.edit("reviews.yaml", lambda text: text.replace("weight: 79", "weight: 80"))
        resource.unlink()
        file.unlink()
    assert eventually(lambda: shop.state("web", "LDS") == "SYNCED" and not is_filtered(), 20)


def test_a_proxys_configuration_as_tables_and_from_a_file(shop: Shop, tmp_path: Path) -> None:
    (reviews,) = (shop.folder / "config").rglob("reviews.yaml")
    wide = shop.pymesh("proxy-config", "clusters", "web", "-o", "wide")
    assert re.search(
        rf"reviews\.shop\.svc\.cluster\.local +80 +v1 +outbound +EDS .*DestinationRule {reviews}:\d+:7", wide
    )
    routes = shop.pymesh("proxy-config", "routes", "web")
    assert "outbound|80|v1|reviews.shop.svc.cluster.local (80), outbound|80|v2|" in routes
    assert "127.0.0.1" in shop.pymesh("proxy-config", "endpoints", "web", "--name", "catalog")
    assert re.search(r"^default +Cert Chain +ACTIVE +true", shop.pymesh("proxy-config", "secrets", "web"), re.MULTILINE)
    assert "StdoutAccessLog" in shop.pymesh("proxy-config", "log", "web")
    assert shop.json("proxy-config", "bootstrap", "web")["bootstrap"]["node"]["id"].startswith("sidecar~")
    # Our words for Envoy's dump and our own, running and saved.
    for name in ("web", "reviews-v2"):
        (shown,) = (one for one in shop.json("proxy-status") if one["name"] == f"{name}.shop")
        saved = tmp_path / f"{name}.json"
        saved.write_bytes(page(shown["admin"], "/config_dump?include_eds"))
        for kind in ("listeners", "routes", "clusters"):
            from_file = shop.pymesh("proxy-config", kind, "-f", str(saved))
            assert from_file == shop.pymesh("proxy-config", kind, shown["admin"])
            assert from_file == shop.pymesh("proxy-config", kind, name)
            assert len(from_file.splitlines()) > 1
        everything = shop.pymesh("proxy-config", "all", "-f", str(saved))
        assert "ROUTES\nNAME " in everything
    assert "hint: did you mean 'reviews-v2.shop'" in shop.pymesh("proxy-config", "routes", "reviews-v3", code=1)


def test_what_applies_is_told_with_its_place(shop: Shop) -> None:
    (reviews,) = (shop.folder / "config").rglob("reviews.yaml")
    (greeter,) = (shop.folder / "config").rglob("greeter.yaml")
    told = shop.pymesh("describe", "service", "reviews", "-n", "shop")
    assert re.search(rf"rule 0: every request -> reviews v1 80%, reviews v2 20% +{reviews}:8:7", told)
    assert re.search(rf"subset v2 \(version: v2\) +{reviews}:21:7", told)
    assert "reviews-v1: STRICT, as nothing says otherwise" in told
    assert re.search(
        rf"PythonFilter shop/greeter +{greeter}:", shop.pymesh("describe", "gateway", "ingress", "-n", "shop")
    )
    assert "reviews.shop.svc.cluster.local:80 on port" in shop.pymesh("describe", "workload", "reviews-v1.shop")
    assert "hint: did you mean 'reviews'" in shop.pymesh("describe", "service", "rewievs", "-n", "shop", code=1)


def test_live_traffic_is_measured(shop: Shop) -> None:
    # `pymesh up` sends requests all the while.
    found = {one["id"]: one for one in shop.json("stat", "-n", "shop")}
    assert found["shop/reviews"]["rate"] > 0
    assert found["shop/reviews"]["success"] > 0
    assert found["shop/reviews"]["p50"] > 0
    assert re.search(r"^ingress\.shop +web@v1\.shop +mutual_tls +\d", shop.pymesh("stat", "edges"), re.MULTILINE)


def test_the_shops_resources_have_nothing_wrong(shop: Shop) -> None:
    assert shop.pymesh("analyze", str(SHOP)) == "nothing is wrong with it\n"
