"""Filters of lane `async` in a simulated mesh: they live by its clock, and what only the world outside could bring is
refused by name."""

from __future__ import annotations

import asyncio
import textwrap
import time

import pytest

from pymesh.testing import Incoming, Mesh, MeshError
from tests.unit.testing.shop import shop

RATINGS = "http://ratings:9080/ratings"

HEAD = """\
import asyncio, random, time
from pymesh.filters import CallError, HttpFilter, Reply

class Waits(HttpFilter):
    lane = "async"
"""


def filtered(body: str, *, timeout: str = "60s", policy: str = "CLOSED", seed: int = 0, app: str = "ratings") -> Mesh:
    """The shop with a filter of these lines before an application."""
    source = textwrap.indent(HEAD + textwrap.indent(textwrap.dedent(body).strip("\n"), "    "), "    ")
    return shop(
        f"""\
---
apiVersion: extensions.pymesh.dev/v1alpha1
kind: PythonFilter
metadata: {{name: waits, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: {app}}}}}
  class: waits:Waits
  timeout: {timeout}
  failurePolicy: {policy}
  source: |
{source}
""",
        seed=seed,
    )


def failures(mesh: Mesh) -> int:
    """How often the filter has failed."""
    return mesh.stats("ratings")["python_filter.shop/waits.failures"]


SLEEPS = """
async def on_request_headers(self, request, ctx):
    request.headers["x-left"] = f"{ctx.deadline:.3f}"
    await asyncio.sleep(10)
    request.headers["x-left"] += f" {ctx.deadline:.3f}"
"""


def test_who_sleeps_takes_time_of_the_mesh_and_none_of_ours() -> None:
    begun = time.monotonic()
    with filtered(SLEEPS) as mesh:
        assert mesh.get(RATINGS, source="reviews", timeout=100).status == 200
        assert mesh.now == pytest.approx(10, abs=0.1)
        (received,) = mesh.received("ratings")
        assert received.asked.headers["x-left"] == "60.000 50.000"
    assert time.monotonic() - begun < 600


@pytest.mark.parametrize(("policy", "status"), [("CLOSED", 500), ("OPEN", 200)])
def test_a_timeout_is_a_time_of_the_mesh(policy: str, status: int) -> None:
    with filtered(SLEEPS, timeout="2s", policy=policy) as mesh:
        assert mesh.get(RATINGS, source="reviews", timeout=100).status == status
        assert mesh.now == pytest.approx(2, abs=0.1)
        assert mesh.stats("ratings")["python_filter.shop/waits.timeouts"] == 1
        # As it was before the hook.
        assert all("x-left" not in one.asked.headers for one in mesh.received("ratings"))


def test_requests_wait_side_by_side() -> None:
    with filtered(SLEEPS) as mesh:
        waiting = [mesh.send("GET", RATINGS, source="reviews", timeout=100) for _ in range(20)]
        mesh.run(9.9)
        assert not any(one.is_done for one in waiting)
        mesh.run(0.2)
        assert [one.result().status for one in waiting] == [200] * 20


def test_what_a_hook_asks_travels_through_the_mesh() -> None:
    async def vault(request: Incoming) -> object:
        await request.sleep(3)
        return "open" if request.asked.path == "/sesame" else "shut"

    body = """
    async def on_request_headers(self, request, ctx):
        answers = await asyncio.gather(*(ctx.call("web:9080", "GET", path) for path in ("/sesame", "/simsim")))
        request.headers["x-doors"] = " ".join(answer.body.decode() for answer in answers)
    """
    with filtered(body) as mesh:
        mesh.service("web", vault)
        mesh.latency(0.05)
        assert mesh.get(RATINGS, source="reviews", timeout=100).status == 200
        (received,) = mesh.received("ratings")
        assert received.asked.headers["x-doors"] == "open shut"
        # Side by side: once the ways, once the vault.
        assert 3 + 6 * 0.05 <= mesh.now < 2 * 3
        assert {record["peer"] for record in mesh.log("web")} == {"spiffe://cluster.local/ns/shop/sa/ratings"}


def test_a_hook_whose_request_is_gone_is_cancelled() -> None:
    body = """
    async def on_request_headers(self, request, ctx):
        try:
            await asyncio.sleep(10)
        finally:
            self.ended = getattr(self, "ended", 0) + 1
            await asyncio.sleep(1)
            self.ended += 100

    def on_response_headers(self, response, ctx):
        response.headers["x-ended"] = str(getattr(self, "ended", 0))
    """
    with filtered(body, timeout="2s", policy="OPEN") as mesh:
        assert mesh.get(RATINGS, source="reviews", timeout=100).headers["x-ended"] == "1"
        mesh.run(2)
        assert mesh.get(RATINGS, source="reviews", timeout=100).headers["x-ended"] == "102"


