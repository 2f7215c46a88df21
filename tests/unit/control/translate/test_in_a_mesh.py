"""What translation says, seen by who asks and who answers in a simulated mesh."""

from __future__ import annotations

import pytest

from pymesh.testing import Incoming
from tests.unit.testing.shop import AT_THE_EDGE, shop

RATINGS = "http://ratings:9080/ratings"
#: What the gateway has for the service that takes its time.
REPORTS = """\
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reports, namespace: shop}
spec:
  hosts: [reports.test]
  gateways: [edge]
  http: [{TIMEOUTroute: [{destination: {host: ratings, port: {number: 9080}}}]}]
"""
#: Where copies of requests for ratings go.
MIRRORED = """\
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ratings, namespace: shop}
spec:
  hosts: [ratings]
  http:
    - route: [{destination: {host: ratings}}]
      mirror: {host: web}
"""
SHADOW = "outbound|9080||web.shop.svc.cluster.local"


def test_a_host_with_its_last_dot_is_the_same_host() -> None:
    with shop() as mesh:
        assert mesh.get("http://ratings.shop.svc.cluster.local.:9080/ratings", source="reviews").status == 200
        # By its routes, over mutual TLS, and not past them.
        (record,) = mesh.log("reviews")
        assert record["cluster"] == "outbound|9080||ratings.shop.svc.cluster.local"


@pytest.mark.parametrize(
    ("minutes", "timeout", "status"),
    # Of a client out there nobody knows whether it waits still.
    [(50, "", 200), (70, "", 504), (100, "timeout: 2h, ", 200), (130, "timeout: 2h, ", 504)],
)
def test_who_takes_its_time_is_waited_for(minutes: int, timeout: str, status: int) -> None:
    async def slow(request: Incoming) -> str:
        await request.sleep(60 * minutes)
        return "done"

    with shop(AT_THE_EDGE + REPORTS.replace("TIMEOUT", timeout)) as mesh:
        mesh.service("ratings", slow)
        assert mesh.get("http://reports.test/", timeout=86400).status == status
        assert mesh.get(RATINGS, source="reviews", timeout=86400).status == 200


def test_copies_for_a_server_that_hangs_do_not_heap_up() -> None:
    async def hung(request: Incoming) -> str:
        await request.hang()
        return ""

    with shop(AT_THE_EDGE + MIRRORED) as mesh:
        mesh.service("web", hung)
        assert mesh.get(RATINGS, source="reviews").status == 200
        mesh.run(290)
        assert mesh.stats("reviews")[f"cluster.{SHADOW}.upstream_rq_active"] == 1
        mesh.run(20)
        assert mesh.stats("reviews")[f"cluster.{SHADOW}.upstream_rq_active"] == 0


def test_the_application_is_asked_whether_it_wants_a_body() -> None:
    async def says(request: Incoming) -> str:
        return request.headers.get("expect", "nothing")

    with shop() as mesh:
        mesh.service("ratings", says)
        answer = mesh.post(RATINGS, b"a long film", source="reviews", headers={"expect": "100-continue"})
        assert (answer.status, answer.text) == (200, "100-continue")
