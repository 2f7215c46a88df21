"""A copy of a kind's objects: what a server may do, answer by answer, on a clock that is set by hand."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest

from pymesh.control.sources.kubernetes.backoff import Backoff
from pymesh.control.sources.kubernetes.client import ApiError
from pymesh.control.sources.kubernetes.kinds import Kind
from pymesh.control.sources.kubernetes.reflector import Reflector

KIND = Kind("networking.istio.io", "Sidecar", ("v1", "v1beta1"), "sidecars")
GONE = ApiError("too old", code=410, reason="Expired")
NOT_FOUND = ApiError("the server could not find it", code=404, reason="NotFound")
DOWN = ApiError("connection refused")


def item(name: str, version: int, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "shop", "resourceVersion": str(version)}, "spec": spec}


def listed(version: int, *items: dict[str, Any], token: str = "") -> dict[str, Any]:
    return {"metadata": {"resourceVersion": str(version), "continue": token}, "items": list(items)}


def event(what: str, one: dict[str, Any]) -> dict[str, Any]:
    return {"type": what, "object": one}


class Script:
    """A server whose answers are known beforehand; when there are no more of them, time stands still."""

    def __init__(self, lists: list[Any], watches: list[list[Any]]) -> None:
        self.lists, self.watches = lists, watches
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.over = asyncio.Event()
        self.time = 0.0
        self.waits: list[float] = []

    async def request(self, method: str, path: str, *, query: Mapping[str, str]) -> Any:
        self.asked.append((path, dict(query)))
        return await self._next(self.lists)

    async def watch(self, path: str, query: Mapping[str, str], opened: Callable[[], None]) -> AsyncIterator[Any]:
        self.asked.append((f"watch {path}", dict(query)))
        if not (self.watches and self.watches[0] and isinstance(self.watches[0][0], Exception)):
            opened()
        if not self.watches:
            await self._end()
        for one in self.watches.pop(0):
            if isinstance(one, Exception):
                raise one
            if isinstance(one, float):
                self.time += one
                continue
            yield one

    async def _next(self, answers: list[Any]) -> Any:
        if not answers:
            await self._end()
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _end(self) -> None:
        self.over.set()
        await asyncio.Event().wait()

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.time += seconds
        await asyncio.sleep(0)


async def play(script: Script, kind: Kind = KIND, **more: Any) -> tuple[Reflector, list[dict[str, int]]]:
    """The reflector after everything, and what it held at each change: name -> version."""
    seen: list[dict[str, int]] = []
    made: Reflector = Reflector(
        script,  # type: ignore[arg-type]
        kind,
        lambda: seen.append({name: int(o["metadata"]["resourceVersion"]) for (_, name), o in made.objects.items()}),
        backoff=Backoff(random=random.Random(1)),
        sleep=script.sleep,
        clock=lambda: script.time,
        rng=random.Random(1),
        **more,
    )
    task = asyncio.create_task(made.run())
    async with asyncio.timeout(20):
        await script.over.wait()
    task.cancel()
    await asyncio.wait([task])
    return made, seen


def run(lists: list[Any], watches: list[list[Any]], **more: Any) -> tuple[Script, Reflector, list[dict[str, int]]]:
    async def whole() -> tuple[Script, Reflector, list[dict[str, int]]]:
        script = Script(lists, watches)
        made, seen = await play(script, **more)
        return script, made, seen

    return asyncio.run(whole())


def test_a_list_comes_in_pages_and_the_watch_goes_on_from_there() -> None:
    script, made, seen = run(
        [listed(7, item("a", 3), token="more"), listed(7, item("b", 5))],
        [[event("MODIFIED", item("a", 8, x=1)), event("DELETED", item("b", 9)), event("ADDED", item("c", 10)), 5.0]],
    )
    assert seen == [{"a": 3, "b": 5}, {"a": 8, "b": 5}, {"a": 8}, {"a": 8, "c": 10}]
    assert script.asked[0] == ("/apis/networking.istio.io/v1/sidecars", {"limit": "500"})
    assert script.asked[1][1] == {"limit": "500", "continue": "more"}
    assert [query["resourceVersion"] for path, query in script.asked if path.startswith("watch")] == ["7", "10"]
    assert made.objects["shop", "a"]["kind"] == "Sidecar"
    assert made.objects["shop", "a"]["apiVersion"] == "networking.istio.io/v1"


def test_what_has_not_changed_for_the_mesh_is_no_change() -> None:
    touched = item("a", 9)
    touched["status"] = {"conditions": []}
    touched["metadata"]["managedFields"] = [{"manager": "kubectl"}]
    _, made, seen = run([listed(7, item("a", 3))], [[event("MODIFIED", touched), 5.0]])
    assert seen == [{"a": 3}]
    assert made.objects["shop", "a"]["metadata"]["resourceVersion"] == "9"
    assert "managedFields" not in made.objects["shop", "a"]["metadata"]


def test_bookmarks_move_the_place_to_go_on_from() -> None:
    script, _, seen = run([listed(7)], [[event("BOOKMARK", item("", 30)), 5.0, DOWN], [5.0]])
    assert [query["resourceVersion"] for path, query in script.asked if path.startswith("watch")] == ["7", "30", "30"]
    assert seen == [{}]


@pytest.mark.parametrize(
    "fault",
    [GONE, event("ERROR", {"code": 410, "reason": "Expired", "message": "too old resource version"})],
    ids=["status", "event"],
)
def test_what_is_no_longer_kept_is_listed_anew_and_nothing_is_withdrawn_before(fault: Any) -> None:
    script, _, seen = run(
        [listed(7, item("a", 3), item("b", 5)), DOWN, DOWN, listed(20, item("a", 3), item("c", 15))],
        [[fault], [5.0]],
    )
    assert seen == [{"a": 3, "b": 5}, {"a": 3, "c": 15}]
    assert len(script.waits) == 3


def test_a_watch_that_breaks_off_is_taken_up_without_a_list() -> None:
    script, made, seen = run(
        [listed(7)], [[event("ADDED", item("a", 8)), DOWN], [DOWN], [event("ADDED", item("b", 9)), 9.0]]
    )
    assert seen == [{}, {"a": 8}, {"a": 8, "b": 9}]
    assert [path for path, _ in script.asked if not path.startswith("watch")] == [
        "/apis/networking.istio.io/v1/sidecars"
    ]
    assert made.trouble == ""


def test_waits_grow_and_the_server_may_ask_for_longer_ones() -> None:
    busy = ApiError("slow down", code=429, retry_after=12)
    script, made, _ = run([DOWN, DOWN, DOWN, DOWN, busy], [])
    assert script.waits[4] == 12
    for number, wait in enumerate(script.waits[:4]):
        assert 0.1 * 2**number <= wait <= 0.2 * 2**number
    assert made.trouble == "slow down"
    assert not made.is_synced


def test_pages_of_a_version_that_is_gone_are_fetched_at_once() -> None:
    script, _, seen = run([listed(7, item("a", 3), token="t"), GONE, listed(9, item("a", 3), item("b", 8))], [[5.0]])
    assert seen == [{"a": 3, "b": 8}]
    assert [query for path, query in script.asked if not path.startswith("watch")][2] == {}
    assert script.waits == []


def test_a_server_behind_its_time_is_not_believed_at_once() -> None:
    old, new = item("a", 3, x="old"), item("a", 18, x="new")
    script, _, seen = run([listed(20, new), *[listed(7, old)] * 30], [[GONE]])
    # Nothing old is taken until it is clear that the server will not catch up.
    assert seen[0] == {"a": 18}
    assert seen[1] == {"a": 3}
    assert sum(script.waits) >= 60


def test_a_server_that_catches_up_is_asked_again() -> None:
    _, _, seen = run([listed(20, item("a", 18)), listed(7, item("a", 3)), listed(21, item("b", 21))], [[GONE], [5.0]])
    assert seen == [{"a": 18}, {"b": 21}]


def test_an_event_that_is_told_late_changes_nothing() -> None:
    _, made, seen = run(
        [listed(20, item("a", 18, x=1))],
        [[event("MODIFIED", item("a", 12, x=0)), event("DELETED", item("a", 13)), 5.0]],
    )
    assert seen == [{"a": 18}]
    assert made.objects["shop", "a"]["spec"] == {"x": 1}


def test_everything_is_listed_now_and_then_so_that_nothing_that_was_missed_is_missed_for_long() -> None:
    script, _, seen = run([listed(7, item("a", 3)), listed(40, item("b", 30))], [[700.0], [5.0]], relist_seconds=600)
    assert seen == [{"a": 3}, {"b": 30}]
    assert script.waits == []
    first = next(query for path, query in script.asked if path.startswith("watch"))
    assert 240 <= int(first["timeoutSeconds"]) <= 300


def test_a_kind_that_the_server_does_not_have_yet() -> None:
    script, made, seen = run([NOT_FOUND, NOT_FOUND, NOT_FOUND, listed(7, item("a", 3))], [[5.0]])
    assert seen == [{}, {"a": 3}]
    assert [path for path, _ in script.asked][:4] == [
        "/apis/networking.istio.io/v1/sidecars",
        "/apis/networking.istio.io/v1beta1/sidecars",
        "/apis/networking.istio.io/v1/sidecars",
        "/apis/networking.istio.io/v1beta1/sidecars",
    ]
    assert made.objects["shop", "a"]["apiVersion"] == "networking.istio.io/v1beta1"


def test_a_definition_that_is_gone_withdraws_nothing_that_was_not_told_gone() -> None:
    _, made, seen = run([listed(7, item("a", 3)), NOT_FOUND, NOT_FOUND], [[GONE]])
    assert seen == [{"a": 3}]
    assert made.is_synced


def test_a_watch_that_is_quiet_is_in_touch_again() -> None:
    _, made, _ = run([listed(7)], [[DOWN]])
    assert made.trouble == "", "the last watch has begun, and nothing has happened yet"


def test_watches_that_end_at_once_are_a_failure() -> None:
    script, _, _ = run([listed(7)], [[], [], []])
    assert len(script.waits) == 3
    assert script.waits[2] > script.waits[0]


def test_of_a_pod_little_is_kept_and_who_is_to_go_is_not_ready() -> None:
    def kept(**metadata: Any) -> Any:
        conditions = [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
            {"type": "PodScheduled", "status": "True"},
        ]
        one = item("web-1", 3, nodeName="n1", containers=[{"name": "web"}])
        pod = {
            **one,
            "metadata": {**one["metadata"], **metadata},
            "status": {"phase": "Running", "conditions": conditions},
        }
        _, made, _ = run([listed(7, pod)], [[5.0]], kind=Kind("", "Pod", ("v1",), "pods"))
        return made.objects["shop", "web-1"]

    assert kept()["spec"] == {"nodeName": "n1"}
    assert kept()["status"] == {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    assert "conditions" not in kept(deletionTimestamp="2026-01-01T00:00:00Z")["status"]