def test_plain_hooks_and_threads_take_no_time() -> None:
    body = """
    def on_request_headers(self, request, ctx):
        request.headers["x-plain"] = "yes"

    async def on_response_headers(self, response, ctx):
        response.headers["x-thread"] = await asyncio.to_thread(lambda: "yes")
    """
    with filtered(body) as mesh:
        answer = mesh.get(RATINGS, source="reviews")
        assert (answer.status, answer.headers["x-thread"], mesh.now < 0.1) == (200, "yes", True)
        assert mesh.received("ratings")[0].asked.headers["x-plain"] == "yes"


REFUSED = {
    "a connection": (
        "async def on_request_headers(self, request, ctx): await asyncio.open_connection('127.0.0.1', 9)",
        "RuntimeError: there is no network in a simulated proxy, nor processes\nhint: ask other services by ctx.call",
    ),
    "a server": (
        "async def on_request_headers(self, request, ctx): await asyncio.start_server(print, '127.0.0.1', 0)",
        "RuntimeError: there is no network in a simulated proxy",
    ),
    "a process": (
        "async def on_request_headers(self, request, ctx): await asyncio.create_subprocess_exec('true')",
        "RuntimeError: there is no network in a simulated proxy, nor processes",
    ),
    "an answer, in a plain hook": (
        "def on_request_headers(self, request, ctx): asyncio.run(ctx.call('web:9080', 'GET', '/'))",
        "RuntimeError: a plain hook cannot wait for an answer where time is simulated\nhint: write it as `async def`",
    ),
    "the loop": (
        "async def on_request_headers(self, request, ctx): asyncio.get_running_loop().stop()",
        "RuntimeError: the event loop belongs to the proxy: a filter cannot stop it",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_there_is_refused_by_name(what: str, capfd: pytest.CaptureFixture[str]) -> None:
    body, words = REFUSED[what]
    with filtered(body) as mesh:
        assert mesh.get(RATINGS, source="reviews").status == 500
        assert failures(mesh) == 1
        assert words in capfd.readouterr().err
        # And the next request finds the lane as it was.
        assert mesh.get(RATINGS, source="reviews").status == 500
        assert failures(mesh) == 2


def test_setup_cannot_wait_for_time_to_pass() -> None:
    with pytest.raises(
        MeshError, match="it waits for something that does not come while a simulated proxy stands still"
    ):
        filtered("async def setup(self): await asyncio.sleep(1)")
    with filtered(
        """
        async def setup(self):
            await asyncio.sleep(0)
            self.beats = 0
            self.heart = asyncio.create_task(self.beat())

        async def beat(self):
            while True:
                await asyncio.sleep(1)
                self.beats += 1

        async def close(self):
            self.heart.cancel()

        def on_response_headers(self, response, ctx):
            response.headers["x-beats"] = str(self.beats)
        """
    ) as mesh:
        mesh.run(10.5)
        assert mesh.get(RATINGS, source="reviews").headers["x-beats"] == "10"


def test_a_mesh_may_be_used_in_a_coroutine() -> None:
    async def main() -> int:
        with filtered(SLEEPS) as mesh:
            return mesh.get(RATINGS, source="reviews", timeout=100).status

    assert asyncio.run(main()) == 200


def test_a_seed_decides_it_all() -> None:
    body = """
    async def on_request_headers(self, request, ctx):
        tries = [asyncio.create_task(self.one(ctx, at)) for at in range(5)]
        request.headers["x-first"] = await next(asyncio.as_completed(tries))

    async def one(self, ctx, at):
        await asyncio.sleep(0.1 * (7 * at % 5))
        try:
            return f"{at} {(await ctx.call('web:9080', 'GET', f'/{at}', timeout=1)).status}"
        except CallError as error:
            return f"{at} {error.flags}"
    """

    def transcript(seed: int) -> str:
        with filtered(body, seed=seed) as mesh:
            mesh.service("web", lambda _: "hello")
            mesh.latency(0.05, jitter=0.2)
            mesh.shake(["web", "ratings"], within=5)
            for at in range(20):
                mesh.at(0.3 * at, mesh.send, "GET", RATINGS, source="reviews")
            mesh.run(30)
            seen = [one.asked.headers["x-first"] for one in mesh.received("ratings")]
            return mesh.transcript + "\n".join(seen)

    assert "web-1" in transcript(1)
    assert transcript(1) == transcript(1)
    assert transcript(1) != transcript(2)
