"""The roots of each namespace are written whatever becomes of another's."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from pymesh.control.sources.kubernetes.client import ApiError
from pymesh.control.sources.kubernetes.roots import KEY, RootsWriter

NAMESPACES = ("aaa", "bank", "kube-system", "shop")


class Server:
    """It refuses what it is told to."""

    def __init__(self, **refused: ApiError) -> None:
        self.refused = refused
        self.maps: dict[str, dict[str, str]] = {}

    async def request(self, method: str, path: str, body: Any = None, **_: Any) -> dict[str, Any]:
        if method == "GET":
            return {"items": [{"metadata": {"namespace": name}, "data": data} for name, data in self.maps.items()]}
        namespace = path.split("/")[4]
        if namespace in self.refused:
            raise self.refused[namespace]
        self.maps[namespace] = body["data"]
        return {}


class Leader:
    leads = True


def writer(server: Server) -> RootsWriter:
    return RootsWriter(server, Leader(), lambda: NAMESPACES, lambda: "PEM")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "is_done"),
    [(400, True), (403, True), (404, True), (422, True), (409, False), (429, False), (500, False), (0, False)],
)
def test_one_namespace_keeps_none_of_the_others_from_theirs(
    caplog: pytest.LogCaptureFixture, code: int, is_done: bool
) -> None:
    server = Server(aaa=ApiError("field is immutable", code=code))
    roots = writer(server)
    with caplog.at_level(logging.WARNING):
        # What is refused for good is left to the next look around; what is not is tried again soon.
        assert [asyncio.run(roots.round()) for _ in range(3)] == [is_done] * 3
    assert server.maps == {name: {KEY: "PEM"} for name in ("bank", "shop")}
    assert [(one.getMessage(), one.namespace, one.reason) for one in caplog.records] == [  # type: ignore[attr-defined]
        ("no roots there", "aaa", "field is immutable")
    ]
    del server.refused["aaa"]
    assert asyncio.run(roots.round())
    assert server.maps.keys() == {"aaa", "bank", "shop"}


def test_a_server_that_tells_nothing_is_an_error() -> None:
    class Silent(Server):
        async def request(self, method: str, path: str, body: Any = None, **_: Any) -> dict[str, Any]:
            raise ApiError("connection refused")

    with pytest.raises(ApiError):
        asyncio.run(writer(Silent()).round())
