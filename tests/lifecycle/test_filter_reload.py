"""A filter's source changes while requests flow: none is lost, each sees one generation, and nothing stays behind.

The control plane is a scripted ADS server that judges its client; what a generation was, its answers tell. Fifty
reloads under load and two hundred for memory by default; `make lifecycle` runs a thousand.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pymesh.control.xds import pb
from tests.filters import clicker
from tests.lifecycle.replica import PATIENCE, ROUNDS
from tests.proxy import bootstrap
from tests.proxy.running import Proxy, eventually, proxy
from tests.tools import ads, resources
from tests.tools.delayed import Delayed, on_loopback
from tests.tools.ports import free_ports
from tests.tools.wire.client import Answer, answer, fetch, http1_connection, http2_connection
from tests.tools.wire.message import Request

WORKERS = 2
RELOADS = max(50, ROUNDS)
#: Reloads for memory, after as many as the allocator needs to know what is usual.
MEMORY, WARM = (1000, 100) if ROUNDS >= 50 else (200, 60)
#: Octets that the process may have grown by at the end. A generation that stayed would be some 100 KiB for itself.
GROWTH = 6 << 20

SOURCE = """
import gc, json, sys
from pymesh.filters import HttpFilter, Reply

BALLAST = "%(number)08d" * 12_500

class Generation(HttpFilter):
    def __init__(self, config):
        super().__init__(config)
        sys.opened = getattr(sys, "opened", 0) + 1

    def close(self):
        sys.closed = getattr(sys, "closed", 0) + 1

    def on_request_headers(self, request, ctx):
        if request.path == "/census":
            return Reply(200, json.dumps(census()).encode())
        ctx["begun"] = %(number)d

    def on_response_headers(self, response, ctx):
        response.headers["x-begun"] = str(ctx["begun"])
        response.headers["x-ended"] = "%(number)d"

def census():
    gc.collect()
    things = gc.get_objects()
    return {
        "modules": sum(type(one) is dict and one.get("__name__") == "generation" for one in things),
        "classes": sum(isinstance(one, type) and one.__name__ == "Generation" for one in things),
        "instances": sum(type(one).__name__ == "Generation" for one in things),
        "closed": getattr(sys, "closed", 0),
        "opened": getattr(sys, "opened", 0),
    }
