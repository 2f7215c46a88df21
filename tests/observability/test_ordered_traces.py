"""Traces of the whole shop, ordered by a Telemetry resource while it runs, in a real OpenTelemetry Collector."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.observability.collector import Collector, Span, collecting
from tests.proxy.running import eventually
from tests.tools.shop import Shop

#: Half of the shop's own traffic is enough; who says in `traceparent` that a trace is wanted gets all of it.
TELEMETRY = """
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: traces, namespace: istio-system}
spec:
  tracing:
    - providers: [{name: otel}]
      randomSamplingPercentage: 50
      customTags: {shift: {literal: {value: night}}, user: {header: {name: x-user, defaultValue: nobody}}}
"""
SERVICES = {"ingress.shop", "web.shop", "catalog.shop", "reviews.shop", "ratings.shop"}


@pytest.fixture
def telemetry(shop: Shop) -> Iterator[Path]:
    """The resource, for as long as the test runs."""
    file = shop.edit("gateway.yaml", lambda text: text).with_name("telemetry.yaml")
    file.write_text(TELEMETRY)
    yield file
    file.unlink(missing_ok=True)


def _ask(shop: Shop, trace: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", shop.gateway, timeout=20)
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01", "x-user": "ann"}
    connection.request("GET", "/products/1", headers=headers)
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    answer.read()
    connection.close()


def _whole(spans: list[Span]) -> bool:
    """A request to the gateway, seen as far as the reviews (or the ratings, if version 2 asks them)."""
    return {"ingress.shop", "web.shop", "catalog.shop", "reviews.shop"} <= {one.service for one in spans}


def test_traces_come_and_go_with_a_telemetry(shop: Shop, collector: Collector, telemetry: Path) -> None:
    with collecting(collector):

        def telling() -> set[str]:
            return {one.service for one in collector.spans()}

        # Every proxy hears of it in its own time.
        assert eventually(lambda: telling() >= SERVICES, 60), telling()

        trace = "4bf92f3577b34da6a3ce929d0e0e4736"
        _ask(shop, trace)
        assert eventually(lambda: _whole(collector.spans(trace)), 30), [str(one) for one in collector.spans(trace)]
        spans = collector.spans(trace)
        by_id = {one.id: one for one in spans}
        [first] = [one for one in spans if one.parent == "00f067aa0ba902b7"]
        assert (first.service, first.kind, first.attributes["http.status_code"]) == ("ingress.shop", "SERVER", "200")
        assert all(one is first or one.parent in by_id for one in spans), [str(one) for one in spans]
        # Who asks is the parent of who is asked.
        edges = {(by_id[one.parent].service, one.service) for one in spans if one is not first}
        assert edges >= {
            ("ingress.shop", "web.shop"),
            ("web.shop", "catalog.shop"),
            ("web.shop", "reviews.shop"),
        }
        assert {one.attributes.get("shift") for one in spans} == {"night"}
        assert {one.attributes.get("user") for one in spans} == {"ann"}

        telemetry.unlink()

        def is_silent() -> bool:
            known = len(collector.spans())
            _ask(shop, trace)
            return not eventually(lambda: len(collector.spans()) > known, 2)

        assert eventually(is_silent, 60)
