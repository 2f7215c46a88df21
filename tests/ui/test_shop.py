"""What a person sees of the shop: the mesh, live, in Chromium."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Callable
from itertools import combinations
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Page, expect

from tests.proxy.running import eventually
from tests.ui.conftest import PATIENCE, Open, Shop

Keep = Callable[[Page, str], None]
EDGES = {
    ("ingress", "web v1"),
    ("web v1", "catalog v1"),
    ("web v1", "reviews v1"),
    ("web v1", "reviews v2"),
    ("reviews v2", "ratings v1"),
}


def rows(page: Page, table: str) -> list[list[str]]:
    """The text of a table's cells."""
    found: list[list[str]] = page.get_by_role("table", name=table, exact=True).evaluate(
        "table => [...table.tBodies[0].rows].map(row => [...row.cells].map(cell => cell.innerText.trim()))"
    )
    return found


def flowing(page: Page) -> bool:
    """Whether every connection of the shop is shown, with requests on it."""
    if page.get_by_role("table", name="Connections", exact=True).count() == 0:
        return False
    shown = {
        (source, target): float(rate) for source, target, rate, *_ in rows(page, "Connections") if rate[0].isdigit()
    }
    return shown.keys() == EDGES and all(rate > 0 for rate in shown.values())


def seen(page: Page) -> Any:
    return page.evaluate("() => pymeshGraph.seen")


def overlapping(view: Any) -> list[tuple[str, str]]:
    """Labels that hide each other or a node."""
    boxes = [(one["id"], one["box"]) for one in view["labels"]]
    boxes += [(one["id"], {"x": one["x"], "y": one["y"], "width": 152, "height": 50}) for one in view["nodes"]]
    return [
        (first, second)
        for (first, a), (second, b) in combinations(boxes, 2)
        if abs(a["x"] - b["x"]) * 2 < a["width"] + b["width"] and abs(a["y"] - b["y"]) * 2 < a["height"] + b["height"]
    ]


def test_the_graph_is_live_with_rates_and_locks(shop: Shop, open_page: Open, keep: Keep) -> None:
    page = open_page(shop.base)
    assert eventually(lambda: flowing(page), PATIENCE)
    assert eventually(lambda: all(row[6] == "mutual TLS" for row in rows(page, "Connections")), PATIENCE)
    assert {row[3] for row in rows(page, "Connections")} == {"100%"}
    assert all(row[5].endswith(("ms", "s")) for row in rows(page, "Connections"))
    view = seen(page)
    assert {one["id"] for one in view["nodes"]} == {
        *("shop/ingress", "shop/web/v1", "shop/catalog/v1", "shop/reviews/v1", "shop/reviews/v2", "shop/ratings/v1")
    }
    assert len(view["labels"]) == len(EDGES)
    assert overlapping(view) == []
    layouts = page.evaluate("() => pymeshGraph.layouts")
    for _ in range(2):
        before = rows(page, "Connections")
        assert eventually(lambda: rows(page, "Connections") != before, PATIENCE)  # noqa: B023
    # Numbers move, nodes do not.
    assert page.evaluate("() => pymeshGraph.layouts") == layouts
    assert seen(page)["nodes"] == view["nodes"]
    keep(page, "graph")


def test_a_service_has_its_golden_signals(shop: Shop, open_page: Open, keep: Keep) -> None:
    page = open_page(shop.base, "/ui/#/services/shop/reviews")
    expect(page.get_by_role("heading", name="reviews", level=1)).to_be_visible()
    expect(page.get_by_text("2 of 2 proxies connected")).to_be_visible()
    for signal in ("Traffic", "Errors", "Latency", "Saturation"):
        expect(page.locator("figure", has_text=signal).locator("canvas")).to_be_visible()
    expect(page.locator("figure", has_text="Traffic").locator("strong")).to_have_text(re.compile(r"[1-9][\d.]*/s"))
    expect(page.locator("figure", has_text="Latency").locator("strong")).to_have_text(re.compile(r"[\d.]+ m?s"))
    assert [row[0] for row in rows(page, "Versions")] == ["v1", "v2"]
    assert {row[0] for row in rows(page, "Called by")} == {"web v1 to v1", "web v1 to v2"}
    assert [row[0] for row in rows(page, "Calls")] == ["ratings v1"]
    assert [row[0] for row in rows(page, "Answers")] == ["200"]
    drawn = "canvas => new Set(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data).size > 8"
    assert eventually(
        lambda: bool(page.locator("figure", has_text="Traffic").locator("canvas").evaluate(drawn)), PATIENCE
    )
    # What was counted before this page was opened is there when it is opened again.
    assert eventually(lambda: len(history(shop, "reviews")["at"]) > 5, PATIENCE)
    assert len({len(values) for values in history(shop, "reviews").values()}) == 1
    keep(page, "service")


def history(shop: Shop, service: str) -> Any:
    return json.loads(asked(shop, f"/api/v1/services/shop/{service}/history").read())


def test_all_services_are_listed(shop: Shop, open_page: Open, keep: Keep) -> None:
    page = open_page(shop.base, "/ui/#/services")
    names = ["catalog", "ingress", "ratings", "reviews", "web"]
    assert eventually(lambda: [row[0] for row in rows(page, "Services")] == names, PATIENCE)
    page.get_by_role("button", name="Requests/s").click()
    assert eventually(lambda: rows(page, "Services")[-1][0] == "ratings", PATIENCE)
    keep(page, "services")
    page.get_by_label("Filter by name").fill("rat")
    assert eventually(lambda: [row[0] for row in rows(page, "Services")] == ["ratings"], PATIENCE)
    page.get_by_role("link", name="ratings").click()
    expect(page.get_by_role("heading", name="ratings", level=1)).to_be_visible()


