"""Many questions to a webhook hold up nobody but each other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson
import pytest
from prometheus_client import CollectorRegistry

from pymesh.control.admission import serving
from pymesh.control.admission.serving import MOST_WAITING, Webhooks
from pymesh.control.install.webhooks import INJECT_PATH, VALIDATE_PATH
from pymesh.control.resources.metadata import Resource

SERVICE = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "namespace": "b"},
           "spec": {"ports": [{"port": 80}]}}  # fmt: skip
REVIEW = orjson.dumps(
    {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {"uid": "u", "kind": {"kind": "Service"}, "operation": "CREATE", "object": SERVICE},
    }
)


async def posted(application: Any, path: str, receive: Callable[[], Awaitable[Any]] | None = None) -> int:
    status: list[int] = []

    async def whole() -> Any:
        return {"type": "http.request", "body": REVIEW, "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            status.append(message["status"])

    scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b"", "root_path": ""}
    await application(scope, receive or whole, send)
    return status[0]


def test_who_comes_when_many_wait_is_told_so_and_the_other_webhook_goes_on() -> None:
    hold, threads = threading.Event(), set[str]()

    def among(_: Resource) -> list[Any]:
        threads.add(threading.current_thread().name)
        assert hold.wait(60)
        return []

    async def main() -> None:
        application = Webhooks(None, among, CollectorRegistry()).application(lambda: True)
        asked = [asyncio.create_task(posted(application, VALIDATE_PATH)) for _ in range(MOST_WAITING + 3)]
        busy, waiting = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED, timeout=60)
        while len(busy) < 3:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED, timeout=60)
            assert done
            busy |= done
        assert [one.result() for one in busy] == [503] * 3
        assert await posted(application, INJECT_PATH) == 200
        # What needs a thread elsewhere has one.
        assert await asyncio.to_thread(lambda: 1) == 1
        hold.set()
        assert await asyncio.gather(*waiting) == [200] * MOST_WAITING
        assert await posted(application, VALIDATE_PATH) == 200

    asyncio.run(main())
    assert len(threads) == 1


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_BODY_SECONDS", 0.05)

    async def parts() -> AsyncIterator[Any]:
        yield {"type": "http.request", "body": b"{", "more_body": True}
        await asyncio.Event().wait()

    async def main() -> None:
        application = Webhooks(None, lambda _: [], CollectorRegistry()).application(lambda: True)
        assert await posted(application, VALIDATE_PATH, parts().__anext__) == 408

    asyncio.run(main())


def test_all_that_wait_together_are_no_larger_than_can_be_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "MOST_HELD", 1000)

    async def main() -> None:
        application = Webhooks(None, lambda _: [], CollectorRegistry()).application(lambda: True)
        whole = asyncio.Event()

        async def parts() -> AsyncIterator[Any]:
            yield {"type": "http.request", "body": b" " * 900, "more_body": True}
            await whole.wait()
            yield {"type": "http.request", "body": b"{", "more_body": False}

        first = asyncio.create_task(posted(application, VALIDATE_PATH, parts().__anext__))
        await asyncio.sleep(0)
        assert await posted(application, VALIDATE_PATH) == 503
        whole.set()
        assert await first == 400
        assert await posted(application, VALIDATE_PATH) == 200

    asyncio.run(main())
