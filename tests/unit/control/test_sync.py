"""How far a proxy is: each way of being behind, by what the control plane and the proxy's own page say."""

from __future__ import annotations

from typing import Any

import pytest

from pymesh.control.admin.rejections import path_of
from pymesh.control.admin.sync import TypeState, judge
from pymesh.control.xds import pb

OBJECT = {"kind": "VirtualService", "namespace": "shop", "name": "reviews", "at": "reviews.yaml:7:3"}


def told(**changes: Any) -> dict[str, Any]:
    """The control plane's entry of one type, in sync."""
    known = {
        "sent": "v2", "acked": "v2", "sent_nonce": "5", "acked_nonce": "5", "behind": False, "resources": 3,
    }  # fmt: skip
    return {**known, **changes}


def own(*, generation: int = 7, workers: tuple[int, ...] = (7, 7), unbound: tuple[str, ...] = (), **taken: Any) -> Any:
    state = {"nonce": "5", "warming": [], "rejected": [], **taken}
    return {"generation": generation, "workers": list(workers), "unbound": list(unbound), "types": {pb.LISTENER: state}}


def state(entry: dict[str, Any] | None, page: Any, waiting: tuple[str, ...] = ()) -> TypeState:
    synced = {"types": {pb.LISTENER: entry} if entry is not None else {}, "waits_for_endpoints": list(waiting)}
    return judge(synced, page, lambda url, name, path: [{**OBJECT, "name": f"{name} {path}"}])["LDS"]


CASES = (
    (told(), own(), (), "SYNCED", ""),
    (None, own(), (), "NOT SENT", "does not ask"),
    (told(sent_nonce="", sent=""), own(), (), "NOT SENT", "nothing was sent yet"),
    (told(sent_nonce="", sent=""), own(), ("outbound|80||a",), "NOT SENT", "endpoints of outbound|80||a"),
    (told(behind=True), own(), (), "STALE", "about to be sent"),
    (told(behind=True), own(), ("a", "b"), "STALE", "asks for the endpoints of a, b"),
    (told(acked_nonce="", acked=""), own(), (), "STALE", "never acknowledged"),
    (told(acked_nonce="4"), own(), (), "STALE", "sent, and not acknowledged yet"),
    (told(), own(nonce="4"), (), "STALE", "acknowledged, and not in force yet"),
    (told(), own(nonce=None), (), "STALE", "acknowledged, and not in force yet"),
    (told(), own(warming=["a", "b"]), (), "STALE", "(warming): a, b"),
    (told(), own(workers=(7, 6)), (), "STALE", "on 1/2 workers"),
    (told(), own(unbound=("listener x: in use",)), (), "STALE", "not opened"),
    (told(), None, (), "SYNCED", "only the proxy knows"),
)


@pytest.mark.parametrize(("entry", "page", "waiting", "expected", "reason"), CASES)
def test_each_way_of_being_behind(
    entry: dict[str, Any] | None, page: Any, waiting: tuple[str, ...], expected: str, reason: str
) -> None:
    found = state(entry, page, waiting)
    assert found.state == expected
    assert reason in found.reason
    assert bool(found.reason) == bool(reason)


def test_what_is_in_force() -> None:
    assert state(told(), own()).effective == "5"
    assert state(told(), own(nonce="4")).effective == "4"
    assert state(told(), own(workers=(7, 6))).effective == ""
    assert state(told(), None).effective is None


def test_a_refusal_is_traced_by_its_path() -> None:
    refused = [{"name": "http.80", "version": "v2", "problems": ["virtual_hosts[0].routes[1]: no (hint: yes)"]}]
    found = state(told(), own(rejected=refused))
    assert found.state == "STALE"
    (problem,) = found.problems
    assert problem.lines() == [
        "http.80: virtual_hosts[0].routes[1]: no (hint: yes)",
        "  VirtualService shop/http.80 virtual_hosts[0].routes[1] at reviews.yaml:7:3",
    ]


def test_a_listener_that_cannot_be_opened_is_traced() -> None:
    (problem,) = state(told(), own(unbound=("listener x: in use\nhint: stop it",))).problems
    assert problem.lines() == ["x: in use; hint: stop it", "  VirtualService shop/x  at reviews.yaml:7:3"]


def test_a_refusal_of_a_proxy_without_such_a_page_is_the_control_planes_to_trace() -> None:
    rejected = {"version": "v2", "reason": "x", "problems": [{"resource": "a", "problem": "x", "objects": [OBJECT]}]}
    found = state(told(rejected=rejected), None)
    assert (found.state, found.problems[0].objects) == ("STALE", (OBJECT,))


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("virtual_hosts[0].routes[1].match: no", "virtual_hosts[0].routes[1].match"),
        ('a.policies["ns[x]-policy[y]-rule[0]"].b: no', 'a.policies["ns[x]-policy[y]-rule[0]"].b'),
        ("address: listener `x` has this address", "address"),
        ("it has no name", ""),
        ("Error adding listener: x", ""),
    ],
)
def test_the_path_that_a_problem_begins_with(text: str, path: str) -> None:
    assert path_of(text) == path
