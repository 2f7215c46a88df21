"""The writer of statuses: what it writes once, what it writes again, and what it leaves alone."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from pymesh.control.resources.diagnostics import Diagnostic, Position
from pymesh.control.sources.kubernetes.client import ApiClient, ApiError
from pymesh.control.sources.kubernetes.status import SETTLED_SECONDS, State, StatusWriter, by_resource, wanted
from pymesh.control.status.objects import Object
from pymesh.control.store.store import MeshOptions, Store

VERSION = "networking.istio.io/v1"


class Server:
    """An API server with one VirtualService, that keeps of a status what its schema knows."""

    def __init__(self, *, prunes: bool = False) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.leads = True
        self.refuses = 0
        self.asked: list[tuple[str, str]] = []
        self.prunes = prunes
        self.meta: dict[str, Any] = {
            "name": "v",
            "namespace": "shop",
            "uid": "1",
            "generation": 2,
            "resourceVersion": "9",
        }
        self.status: Mapping[str, Any] = {}
        self.findings: tuple[Diagnostic, ...] = ()
        client = cast(ApiClient, self)
        self.writer = StatusWriter(client, self, self.state, dict, "us", lambda: self.now)

    def state(self) -> State:
        document = {"metadata": dict(self.meta), "spec": {}, "status": self.status}
        return State(Store(MeshOptions()), [Object(VERSION, "VirtualService", document, None, self.findings)])

    async def request(self, method: str, path: str, body: Any = None, **_: Any) -> dict[str, Any]:
        self.asked.append((method, path))
        if self.refuses:
            raise ApiError("no", code=self.refuses)
        if method == "PATCH":
            assert body["metadata"]["resourceVersion"] == self.meta["resourceVersion"]
            self.status = dict(body["status"])
            if self.prunes:
                self.status.pop("observedGeneration")
            self.meta["resourceVersion"] += "0"
        return {"metadata": self.meta, "status": self.status}

    def round(self) -> bool:
        return asyncio.run(self.writer.round())


PATCHED = [("PATCH", "/apis/networking.istio.io/v1/namespaces/shop/virtualservices/v/status")]
ERROR = Diagnostic(Position("VirtualService/shop/v"), "it is wrong", "mend it")


def test_what_is_said_is_not_said_again() -> None:
    server = Server()
    assert server.round()
    assert server.asked == PATCHED
    server.now += timedelta(hours=1)
    assert server.round()
    assert server.asked == PATCHED


def test_a_server_that_keeps_less_is_not_told_for_ever() -> None:
    server = Server(prunes=True)
    for _ in range(3):
        assert server.round()
    assert server.asked == PATCHED
    server.status = {}
    assert server.round()
    assert server.asked == PATCHED * 2, "somebody else has changed it"


def test_who_does_not_lead_writes_nothing() -> None:
    server = Server()
    server.leads = False
    assert not server.round()
    assert server.asked == []


def test_a_version_that_is_no_more_is_tried_again_and_one_that_is_gone_is_not() -> None:
    server = Server()
    server.refuses = 409
    assert not server.round()
    server.refuses = 403
    assert not server.round()
    server.refuses = 404
    assert server.round()
    assert server.round()
    assert len(server.asked) == 3


def test_an_event_waits_until_what_is_wrong_has_stayed_and_is_sent_once() -> None:
    server = Server()
    server.findings = (ERROR,)
    server.round()
    assert server.asked == PATCHED
    assert server.status["conditions"][0]["message"] == "VirtualService/shop/v: it is wrong; hint: mend it"
    server.now += timedelta(seconds=SETTLED_SECONDS)
    server.round()
    server.round()
    events = [one for one in server.asked if one[0] == "POST"]
    assert events == [("POST", "/apis/events.k8s.io/v1/namespaces/shop/events")]


def test_what_is_mended_at_once_is_no_event() -> None:
    server = Server()
    server.findings = (ERROR,)
    server.round()
    server.findings = ()
    server.now += timedelta(seconds=SETTLED_SECONDS)
    server.round()
    server.findings = (ERROR,)
    server.round()
    assert not [one for one in server.asked if one[0] == "POST"]


def test_a_filter_that_proxies_refuse_is_not_programmed() -> None:
    document = {"metadata": {"name": "f", "namespace": "shop", "uid": "2"}, "spec": {}}
    found = Object("extensions.pymesh.dev/v1alpha1", "PythonFilter", document)
    behind = [
        {"kind": "PythonFilter", "namespace": "shop", "name": "f"},
        {"kind": "Service", "namespace": "shop", "name": "s"},
    ]
    refused = [("web.shop", [{"problem": "f.py:3: NameError", "objects": behind}])]
    state = State(Store(MeshOptions()), [found])
    ((_, status),) = wanted(state, by_resource(refused), datetime(2026, 1, 1, tzinfo=UTC))
    accepted, programmed = status["conditions"]
    assert (accepted["type"], accepted["status"]) == ("Accepted", "True")
    assert (programmed["status"], programmed["reason"]) == ("False", "RejectedByProxies")
    assert programmed["message"] == "web.shop: f.py:3: NameError"
