"""What translation says, seen by who asks and who answers in a simulated mesh."""

from __future__ import annotations

from tests.unit.testing.shop import shop


def test_a_host_with_its_last_dot_is_the_same_host() -> None:
    with shop() as mesh:
        assert mesh.get("http://ratings.shop.svc.cluster.local.:9080/ratings", source="reviews").status == 200
        # By its routes, over mutual TLS, and not past them.
        (record,) = mesh.log("reviews")
        assert record["cluster"] == "outbound|9080||ratings.shop.svc.cluster.local"