"""

#: What cannot be loaded, and words of the reason.
BROKEN = {
    "syntax": ("class Generation(:\n", "SyntaxError"),
    "import": ("import no_such_module_at_all\n", "no_such_module_at_all"),
    "raise": ("raise RuntimeError('on import')\n", "on import"),
    "exit": ("import sys; sys.exit(3)\n", "SystemExit"),
    "class": ("class Other: pass\n", "has no class `Generation`"),
    "init": (
        SOURCE % {"number": 0} + "\nclass Generation(Generation):\n    def __init__(self, config): 1 / 0\n",
        "Zero",
    ),
    "setup": (SOURCE % {"number": 0} + "\nclass Generation(Generation):\n    def setup(self): 1 / 0\n", "setup"),
    "config": (
        SOURCE % {"number": 0} + "\nimport dataclasses\n@dataclasses.dataclass\nclass Wanted:\n    limit: int\n"
        "class Generation(Generation):\n    Config = Wanted\n",
        "limit",
    ),
}


@dataclass
class Reloaded:
    """A proxy whose filter the test changes."""

    server: ads.Server
    proxy: Proxy
    port: int
    number: int = 0

    def says(self, source: str) -> None:
        """The server has another source for the filter, and says so."""
        self.tells(filtered(self.port, source))

    def tells(self, listener: object) -> None:
        """The server has another listener, and says so."""
        self.server.put(listener)
        self.server.push(pb.LISTENER)
        assert eventually(self.server.settled, PATIENCE), self.proxy.process.tail()

    def reload(self) -> None:
        """Another good generation."""
        self.number += 1
        refused = len(self.server.refusals())
        self.says(SOURCE % {"number": self.number})
        assert len(self.server.refusals()) == refused, self.server.refusals()[-1].reason

    def ask(self, path: str = "/") -> Answer:
        return fetch(self.port, Request("GET", path, "load.test"))

    def generation(self) -> str | None:
        return self.ask().header("x-begun")

    def census(self) -> dict[str, int]:
        counts: dict[str, int] = json.loads(self.ask("/census").body)
        return counts

    def resident(self) -> int:
        """Octets of memory that the process has."""
        status = Path(f"/proc/{self.proxy.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024


def filtered(
    port: int, source: str, class_path: str = "generation:Generation", config: Mapping[str, str] | None = None
) -> object:
    """The listener, with the filter in front of the router."""
    made = resources.listener("http", port, "table")
    (network,) = made.filter_chains[0].filters
    manager = pb.unpack(network.typed_config)
    kind = pb.message("pymesh.filters.v1.PythonFilter")
    one = kind(**{"class": class_path}, name="shop/generation", source=source, config=dict(config or {}))
    router = manager.http_filters.pop()
    manager.http_filters.add(name="python").typed_config.CopyFrom(pb.pack(one))
    manager.http_filters.add().CopyFrom(router)
    network.typed_config.CopyFrom(pb.pack(manager))
    return made


@pytest.fixture(params=["DELTA_GRPC", "GRPC"])
def variant(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@contextmanager
def reloaded(variant: str, first: str) -> Iterator[Reloaded]:
    port, admin = free_ports(2)
    server = ads.Server(variant)
    server.start()
    behind = Delayed(lambda number: 0.03 if number % 3 == 0 else 0.0)
    with on_loopback(behind):
        server.put(
            resources.cluster("app"),
            resources.endpoints("app", behind.port),
            resources.routes("table", "app"),
            filtered(port, first),
        )
        config = bootstrap.dynamic(variant, bootstrap.cluster("ads", [server.port], http2=True), admin)
        with proxy("pymesh", config, WORKERS) as started:
            assert eventually(server.settled, PATIENCE)
            yield Reloaded(server, started, port)
    server.stop()
    assert not server.violations, "\n".join(server.violations)


@dataclass
class Load:
    """What clients of both protocols have seen."""

    over: bool = False
    seen: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def judge(self, client: str, answer: Answer) -> None:
        begun, ended = answer.header("x-begun"), answer.header("x-ended")
        if answer.status != 200 or answer.body != b"ok" or begun is None or begun != ended:
            self.wrong.append(f"{client}: {answer.status} {answer.body!r}: begun by {begun}, ended by {ended}")
        self.seen[client, begun or ""] += 1

    async def http1(self, port: int) -> None:
        async with http1_connection(port) as client:
            while not self.over:
                await client.send(Request("GET", "/", "load.test"))
                self.judge("http1", await answer(client))

    async def http2(self, port: int) -> None:
        """Streams that overlap, on one connection from beginning to end."""
        async with http2_connection(port) as client:

            async def streams() -> None:
                while not self.over:
                    self.judge("http2", await answer(await client.send(Request("GET", "/", "load.test"), end=True)))

            await asyncio.gather(*[streams() for _ in range(4)])


@contextmanager
def load(port: int) -> Iterator[Load]:
    made = Load()

    async def run() -> None:
        results = await asyncio.gather(
            *[made.http1(port) for _ in range(3)], *[made.http2(port) for _ in range(2)], return_exceptions=True
        )
        made.wrong.extend(repr(one) for one in results if one is not None)

    thread = threading.Thread(target=asyncio.run, args=[run()], name="load")
    thread.start()
    try:
        yield made
    finally:
        made.over = True
        thread.join(PATIENCE)
    assert not thread.is_alive(), "a request waits without end"


def test_reloads_under_load(variant: str) -> None:
    with reloaded(variant, SOURCE % {"number": 0}) as one, load(one.port) as seen:
        for _ in range(RELOADS):
            one.reload()
            arrived = [("http1", str(one.number)), ("http2", str(one.number))]
            assert eventually(lambda: all(seen.seen[who] for who in arrived) or bool(seen.wrong), PATIENCE)  # noqa: B023
            assert not seen.wrong, f"{seen.wrong[:5]}\n{one.proxy.process.tail()}"
    assert not seen.wrong, seen.wrong[:5]
    print(f"{RELOADS} reloads ({variant}): {seen.seen.total()} requests, none lost")


def test_what_cannot_be_loaded_is_refused_and_the_earlier_serves_on(variant: str) -> None:
    with reloaded(variant, SOURCE % {"number": 0}) as one, load(one.port) as seen:
        for name, (source, words) in BROKEN.items():
            one.reload()
            refused = len(one.server.refusals())
            one.says(source)
            (refusal,) = one.server.refusals()[refused:]
            reason = refusal.reason or ""
            assert "filter shop/generation: cannot be loaded, its earlier generation goes on serving" in reason, name
            assert words in reason, (name, reason)
            assert words in one.proxy.process.output(), "the log says it as well"
            assert one.generation() == str(one.number), name
        one.reload()
        assert eventually(lambda: one.generation() == str(one.number), PATIENCE)
        counted = one.proxy.stats()
        # The first generation is one, and so is the last.
        assert counted["python_filter.shop/generation.config_reload"] == len(BROKEN) + 2
        assert counted["python_filter.shop/generation.config_fail"] == len(BROKEN)
    assert not seen.wrong, seen.wrong[:5]


def test_a_compiled_filter_that_refuses_its_settings_leaves_the_earlier_one(
    variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a constructor in C says of the settings is known when the configuration comes, not in the workers."""
    clicker.build(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with reloaded(variant, SOURCE % {"number": 0}) as one:
        assert one.generation() == "0"
        for name, reason in [("tick", ""), ("refuse", "clicker wants no such config"), ("tock", "")]:
            refused = len(one.server.refusals())
            one.tells(filtered(one.port, "", "clicker:Clicker", {"name": name}))
            reasons = [refusal.reason or "" for refusal in one.server.refusals()[refused:]]
            assert len(reasons) == bool(reason), reasons
            if reason:
                assert "cannot be loaded, its earlier generation goes on serving" in reasons[0]
                assert f"`clicker:Clicker` cannot be made: {reason}" in reasons[0]
            # One of its headers is the config that it runs on.
            serving = "tock" if name == "tock" else "tick"
            assert eventually(lambda: one.ask("/c/").header("x-config") == f'{{"name":"{serving}"}}', PATIENCE)  # noqa: B023
        counted = one.proxy.stats()
        assert counted["python_filter.shop/generation.config_reload"] == 3
        assert counted["python_filter.shop/generation.config_fail"] == 1
        assert counted["python_filter.shop/generation.failures"] == 0


def test_a_first_generation_that_cannot_be_loaded_is_told_and_fails_closed(variant: str) -> None:
    with reloaded(variant, BROKEN["syntax"][0]) as one:
        (refusal,) = one.server.refusals()
        assert "its requests are judged by its failure policy" in (refusal.reason or "")
        assert one.ask().status == 500
        one.reload()
        assert eventually(lambda: one.generation() == str(one.number), PATIENCE)


def test_nothing_stays_of_earlier_generations(variant: str) -> None:
    if variant == "GRPC" and ROUNDS < 50:
        reloads, warm = 20, 0
    else:
        reloads, warm = MEMORY, WARM
    with reloaded(variant, SOURCE % {"number": 0}) as one:
        for _ in range(warm):
            one.reload()
        one.census()
        before = one.resident()
        for turn in range(reloads):
            one.reload()
            if turn % 50 == 0:
                one.census()

        def is_clean() -> bool:
            counts = one.census()
            kept = [counts[name] for name in ("modules", "classes", "instances")]
            return kept == [WORKERS] * 3 and counts["opened"] - counts["closed"] == WORKERS

        assert eventually(is_clean, PATIENCE), one.census()
        grown = one.resident() - before
        print(f"{reloads} reloads ({variant}): {grown / 1024:.0f} KiB more")
        assert not warm or grown < GROWTH, grown
