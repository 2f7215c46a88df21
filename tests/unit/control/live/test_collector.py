"""The collector: it asks while somebody looks, and remembers nothing afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from pymesh.control.live import collector as module
from pymesh.control.live import scrape
from pymesh.control.live.collector import Collector, TooManyError
from pymesh.control.live.inventory import Known, KnownService
from pymesh.control.live.scrape import SYNC_PATH, ScrapeError, Target, fetch
from pymesh.control.xds.delta import DeltaSession
from pymesh.control.xds.fleet import Fleet
from pymesh.control.xds.metrics import XdsMetrics
from pymesh.control.xds.node import Node

LINE = (
    'istio_requests_total{{reporter="source",source_canonical_service="web",source_workload_namespace="shop",'
    'destination_canonical_service="cart",destination_workload_namespace="shop",response_code="200"}} {}\n'
)


class Nothing:
    def known(self) -> tuple[Sequence[Known], Sequence[KnownService]]:
        return (), ()


def fleet(**metadata: Any) -> Fleet:
    made = Fleet(lambda *_: {}, XdsMetrics(CollectorRegistry()))
    node = Node("sidecar~10.0.0.1~web.shop~x", "web", metadata, ("", "", ""), "pymesh", None)
    made.connect(node, DeltaSession(), "127.0.0.1:5000", "delta")
    return made


def test_it_asks_while_somebody_looks_and_forgets() -> None:
    asked: list[Target] = []

    async def page(where: Target, path: str) -> str:
        if path == SYNC_PATH:
            return '{"generation": 3, "workers": [3, 2], "unbound": [], "types": {}}'
        asked.append(where)
        return LINE.format(10 * len(asked))

    async def main() -> None:
        collector = Collector(fleet(ENVOY_PROMETHEUS_PORT=15090.0), Nothing(), fetch=page, interval=0.01, linger=0.02)
        await asyncio.sleep(0.05)
        assert asked == []
        async with collector.watching():
            await collector.after(3)
            assert collector.is_running
            assert set(collector.state["edges"]) == {"shop/web>shop/cart"}
            assert collector.state["edges"]["shop/web>shop/cart"]["rate"] > 0
            assert collector.own("sidecar~10.0.0.1~web.shop~x") == {
                "generation": 3, "workers": [3, 2], "unbound": [], "types": {},
            }  # fmt: skip
            history = collector.history("shop/cart")
            assert len(history["at"]) == len(history["rate"]) == collector.sequence
            assert history["rate"][0] is None
        async with asyncio.timeout(20):
            while collector.is_running:  # noqa: ASYNC110 - nothing tells of its end
                await asyncio.sleep(0.01)
        count = len(asked)
        await asyncio.sleep(0.05)
        assert len(asked) == count
        assert (collector.sequence, collector.state, collector.history("shop/cart")["at"]) == (0, {}, [])
        # Counting begins again: what happened meanwhile is no rate.
        assert (await collector.latest())["edges"]["shop/web>shop/cart"]["rate"] is None
        await collector.stop()
        assert set(asked) == {Target("127.0.0.1", 15090)}

    asyncio.run(main())


@pytest.mark.parametrize("port", [None, "x", -1, 0, 65536, float("inf"), [1], "15090 "])
def test_a_proxy_that_does_not_tell_where_its_metrics_are_is_told_of(port: object) -> None:
    async def page(where: Target, path: str) -> str:
        assert where == Target("127.0.0.1", 15090)
        raise ScrapeError("nobody there")

    async def main() -> None:
        collector = Collector(fleet(ENVOY_PROMETHEUS_PORT=port), Nothing(), fetch=page)
        state = await collector.latest()
        assert list(collector.problems) == ["sidecar~10.0.0.1~web.shop~x"]
        assert state["mesh"]["mesh"]["silent"] == 1
        assert set(state["nodes"]) == {"shop/web"}
        await collector.stop()

    asyncio.run(main())


@pytest.mark.parametrize(
    "told",
    [
        "",
        "[]",
        "{}",
        '{"generation": "3", "workers": [3], "unbound": [], "types": {}}',
        '{"generation": 3, "workers": 3, "unbound": [], "types": {}}',
        '{"generation": 3, "workers": [3], "unbound": [], "types": {"x": {"nonce": 1}}}',
    ],
)
def test_a_proxy_that_tells_rubbish_of_itself_tells_nothing(told: str) -> None:
    async def page(_: Target, path: str) -> str:
        return told if path == SYNC_PATH else LINE.format(1)

    async def main() -> None:
        collector = Collector(fleet(ENVOY_PROMETHEUS_PORT=15090), Nothing(), fetch=page)
        await collector.latest()
        assert collector.own("sidecar~10.0.0.1~web.shop~x") is None
        assert collector.problems == {}
        await collector.stop()

    asyncio.run(main())


def test_who_waits_is_let_go_at_the_end() -> None:
    async def main() -> None:
        collector = Collector(fleet(), Nothing(), interval=60)
        async with collector.watching():
            await collector.after(0)
            waiting = asyncio.create_task(collector.after(1))
            await asyncio.sleep(0.01)
            assert not waiting.done()
            await collector.stop()
            async with asyncio.timeout(20):
                await waiting
        async with asyncio.timeout(20), collector.watching():
            await collector.after(0)
        assert collector.is_stopped and not collector.is_running

    asyncio.run(main())


def test_so_many_may_look_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_WATCHERS", 1)

    async def main() -> None:
        collector = Collector(fleet(), Nothing())
        async with collector.watching():
            with pytest.raises(TooManyError):
                async with collector.watching():
                    pass
        async with collector.watching():
            pass
        await collector.stop()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", "abc"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", "abc"),
        (b"HTTP/1.0 200 OK\r\n\r\nabc", "abc"),
        (b"HTTP/1.1 503 No\r\ncontent-length: 3\r\n\r\nabc", "refused: status 503"),
        (
            b"HTTP/1.1 302 Go\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
            "refused: status 302",
        ),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", "refused: "),
        (b"hello\r\n\r\n", "refused: "),
        (b"", "refused: "),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 300000000\r\n\r\n" + b"x" * 40_000_000,
            "refused: more than 32 MiB",
        ),
    ],
)
def test_what_a_page_may_be(answer: bytes, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Not what this is about, on a machine that is busy.
    monkeypatch.setattr(scrape, "PATIENCE_SECONDS", 60.0)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        where = Target("127.0.0.1", server.sockets[0].getsockname()[1])
        async with server:
            if expected.startswith("refused: "):
                with pytest.raises(ScrapeError, match="/stats/prometheus: " + expected.removeprefix("refused: ")):
                    await fetch(where)
            else:
                assert await fetch(where) == expected

    asyncio.run(main())


@pytest.mark.parametrize(
    "line",
    [
        'envoy_http_downstream_rq_active{envoy_http_conn_manager_prefix="inbound_x"} inf',
        'istio_request_duration_milliseconds_bucket{le="x"} 1',
    ],
)
def test_a_page_that_cannot_be_read_is_told_of_its_proxy(line: str) -> None:
    async def page(_: Target, path: str) -> str:
        return "{}" if path == SYNC_PATH else LINE.format(1) + line + "\n"

    async def main() -> None:
        collector = Collector(fleet(ENVOY_PROMETHEUS_PORT=15090), Nothing(), fetch=page)
        await collector.latest()
        problem = collector.problems["sidecar~10.0.0.1~web.shop~x"]
        assert problem.startswith("its metrics cannot be read: ")
        await collector.stop()

    asyncio.run(main())
