"""The access log of the whole shop as OTLP's records, ordered by a Telemetry resource while it runs."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.observability.collector import Collector, Record, collecting
from tests.proxy.running import eventually
from tests.tools.shop import Shop

#: Only what somebody looks for: the shop's own traffic would be most of it.
TELEMETRY = """
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: records, namespace: istio-system}
spec:
  accessLogging:
    - providers: [{name: records}]
      filter: {expression: "request.headers['x-looked-for'] == 'yes'"}
"""


@pytest.fixture
def telemetry(shop: Shop) -> Iterator[Path]:
    """The resource, for as long as the test runs."""
    file = shop.edit("gateway.yaml", lambda text: text).with_name("records.yaml")
    file.write_text(TELEMETRY)
    yield file
    file.unlink(missing_ok=True)


def _ask(shop: Shop, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", shop.gateway, timeout=20)
    connection.request("GET", path, headers={"x-looked-for": "yes"})
    connection.getresponse().read()
    connection.close()


def test_records_come_and_go_with_a_telemetry(shop: Shop, collector: Collector, telemetry: Path) -> None:
    with collecting(collector):

        def told(path: str) -> list[Record]:
            return [record for record in collector.records() if record.body.startswith(f"GET {path} ")]

        def is_told() -> bool:
            _ask(shop, "/products/1")
            return bool(told("/products/1"))

        # The proxy hears of it in its own time.
        assert eventually(is_told, 60)
        _ask(shop, "/products/2")
        assert eventually(lambda: bool(told("/products/2")), 30)
        assert {(one.body, one.attributes["code"]) for one in told("/products/2")} == {("GET /products/2 200", "200")}
        # As with Istio: none of Envoy's labels.
        assert all(not one.resource and one.attributes.keys() == {"code", "flags"} for one in collector.records())

        telemetry.unlink()

        def is_silent() -> bool:
            known = len(collector.records())
            _ask(shop, "/products/1")
            return not eventually(lambda: len(collector.records()) > known, 2)

        assert eventually(is_silent, 60)
