"""Twenty visits of a shop in which things go wrong, and what has to hold of them under every seed."""

from __future__ import annotations

from pymesh.testing import Mesh, NoAnswerError
from tests.unit.testing.shop import AT_THE_EDGE, EVERYWHERE, shop

URL = "http://shop.test/"
SECONDS = 10.0
VISITS = 20
#: A visit is at most one request of a service, and two retries.
MOST = 3


def calm(seed: int) -> None:
    """Retries at the gateway alone."""
    with visited(AT_THE_EDGE, seed) as mesh:
        judge(mesh)


def stormy(seed: int) -> None:
    """Retries at each hop."""
    with visited(EVERYWHERE, seed) as mesh:
        judge(mesh)


def visited(routes: str, seed: int) -> Mesh:
    """The shop after ten seconds with faults, and after those."""
    mesh = shop(routes, seed=seed)
    mesh.latency(0.001, jitter=0.002)
    mesh.shake(["web", "reviews", "ratings"], within=SECONDS, faults=3)
    for _ in range(VISITS):
        mesh.at(mesh.random.uniform(0, SECONDS), mesh.send, "GET", URL, timeout=30)
    mesh.run(SECONDS + 40)
    return mesh


def judge(mesh: Mesh) -> None:
    """Nothing is lost without a word, nothing is multiplied, and all is well again afterwards."""
    assert len(mesh.sent) == VISITS
    for call in mesh.sent:
        assert call.answer.is_done, f"the visit at {call.time} has no end"
        # A client outside sees an answer even if everything behind the gateway fails.
        assert not isinstance(call.answer.error, NoAnswerError), f"the visit at {call.time} was dropped"
    for service in ("web", "reviews", "ratings"):
        arrived = len(mesh.received(service))
        assert arrived <= MOST * VISITS, f"{VISITS} visits have become {arrived} requests of {service}"
    assert mesh.get(URL).status == 200, "the mesh does not recover"
    peers = {record["peer"] for record in mesh.log("ratings") if record["status"]}
    assert peers <= {"spiffe://cluster.local/ns/shop/sa/reviews"}
