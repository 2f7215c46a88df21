"""A simulated mesh: what its services, its clients, its faults and its changes do, and that a seed decides it all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pymesh.testing import Answered, HangUpError, Incoming, Mesh, MeshError, NoAnswerError
from tests.unit.testing.scenario import visited
from tests.unit.testing.shop import AT_THE_EDGE, RESOURCES, route, shop

ROOT = Path(__file__).resolve().parents[3]
URL = "http://shop.test/"
RATINGS = "http://ratings:9080/ratings"

FILTER = """\
---
apiVersion: extensions.pymesh.dev/v1alpha1
kind: PythonFilter
metadata: {name: greeter, namespace: shop}
spec:
  selector: {matchLabels: {app: ratings}}
  class: greeter:Greeter
  config: {word: hello}
  source: |
    from dataclasses import dataclass
    from pymesh.filters import HttpFilter, Reply
    @dataclass
    class Settings:
        word: str
    class Greeter(HttpFilter):
        Config = Settings
        def on_request_headers(self, request, ctx):
            if request.headers.get("x-user") == "mallory":
                return Reply(403, b"not you")
            request.headers["x-greeted"] = self.config.word
            request.headers["x-peer"] = ctx.peer or "nobody"
"""

DENY = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody, namespace: shop}
spec: {selector: {matchLabels: {app: ratings}}}
"""


def test_a_visit_goes_through_everybody() -> None:
    with shop() as mesh:
        answer = mesh.get(URL)
        assert (answer.status, json.loads(answer.body)) == (200, {"reviews": {"ratings": {"stars": 5}}})
        assert [one.place for one in mesh.received()] == ["web-1.shop", "reviews-1.shop", "ratings-1.shop"]
        # Mutual TLS: the proxy of a service knows who asks.
        (record,) = mesh.log("ratings")
        assert (record["peer"], record["tls"], record["status"]) == (
            "spiffe://cluster.local/ns/shop/sa/reviews",
            "TLSv1.3",
            200,
        )
        assert mesh.stats("web")["http.inbound_0.0.0.0_9080.downstream_rq_2xx"] == 1


def test_a_workload_asks_itself() -> None:
    with shop() as mesh:
        assert mesh.get(RATINGS, source="ratings").status == 200
        # Through both sides of its proxy.
        assert [record["cluster"].split("|")[0] for record in mesh.log("ratings")] == ["inbound", "outbound"]
        assert mesh.log("ratings")[0]["peer"] == "spiffe://cluster.local/ns/shop/sa/ratings"


def test_time_is_the_latency_of_the_ways() -> None:
    with shop() as mesh:
        mesh.get(URL)  # Its connections stay.
        begun = mesh.now
        mesh.latency(0.25)
        mesh.get(URL)
        # To the gateway, with a connection of its own, and by those that are there to web, reviews, and ratings.
        assert mesh.received("ratings")[-1].time - begun == pytest.approx(4 * 0.25 + 0.002)
        assert mesh.now - begun == pytest.approx(8 * 0.25 + 0.002)


def test_applications_take_time_and_nobody_waits() -> None:
    async def slow(request: Incoming) -> str:
        first, second = request.sleep(100), request.sleep(200)
        await second
        await first
        return "late"

    begun = time.monotonic()
    with shop(route("ratings", 0, "1000s")) as mesh:
        mesh.service("ratings", slow)
        assert mesh.get(RATINGS, source="reviews", timeout=1000).text == "late"
        assert 200 <= mesh.now < 201
    assert time.monotonic() - begun < 600


def _raises(_: Incoming) -> None:
    raise ValueError("as it was told to")


def _hangs_up(_: Incoming) -> None:
    raise HangUpError


@pytest.mark.parametrize(
    ("handler", "status", "details"),
    [
        (lambda _: b"octets", 200, "via_upstream"),
        (lambda _: "text", 200, "via_upstream"),
        (lambda _: 204, 204, "via_upstream"),
        (lambda _: None, 200, "via_upstream"),
        (lambda _: [1, 2], 200, "via_upstream"),
        (lambda _: Answered(418, {"x-pot": "tea"}), 418, "via_upstream"),
        (lambda _: object(), 500, "via_upstream"),
        (_raises, 500, "via_upstream"),
        (_hangs_up, 503, "upstream_reset_before_response_started{connection_termination}"),
        (lambda request: request.hang(), 500, "via_upstream"),
    ],
)
def test_what_a_handler_gives(handler: object, status: int, details: str) -> None:
    with shop(route("ratings", 0, "5s")) as mesh:
        mesh.service("ratings", handler)  # type: ignore[arg-type]
        assert mesh.get(RATINGS, source="reviews").status == status
        assert mesh.log("ratings")[-1]["details"] == details


