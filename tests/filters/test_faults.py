"""Whatever a filter does wrong is a failure of its own call, in each lane and by each policy; the proxy lives on."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.filters import faulty
from tests.proxy.bootstrap import Json, bootstrap, cluster, http_listener, to_cluster, virtual_host
from tests.proxy.running import Proxy, eventually, proxy
from tests.tools.ports import free_ports
from tests.tools.wire.client import fetch
from tests.tools.wire.message import Request
from tests.tools.wire.origin import origin

SOURCE = Path(faulty.__file__).read_text()
KINDS = [(kind, policy) for kind in ("Inline", "Plain", "Async") for policy in ("CLOSED", "OPEN")]

WRONG = [*faulty.RAISED, *faulty.NONSENSE, "recurse", "exit", "signal", "new-loop-closed"]
"""Failures of a hook of any kind."""
WRONG_IN = {
    "Inline": [],
    "Plain": ["coroutine"],
    "Async": [
        "cancel-itself", "await-nonsense", "close-loop", "stop-loop", "task-factory", "exception-handler", "kill-pool",
        "kill-pool-thread",
    ],
}  # fmt: skip
LASTING = {
    "Inline": ["block", "spin"],
    "Plain": ["block", "spin"],
    "Async": ["block", "spin", "wait-for-ever", "ignore-cancel"],
}
"""What does not return in time."""
HARMLESS = {
    "Inline": ["thread-raises", "collect", "steal-stderr"],
    "Plain": ["thread-raises", "collect", "steal-stderr"],
    "Async": ["cancel-all", "tasks-that-raise", "callback-exits", "stop-loop-behind-its-back", "steal-stderr"],
}
"""What is nobody's failure, and must not become one."""


@dataclass(frozen=True)
class Bench:
    """A proxy with a listener for each kind and policy, one whose filter waits on the loop, and one without filters."""

    proxy: Proxy

    def ask(self, kind: str, policy: str, do: str = "") -> int:
        """The status of a request whose filter does that."""
        port = self.proxy.ports[KINDS.index((kind, policy))]
        return fetch(port, Request("GET", "/", "a.test", [("x-do", do)])).status

    def ask_others(self) -> tuple[int, int]:
        """Those of requests that it does not concern."""
        victim, plain = self.proxy.ports[-2:]
        return tuple(fetch(port, Request("GET", "/", "a.test")).status for port in (victim, plain))  # type: ignore[return-value]

    def count(self, kind: str, policy: str, name: str) -> int:
        """A counter of a filter."""
        return self.proxy.stats()[f"python_filter.{kind}-{policy}.{name}"]

    def check_alive(self, kind: str, policy: str) -> None:
        """The same filter goes on."""
        assert self.ask(kind, policy) == 200
        assert self.proxy.process.alive()


def _python(name: str, cls: str, timeout: str, policy: str) -> Json:
    kind = {
        "@type": "type.googleapis.com/pymesh.filters.v1.PythonFilter",
        "class": f"faulty:{cls}",
        "source": SOURCE,
        "timeout": timeout,
        "failure_policy": policy,
    }
    router = {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}
    return {"http_filters": [{"name": name, "typed_config": kind}, {"name": "router", "typed_config": router}]}


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    *ports, admin = free_ports(len(KINDS) + 3)
    hosts = [virtual_host("all", [to_cluster("origin")])]
    with origin() as behind:
        listeners = [
            http_listener(port, hosts, name=f"{kind}-{policy}", **_python(f"{kind}-{policy}", kind, "0.4s", policy))
            for port, (kind, policy) in zip(ports, KINDS, strict=False)
        ]
        victim = _python("victim", "Victim", "30s", "CLOSED")
        listeners.append(http_listener(ports[-2], hosts, name="victim", **victim))
        listeners.append(http_listener(ports[-1], hosts, name="plain"))
        config = bootstrap(listeners, [cluster("origin", [behind.port])], admin)
        with proxy("pymesh", config, concurrency=2) as started:
            yield Bench(started)


def _cases(table: dict[str, list[str]], everywhere: list[str]) -> list[tuple[str, str, str]]:
    return [(kind, policy, do) for kind, policy in KINDS for do in [*everywhere, *table[kind]]]


@pytest.mark.parametrize(("kind", "policy", "do"), _cases(WRONG_IN, WRONG))
def test_a_failure_is_its_own_requests(bench: Bench, kind: str, policy: str, do: str) -> None:
    assert bench.ask(kind, policy, do) == (500 if policy == "CLOSED" else 200)
    bench.check_alive(kind, policy)


@pytest.mark.parametrize(("kind", "policy", "do"), _cases(LASTING, []))
def test_a_hook_that_lasts_is_answered_for_and_others_are_not_touched(
    bench: Bench, kind: str, policy: str, do: str
) -> None:
    timeouts = bench.count(kind, policy, "timeouts")
    with ThreadPoolExecutor() as threads:
        asked = threads.submit(bench.ask, kind, policy, do)
        others = [threads.submit(bench.ask_others) for _ in range(3)]
        assert asked.result() == (500 if policy == "CLOSED" else 200)
        assert {other.result() for other in others} == {(299, 200)}
    # A hook of the same filter that has to wait for it may be late as well.
    assert eventually(lambda: bench.ask(kind, policy) == 200)
    bench.check_alive(kind, policy)
    assert bench.count(kind, policy, "timeouts") > timeouts


@pytest.mark.parametrize(("kind", "policy", "do"), _cases(HARMLESS, []))
def test_what_harms_nobody_is_no_failure(bench: Bench, kind: str, policy: str, do: str) -> None:
    failures = bench.count(kind, policy, "failures")
    assert bench.ask(kind, policy, do) == 200
    assert bench.ask_others() == (299, 200)
    assert bench.count(kind, policy, "failures") == failures


def test_a_message_is_valid_while_its_hook_runs(bench: Bench) -> None:
    def is_told() -> bool:
        # Each worker has its instance: two requests need not meet the same.
        assert bench.ask("Async", "CLOSED", "keep") == 200
        assert bench.ask("Async", "CLOSED", "use") == 500
        return "RuntimeError: this message is over" in bench.proxy.process.output()

    assert eventually(is_told)


def test_the_watchdog_says_which_hook_and_where(bench: Bench) -> None:
    bench.ask("Inline", "CLOSED", "block")
    bench.ask("Plain", "CLOSED", "block")
    told = [
        "worker 0: filter faulty:Inline in on_request_headers has not returned for",
        "lane `async`: filter faulty:Plain in on_request_headers has not returned for",
        "time.sleep(1.5)",
        "goes on after",
    ]
    other = told[0].replace("worker 0", "worker 1")

    def is_told() -> bool:
        said = bench.proxy.process.output()
        return (told[0] in said or other in said) and all(line in said for line in told[1:])

    assert eventually(is_told), bench.proxy.process.output()
    assert eventually(lambda: bench.proxy.stats()["filters.blocked"] == 0)
    assert bench.proxy.stats()["filters.incidents"] >= 2