def test_broken_configuration_is_shown_with_its_place(shop: Shop, open_page: Open, keep: Keep) -> None:
    page = open_page(shop.base, "/ui/#/configuration")
    expect(page.get_by_text("All files are in force")).to_be_visible()
    assert ["VirtualService", "shop", "reviews"] in [row[:3] for row in rows(page, "Resources in force")]
    broken = shop.config / "broken.yaml"
    broken.write_text("apiVersion: v1\nkind: Service\nmetadata: {name: broken}\nspec:\n  portz: []\n")
    try:
        finding = page.get_by_role("listitem").filter(has_text="portz")
        expect(finding).to_contain_text(f"{broken}:5:3")
        expect(finding).to_contain_text("did you mean 'ports'?")
        expect(page.get_by_text("The newest files are refused.")).to_be_visible()
        expect(page.get_by_role("navigation", name="Pages").get_by_label(re.compile("problems"))).to_be_visible()
        keep(page, "configuration-broken")
    finally:
        broken.unlink()
    expect(page.get_by_text("All files are in force")).to_be_visible()
    expect(page.get_by_role("listitem").filter(has_text="portz")).to_have_count(0)
    keep(page, "configuration")


def test_proxies_are_shown_with_what_they_acknowledged(shop: Shop, open_page: Open, keep: Keep) -> None:
    page = open_page(shop.base, "/ui/#/proxies")
    assert eventually(lambda: [row[2] for row in rows(page, "Proxies")] == ["SYNCED"] * 7, PATIENCE)
    page.get_by_role("row").filter(has_text="web.shop").click()
    expect(page.get_by_text("spiffe://cluster.local/ns/shop/sa/web")).to_be_visible()
    types = {row[0]: row for row in rows(page, "Types")}
    assert types.keys() == {"CDS", "EDS", "LDS", "RDS", "SDS"}
    assert all(row[2] == row[3] != "–" and row[4] == "–" for row in types.values())
    keep(page, "proxies")


def test_dark_mode_follows_the_system_and_the_switch(shop: Shop, open_page: Open, keep: Keep) -> None:
    def is_dark(page: Page) -> bool:
        colour = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour))) < 200

    page = open_page(shop.base, color_scheme="dark")
    assert is_dark(page)
    assert eventually(lambda: flowing(page), PATIENCE)
    keep(page, "graph-dark")
    page.emulate_media(color_scheme="light")
    assert eventually(lambda: not is_dark(page), PATIENCE)
    page.get_by_role("button", name="Theme: system").click()
    assert is_dark(page)
    page.reload()
    assert is_dark(page)
    page.get_by_role("button", name="Theme: dark").click()
    assert not is_dark(page)
    page.get_by_role("button", name="Theme: light").click()
    expect(page.get_by_role("button", name="Theme: system")).to_be_visible()


def test_everything_is_reached_by_keyboard(shop: Shop, open_page: Open, keep: Keep) -> None:
    page = open_page(shop.base)
    assert eventually(lambda: flowing(page), PATIENCE)

    def focused() -> str:
        text: str = page.evaluate(
            "() => (document.activeElement.ariaLabel || document.activeElement.innerText).split('\\n')[0].trim()"
        )
        return text

    page.keyboard.press("Tab")
    assert focused() == "Skip to the page"
    path = []
    while not path or not path[-1].startswith("ingress"):
        page.keyboard.press("Tab")
        path.append(focused())
        assert len(path) < 40, path
    assert path[:5] == ["pymesh", "Graph", "Services", "Configuration", "Proxies"]
    assert {"Zoom in", "Fit", "Arrange", "Filter by name"} <= set(path)
    # In the table the arrows go from row to row, and the graph shows what the row is about.
    page.keyboard.press("ArrowDown")
    assert focused().startswith("reviews v2")
    expect(page.get_by_label("Details")).to_contain_text("ratings v1")
    keep(page, "keyboard")
    page.keyboard.press("End")
    assert focused().startswith("web v1")
    page.keyboard.press("Home")
    assert focused().startswith("ingress")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="web", level=1)).to_be_visible()


def test_the_browser_is_told_what_it_may_do(shop: Shop) -> None:
    for path, kind in (("/ui/", "text/html; charset=utf-8"), ("/ui/app.js", "text/javascript; charset=utf-8")):
        answer = asked(shop, path)
        assert (answer.status, answer.headers["content-type"]) == (200, kind)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    for path in ("/ui/../app.py", "/ui/%2e%2e/app.py", "/ui/..%2f__init__.py", "/ui/__init__.py", "/ui/nothing"):
        assert asked(shop, path).status == 404


def test_other_hosts_are_not_answered(shop: Shop) -> None:
    for path in ("/ui/", "/api/v1/graph", "/api/v1/proxies", "/debug/configz", "/debug/config_dump", "/metrics"):
        for host in ("evil.example", "evil.example:80", ""):
            assert asked(shop, path, host).status == 421
    assert asked(shop, "/ui/", "localhost").status == 200


def asked(shop: Shop, path: str, host: str | None = None) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(urlsplit(shop.base).netloc, timeout=30)
    connection.putrequest("GET", path, skip_host=host is not None)
    if host is not None:
        connection.putheader("host", host)
    connection.putheader("connection", "close")
    connection.endheaders()
    return connection.getresponse()