def test_an_application_that_hangs_costs_its_callers_patience() -> None:
    async def hangs(request: Incoming) -> None:
        await request.hang()

    with shop() as mesh:
        mesh.service("ratings", hangs)
        with pytest.raises(TimeoutError, match="no answer within 7 s"):
            mesh.get(RATINGS, source="reviews", timeout=7)
        assert mesh.now == pytest.approx(7)


def test_a_crash_and_a_restart() -> None:
    with shop(route("ratings", 0, "5s")) as mesh:
        assert mesh.get(RATINGS, source="reviews").status == 200
        mesh.crash("ratings", "application")
        assert mesh.get(RATINGS, source="reviews").status == 503
        assert len(mesh.log("ratings")) == 2  # Its proxy has answered.
        mesh.crash("ratings", "proxy")
        assert mesh.get(RATINGS, source="reviews").status == 503
        assert len(mesh.log("ratings")) == 2
        mesh.restart("ratings")
        assert mesh.get(RATINGS, source="reviews").status == 200
        assert mesh.stats("ratings")["http.inbound_0.0.0.0_9080.downstream_rq_total"] == 1  # It began anew.


def test_who_has_crashed_says_nothing() -> None:
    with shop(route("ratings", 0, "50s")) as mesh:
        mesh.slow("ratings", 10)
        mesh.send("GET", RATINGS, source="reviews")
        mesh.at(5, mesh.crash, "ratings")
        mesh.run(20)
        assert [one.place for one in mesh.log()] == ["reviews-1.shop"]


def test_who_crashes_while_it_answers_is_reset() -> None:
    with shop(route("ratings", 0, "50s")) as mesh:
        mesh.slow("ratings", 10)
        pending = mesh.send("GET", RATINGS, source="reviews")
        mesh.at(5, mesh.crash, "ratings")
        mesh.run(20)
        assert pending.result().status == 503
        assert mesh.log("reviews")[-1]["details"] == "upstream_reset_before_response_started{connection_termination}"


def test_a_partition_is_noticed_by_nobody_and_ends() -> None:
    with shop(route("ratings", 0, "50s")) as mesh:
        mesh.get(RATINGS, source="reviews")
        mesh.partition("reviews", "ratings")
        pending = mesh.send("GET", RATINGS, source="reviews")
        mesh.run(20)
        assert not pending.is_done
        with pytest.raises(RuntimeError, match="still under way"):
            pending.result()
        mesh.heal()
        mesh.run(1)
        assert pending.result().status == 200


def test_connections_that_are_lost_are_made_again() -> None:
    with shop() as mesh:
        mesh.get(URL)
        before = mesh.stats("reviews")
        mesh.cut("reviews", "ratings")
        assert mesh.get(URL).status == 200
        name = "cluster.outbound|9080||ratings.shop.svc.cluster.local.upstream_cx_total"
        assert mesh.stats("reviews")[name] == before[name] + 1


def test_a_service_that_fails_is_tried_again_and_is_well_again() -> None:
    with shop(AT_THE_EDGE) as mesh:
        mesh.fail("ratings", 500)
        assert mesh.get(URL).status == 500
        assert len(mesh.received("ratings")) == 3
        mesh.fail("ratings", None)
        assert mesh.get(URL).status == 200


def test_configuration_changes_in_the_middle() -> None:
    with shop() as mesh:
        assert mesh.get(RATINGS, source="reviews").status == 200
        mesh.apply(DENY)
        mesh.run(1)
        # Connections that are there keep what they have, as with Envoy, until they are drained.
        mesh.cut("reviews", "ratings")
        assert mesh.get(RATINGS, source="reviews").status == 403
        assert mesh.log("ratings")[-1]["details"].startswith("rbac_access_denied")
        mesh.delete("AuthorizationPolicy shop/nobody")
        mesh.run(1)
        mesh.cut("reviews", "ratings")
        assert mesh.get(RATINGS, source="reviews").status == 200
        mesh.apply(DENY)  # What was taken away may come again.
        mesh.run(1)
        mesh.cut("reviews", "ratings")
        assert mesh.get(RATINGS, source="reviews").status == 403
        mesh.delete("AuthorizationPolicy shop/nobody")
        mesh.run(1)
        mesh.cut("reviews", "ratings")
        assert mesh.get(RATINGS, source="reviews").status == 200


def test_a_proxy_that_starts_hears_the_newest() -> None:
    with shop() as mesh:
        mesh.crash("ratings")
        mesh.apply(DENY)
        mesh.run(1)
        mesh.restart("ratings")
        assert mesh.get(RATINGS, source="reviews").status == 403


def test_a_workload_joins_and_another_leaves() -> None:
    entry = """\
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: ratings-2, namespace: shop}
spec: {address: 10.0.0.4, serviceAccount: ratings, labels: {app: ratings, security.istio.io/tlsMode: istio}}
"""
    with shop() as mesh:
        mesh.apply(entry)
        mesh.service("ratings", lambda request: request.place)
        mesh.run(1)
        assert {mesh.get(RATINGS, source="reviews").text for _ in range(20)} == {"ratings-1.shop", "ratings-2.shop"}
        mesh.delete("WorkloadEntry shop/ratings-1")
        mesh.run(1)
        assert {mesh.get(RATINGS, source="reviews").text for _ in range(20)} == {"ratings-2.shop"}


