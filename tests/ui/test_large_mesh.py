"""A mesh of 300 services, by the same collector and API: it can be read, and it does not stand in the way."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.proxy.running import eventually
from tests.ui.conftest import PATIENCE, Open
from tests.ui.synthetic import Call, SyntheticMesh, large, serving
from tests.ui.test_shop import overlapping, rows, seen

#: What takes longer than this hangs; an idle machine needs a hundredth of it.
LONGEST_MS = 30_000


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    mesh = large()
    mesh.refusals = {"team-3/service-304": "listener 0.0.0.0_15006: no such filter"}
    with serving(mesh) as address:
        yield address


def took(page: Page, action: str) -> float:
    """Milliseconds until the browser has drawn what came of it."""
    script = (
        f"async () => {{ const began = performance.now(); {action}; "
        "await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done))); "
        "return performance.now() - began }"
    )
    return float(page.evaluate(script))


def is_drawn(page: Page, nodes: Callable[[int], bool]) -> bool:
    return bool(page.evaluate("() => !!window.pymeshGraph")) and nodes(len(seen(page)["nodes"]))


def test_it_begins_with_one_namespace_that_can_be_read(base: str, open_page: Open, keep: Any) -> None:
    page = open_page(base)
    assert eventually(lambda: is_drawn(page, lambda count: count > 10), PATIENCE)
    select = page.get_by_label("Namespace")
    assert select.input_value().startswith("team-")
    assert select.locator("option").count() == 11
    # Its services, and the other namespaces as one node each.
    assert 30 <= len(seen(page)["nodes"]) < 40
    assert seen(page)["zoom"] >= 0.45
    assert eventually(lambda: len(seen(page)["labels"]) > 15, PATIENCE)
    assert overlapping(seen(page)) == []
    keep(page, "large-namespace")


def test_all_of_it_is_smooth(base: str, open_page: Open, keep: Any) -> None:
    page = open_page(base)
    assert eventually(lambda: is_drawn(page, lambda count: count > 10), PATIENCE)
    page.get_by_label("Namespace").select_option("")
    assert eventually(lambda: is_drawn(page, lambda count: count == 10), PATIENCE)
    page.wait_for_timeout(2500)
    keep(page, "large-all")
    times = {
        "zoom": took(page, "for (let i = 0; i < 4; i++) pymeshGraph.zoom(1.3)"),
        "choose": took(page, "pymeshGraph.choose({kind: 'node', id: pymeshGraph.seen.nodes[5].id})"),
        "fit": took(page, "pymeshGraph.choose(null); pymeshGraph.fit()"),
        "arrange": took(page, "pymeshGraph.layOut()"),
        "recolour": took(page, "pymeshGraph.recolour()"),
    }
    print({name: round(time) for name, time in times.items()})
    assert all(time < LONGEST_MS for time in times.values()), times
    before, places = rows(page, "Connections"), seen(page)["nodes"]
    assert eventually(lambda: rows(page, "Connections") != before, PATIENCE)
    assert seen(page)["nodes"] == places
    expect(page.get_by_text(re.compile(r"100 of \d+ shown"))).to_be_visible()
    page.get_by_role("button", name="Show all").click()
    assert eventually(lambda: len(rows(page, "Connections")) > 300, PATIENCE)
    page.get_by_label("Filter by name").fill("service-107")
    expect(page.get_by_role("table", name="Connections", exact=True)).to_be_visible()
    assert eventually(lambda: all("service-107" in "".join(row[:2]) for row in rows(page, "Connections")), PATIENCE)
    assert overlapping(seen(page)) == []


def test_a_proxy_that_refuses_is_the_first_to_be_seen(base: str, open_page: Open, keep: Any) -> None:
    page = open_page(base)
    expect(page.get_by_role("navigation", name="Pages").get_by_label("1 problem")).to_be_visible()
    page.get_by_role("link", name="Proxies").click()
    assert eventually(lambda: len(rows(page, "Proxies")) == 100, PATIENCE)
    assert [row[2] for row in rows(page, "Proxies")][:2] == ["NACK", "SYNCED"]
    page.get_by_role("row").filter(has_text="service-304").focus()
    page.keyboard.press("Enter")
    assert eventually(lambda: page.get_by_role("table", name="Types").count() == 1, PATIENCE)
    (listeners,) = rows(page, "Types")
    assert (listeners[0], listeners[2], listeners[3]) == ("LDS", "two", "one")
    assert "no such filter" in listeners[4]
    keep(page, "proxies-refused")


def test_the_page_comes_back_with_its_control_plane(open_page: Open) -> None:
    first = SyntheticMesh(["shop/web", "shop/cart"], [Call("shop/web", "shop/cart", 50)])
    second = SyntheticMesh(["shop/web", "shop/till"], [Call("shop/web", "shop/till", 50)])
    with serving(first) as address:
        page = open_page(address, tolerated="ERR_")
        assert eventually(lambda: [row[1] for row in rows(page, "Connections")] == ["cart v1"], PATIENCE)
    expect(page.get_by_text("not connected")).to_be_visible()
    with serving(second, int(address.rpartition(":")[2])):
        # Nothing is left of what was; what is there now begins anew.
        assert eventually(lambda: [row[1] for row in rows(page, "Connections")] == ["till v1"], PATIENCE)
        expect(page.get_by_text("live", exact=True)).to_be_visible()
