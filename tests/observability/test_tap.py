"""`pymesh tap` on the shop: a request as each proxy on its way sees it, live, to as many as may look."""

from __future__ import annotations

import http.client
import json
import subprocess
from collections import Counter
from typing import Any

from tests.e2e.test_shop import PYMESH
from tests.proxy.running import eventually
from tests.tools.shop import Shop
from tests.tools.wire.client import fetch
from tests.tools.wire.message import Request


def test_a_request_is_shown_by_every_proxy_on_its_way(shop: Shop) -> None:
    words = [*PYMESH, "tap", "--admin", shop.admin, "-o", "json", "-t", "60"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd="/") as tap:
        found: list[Any] = []
        assert tap.stdout is not None
        # It looks once the first line is there: the shop's traffic makes some.
        found.append(json.loads(tap.stdout.readline()))
        headers = [("x-request-id", "of-this-test")]
        answer = fetch(shop.gateway, Request("GET", "/products/2", "shop.example", headers), b"")
        assert answer.status == 200
        reached = "reviews-v2.shop" if "stars" in json.loads(answer.body)["reviews"] else "reviews-v1.shop"
        wanted = {("ingress.shop", "out"), ("web.shop", "in"), ("web.shop", "out"), (reached, "in")}
        seen: dict[tuple[str, str], Any] = {}
        while not wanted <= seen.keys():
            line = json.loads(tap.stdout.readline())
            if line.get("path", "").endswith("/2") and line["request_id"]:
                way = str(line["upstream_cluster"]).partition("|")[0].replace("bound", "")
                seen[line["proxy"], way] = line
        tap.terminate()
    for (proxy, way), line in seen.items():
        assert line["response_code"] == 200, line
        assert line["response_flags"] == "-"
        assert line["duration"] >= 0
        if way == "in":
            assert line["downstream_peer"].startswith("spiffe://cluster.local/ns/shop/sa/"), (proxy, line)


def test_what_is_wanted_is_chosen_and_counted(shop: Shop) -> None:
    found = shop.pymesh("tap", "web", "--direction", "in", "--path", "/products", "-c", "5").splitlines()
    assert len(found) == 5, found
    assert all("  web.shop   in  GET " in line and "  200  " in line for line in found), found
    assert shop.pymesh("tap", "web", "--failed", "-t", "0.5") == ""
    # A page that nobody has.
    fetch_failing = subprocess.Popen(
        [*PYMESH, "tap", "ingress", "--status", "4xx", "-c", "1", "--admin", shop.admin],
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
    )
    with fetch_failing as tap:

        def is_shown() -> bool:
            fetch(shop.gateway, Request("GET", "/products/none", "shop.example"), b"")
            return tap.poll() is not None

        is_told = eventually(is_shown, 30)
        tap.terminate()
        assert is_told
        assert tap.stdout is not None
        assert "/products/none  404" in tap.stdout.read()
    assert "hint: did you mean 'web.shop'" in shop.pymesh("tap", "wep.shop", code=1)


def test_many_may_look_and_too_many_are_refused(shop: Shop) -> None:
    address = shop.proxies["catalog-0.shop"]
    told = Counter[int]()
    open_ = [http.client.HTTPConnection(address, timeout=20) for _ in range(20)]
    try:
        for one in open_:
            one.request("GET", "/tap")
            told[one.getresponse().status] += 1
    finally:
        for one in open_:
            one.close()
    assert told == {200: 16, 503: 4}

    def is_free() -> bool:
        one = http.client.HTTPConnection(address, timeout=20)
        try:
            one.request("GET", "/tap")
            return one.getresponse().status == 200
        finally:
            one.close()

    # Who has gone makes room.
    assert eventually(is_free, 20)