def test_filters_run_in_its_proxies() -> None:
    with shop(AT_THE_EDGE + FILTER) as mesh:
        mesh.service("ratings", lambda request: dict(request.headers.items()))
        seen = json.loads(mesh.get(RATINGS, source="reviews").body)
        assert seen["x-greeted"] == "hello"
        assert seen["x-peer"] == "spiffe://cluster.local/ns/shop/sa/reviews"
        refused = mesh.get(RATINGS, source="reviews", headers={"x-user": "mallory"})
        assert (refused.status, refused.body) == (403, b"not you")


def test_tokens_are_believed() -> None:
    wants_token = """\
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens, namespace: shop}
spec:
  selector: {matchLabels: {app: ratings}}
  jwtRules: [{issuer: "https://issuer.test", jwksUri: "https://issuer.test/keys"}]
"""
    with shop(AT_THE_EDGE + "---\n" + wants_token) as mesh:
        good = mesh.token({"iss": "https://issuer.test", "sub": "anna"})
        old = mesh.token({"iss": "https://issuer.test", "exp": 1})
        statuses = [
            mesh.get(RATINGS, source="reviews", headers={"authorization": f"Bearer {token}"}).status
            for token in (good, old, good + "x")
        ]
        assert statuses == [200, 401, 401]


def test_a_local_mesh_of_the_examples() -> None:
    with Mesh(ROOT / "examples" / "shop") as mesh:
        mesh.service("catalog", lambda request: {"workload": request.place})
        answer = mesh.get("http://catalog:80/products/1", source="web")
        assert (answer.status, json.loads(answer.body)["workload"][:8]) == (200, "catalog-")


# --- a seed decides ---------------------------------------------------------------------------------------------------


def test_equal_seeds_equal_transcripts() -> None:
    def transcript(seed: int) -> str:
        with visited(AT_THE_EDGE, seed) as mesh:
            return mesh.transcript

    first = transcript(3)
    assert first == transcript(3)
    assert first != transcript(4)
    # Nor does anything of a process matter.
    code = """\
from tests.unit.testing.scenario import visited
from tests.unit.testing.shop import AT_THE_EDGE
with visited(AT_THE_EDGE, 3) as mesh:
    print(mesh.transcript, end="")
"""
    for hash_seed in ("1", "2"):
        # The installed package stands before the one here, which has no extension.
        env = {**os.environ, "PYTHONHASHSEED": hash_seed}
        program = f"import sys; sys.path.append({str(ROOT)!r})\n{code}"
        done = subprocess.run(
            [sys.executable, "-c", program], cwd="/", env=env, capture_output=True, text=True, timeout=300, check=True
        )
        assert done.stdout == first


# --- what is told -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("do", "said"),
    [
        (
            lambda mesh: mesh.service("rattings", print),
            "neither a service nor a workload 'rattings'\nhint: did you mean",
        ),
        (lambda mesh: mesh.get("ratings"), "'ratings' is no URL"),
        (lambda mesh: mesh.get(RATINGS, source="edge"), "gateway edge.shop has no port 9080\nhint: known: 80"),
        (lambda mesh: mesh.get("http://ratings:1/", source="web"), "web-1.shop knows no ratings:1\nhint: it knows"),
        (lambda mesh: mesh.get("https://ratings:9080/", source="web"), "write http://"),
        (lambda mesh: mesh.apply("kind: Nothing\nmetadata: {}"), "change 1:1:1"),
        (lambda mesh: mesh.delete("VirtualService shop/none"), "there is no VirtualService shop/none"),
        (lambda mesh: Mesh("/nowhere"), "there is no such folder"),
        (lambda mesh: Mesh(RESOURCES).slow("ratings", 1), "nobody plays 'ratings'"),
    ],
)
def test_mistakes_are_named(do: object, said: str) -> None:
    with shop() as mesh, pytest.raises(MeshError) as caught:
        do(mesh)  # type: ignore[operator]
    assert said in str(caught.value)


def test_an_assertion_of_a_handler_is_the_tests() -> None:
    def asserts(_: Incoming) -> None:
        raise AssertionError("so it is not")

    mesh = shop()
    mesh.service("ratings", asserts)
    with pytest.raises(AssertionError, match="so it is not"), mesh:
        assert mesh.get(RATINGS, source="reviews").status == 500


def test_nobody_is_at_the_gateway() -> None:
    with shop() as mesh:
        mesh.crash("edge", "proxy")
        with pytest.raises(NoAnswerError):
            mesh.get(URL)
