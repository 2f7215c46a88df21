"""`examples/filters/tenant_quota.py` beside a real Redis: in the harness, and in two proxies that share a quota."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pymesh.filters.loader import FilterError
from tests.filters.example import deployed, harness
from tests.proxy.running import eventually
from tests.tools.peers import peer
from tests.tools.ports import free_port
from tests.tools.processes import running

QUOTA = "tenant_quota:TenantQuota"


@dataclass(frozen=True)
class Server:
    """A place for a Redis."""

    port: int
    folder: Path

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Redis, without anything on disk."""
        words = [peer("redis-server"), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        with running([*words, "--save", "", "--appendonly", "no"], ports=[self.port]):
            yield

    def ask(self, *words: str) -> str:
        """What `redis-cli` prints."""
        argv = [peer("redis-cli"), "-p", str(self.port), *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout.strip()

    def config(self, **settings: Any) -> dict[str, Any]:
        """The filter's. Within a year no test meets the end of a window."""
        return {"redis": f"redis://127.0.0.1:{self.port}", "limit": 2, "window": "8760h", **settings}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Server:
    return Server(free_port(), tmp_path_factory.mktemp("redis"))


@pytest.fixture(scope="module")
def serving(place: Server) -> Iterator[Server]:
    with place.serving():
        yield place


@pytest.fixture
def redis(serving: Server) -> Server:
    """Redis with nothing in it."""
    assert serving.ask("FLUSHALL") == "OK"
    return serving


def test_each_tenant_has_its_share_of_the_window(redis: Server) -> None:
    with harness(QUOTA, redis.config(limits={"gold": 3}), timeout=30) as one:

        def left(tenant: str) -> tuple[int, str | None]:
            exchange = one.request(headers={"x-tenant": tenant})
            return exchange.status, exchange.upstream and exchange.upstream.headers["x-quota-left"]

        assert [left("ann") for _ in range(3)] == [(200, "1"), (200, "0"), (429, None)]
        assert [left("gold") for _ in range(4)] == [(200, "2"), (200, "1"), (200, "0"), (429, None)]
        refused = one.request(headers={"x-tenant": "ann"}).response
        assert (refused.body, int(refused.headers["retry-after"]) > 0) == (b"the quota is used up\n", True)
        assert one.request().response.body == b"x-tenant is missing\n"


def test_a_window_has_an_end_of_its_own_in_redis(redis: Server) -> None:
    with harness(QUOTA, redis.config(window="1h"), timeout=30) as one:
        one.request(headers={"x-tenant": "ann"})
    (key,) = redis.ask("KEYS", "*").splitlines()
    assert key.startswith("quota:ann:")
    assert 0 < int(redis.ask("TTL", key)) <= 2 * 3600


def test_replicas_share_a_quota(redis: Server) -> None:
    with ExitStack() as stack:
        both = [stack.enter_context(deployed((QUOTA, redis.config(limit=10)))) for _ in range(2)]
        answers = [both[number % 2].ask({"x-tenant": "ann"}).status for number in range(14)]
        assert answers == [200] * 10 + [429] * 4
        assert both[0].ask({"x-tenant": "bob"}).status == 200
        assert both[0].reached("x-quota-left") == "9"


@pytest.mark.parametrize(("policy", "meanwhile"), [("CLOSED", 500), ("OPEN", 200)])
def test_without_redis_the_policy_decides(policy: str, meanwhile: int, tmp_path: Path) -> None:
    place = Server(free_port(), tmp_path)
    with deployed((QUOTA, place.config()), failure_policy=policy) as one:

        def status() -> int:
            return one.ask({"x-tenant": "ann"}).status

        assert status() == meanwhile
        with place.serving():
            assert [status() for _ in range(3)] == [200, 200, 429]
        # Connections to the one that is gone are worth nothing.
        assert status() == meanwhile
        with place.serving():
            assert eventually(lambda: status() == 429), one.proxy.process.tail()


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"window": "100ms"}, "window must be at least 1s"), ({"redis": "http://localhost"}, "scheme")],
)
def test_settings_that_make_no_sense(settings: dict[str, str], words: str) -> None:
    with pytest.raises(FilterError, match=words):
        harness(QUOTA, {"redis": "redis://127.0.0.1", "limit": 1, **settings})
