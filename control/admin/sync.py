"""How far a proxy is with what the control plane has for it, type by type.

Three things can be behind: the control plane has something newer that it has not sent; the proxy has not taken what was
sent, or has refused it; or what it took is not in force on all of its workers yet. Only the proxy's own page
(`/config_sync`) knows the last; it names the answer (nonce) that it took in last, so that nothing is guessed from
versions. Judgements are functions of two entries: the control plane's (:func:`entry`) and the proxy's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pymesh.control.admin import rejections
from pymesh.control.admin.rejections import path_of
from pymesh.control.xds import pb
from pymesh.control.xds.fleet import Connection
from pymesh.control.xds.node import ADMIN_ADDRESS, Node

#: In the order in which people read them; and their type URLs.
TYPES: tuple[tuple[str, str], ...] = (
    ("CDS", pb.CLUSTER),
    ("LDS", pb.LISTENER),
    ("EDS", pb.ENDPOINTS),
    ("RDS", pb.ROUTES),
    ("SDS", pb.SECRET),
)
_MOST_NAMES = 5

State = Literal["SYNCED", "STALE", "NOT SENT"]
#: Of a proxy, over all types: NACK is that it has refused something.
Overall = Literal["SYNCED", "STALE", "NACK"]
#: From a type URL, a resource's name and a path in it to the users' resources behind.
Trace = Callable[[str, str, str], Sequence[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something of a type that the proxy has refused, and whose doing it is."""

    resource: str
    problem: str
    objects: tuple[Mapping[str, Any], ...] = ()

    def lines(self) -> list[str]:
        """For people."""
        problem = self.problem.replace("\n", "; ")
        found = [f"{self.resource}: {problem}" if self.resource else problem]
        for one in self.objects[:_MOST_NAMES]:
            found.append(f"  {one['kind']} {one['namespace']}/{one['name']} at {one['at']}")
        return found


@dataclass(frozen=True, slots=True)
class TypeState:
    """How far a proxy is with one type."""

    state: State
    #: Why it is not SYNCED, or what is not known.
    reason: str = ""
    #: Nonce and version of the latest response, of the latest that was taken, and the nonce in force on all workers.
    sent: tuple[str, str] = ("", "")
    acked: tuple[str, str] = ("", "")
    #: Empty if nothing is, None if the proxy does not tell.
    effective: str | None = None
    resources: int = 0
    problems: tuple[Problem, ...] = ()

    def as_data(self) -> dict[str, Any]:
        """For machines."""
        return {
            "state": self.state,
            "reason": self.reason,
            "sent": {"nonce": self.sent[0], "version": self.sent[1]},
            "acknowledged": {"nonce": self.acked[0], "version": self.acked[1]},
            "effective": self.effective,
            "resources": self.resources,
            "problems": [
                {"resource": one.resource, "problem": one.problem, "objects": [dict(each) for each in one.objects]}
                for one in self.problems
            ],
        }


@dataclass(frozen=True, slots=True)
class Workers:
    """Which workers of a proxy run the newest snapshot."""

    current: int
    total: int

    @property
    def are_current(self) -> bool:
        """All of them."""
        return self.current == self.total

    def __str__(self) -> str:
        return f"{self.current}/{self.total}"


def entry(connection: Connection, trace: rejections.Trace) -> dict[str, Any]:
    """What the control plane knows of a connection: its entry on `/debug/syncz`."""
    types = {}
    for status in connection.session.status():
        types[status.type_url] = {
            "sent": status.sent_version,
            "acked": status.acked_version,
            "synced": status.sent_version == status.acked_version,
            "sent_nonce": status.sent_nonce,
            "acked_nonce": status.acked_nonce,
            "behind": status.is_behind,
            "resources": status.resources,
            "wildcard": status.wildcard,
            "subscribed": status.subscribed,
        }
        if status.rejection:
            table = connection.snapshot.get(status.type_url)
            types[status.type_url]["rejected"] = {
                "version": status.rejected_version,
                "reason": status.rejection,
                "problems": rejections.traced(table, status.rejection, trace),
            }
    node = connection.node
    return {
        "proxy": node.id,
        "cluster": node.cluster,
        "identity": str(node.identity) if node.identity else None,
        "peer": connection.peer,
        "variant": connection.variant,
        "version": _version(node),
        "admin": str(node.metadata.get(ADMIN_ADDRESS, "")) or None,
        "waits_for_endpoints": connection.session.unasked_endpoints(),
        "connected_at": connection.connected_at.isoformat(),
        "types": types,
    }


def _version(node: Node) -> str:
    return f"{node.user_agent}/{node.user_agent_version}".strip("/")


def workers(own: Mapping[str, Any]) -> Workers:
    """From the proxy's page."""
    return Workers(sum(one == own["generation"] for one in own["workers"]), len(own["workers"]))


def judge(synced: Mapping[str, Any], own: Mapping[str, Any] | None, trace: Trace) -> dict[str, TypeState]:
    """By the type's short name. ``own`` is the proxy's page, None where it has none or does not answer."""
    return {short: _judge(url, synced, own, trace) for short, url in TYPES}


def overall(states: Mapping[str, TypeState]) -> Overall:
    """The worst of them."""
    if any(one.problems for one in states.values()):
        return "NACK"
    return "STALE" if any(one.state == "STALE" for one in states.values()) else "SYNCED"


def _judge(url: str, synced: Mapping[str, Any], own: Mapping[str, Any] | None, trace: Trace) -> TypeState:
    told = synced["types"].get(url)
    if told is None:
        return TypeState("NOT SENT", "the proxy does not ask for it")
    sent, acked = (told["sent_nonce"], told["sent"]), (told["acked_nonce"], told["acked"])
    if not sent[0]:
        return TypeState("NOT SENT", _held_back(synced) or "nothing was sent yet")
    taken = own["types"].get(url) if own is not None else None
    effective: str | None = None
    if own is not None and taken is not None:
        effective = (taken["nonce"] or "") if workers(own).are_current else ""
    problems = _problems(url, told, taken, trace)

    def found(state: State, reason: str) -> TypeState:
        return TypeState(state, reason, sent, acked, effective, told["resources"], problems)

    if problems:
        return found("STALE", "refused; what was good before stays in force")
    if told["behind"]:
        return found("STALE", _held_back(synced) or "something newer is about to be sent")
    if acked[0] != sent[0]:
        return found("STALE", "sent, and not acknowledged yet" if acked[0] else "never acknowledged")
    if own is None or taken is None:
        return found("SYNCED", "acknowledged; whether it is in force only the proxy knows")
    if taken["nonce"] != sent[0]:
        return found("STALE", "acknowledged, and not in force yet")
    if taken["warming"]:
        return found("STALE", f"waits for what it needs (warming): {_listed(taken['warming'])}")
    if not workers(own).are_current:
        return found("STALE", f"in force on {workers(own)} workers")
    if url == pb.LISTENER and own["unbound"]:
        problems = tuple(_unbound(text, trace) for text in own["unbound"])
        return found("STALE", "not opened")
    return found("SYNCED", "")


def _unbound(text: str, trace: Trace) -> Problem:
    """A listener whose address the system refuses: `listener NAME: why`."""
    name, _, why = text.removeprefix("listener ").partition(": ")
    return Problem(name, why, tuple(trace(pb.LISTENER, name, "")))


def _held_back(synced: Mapping[str, Any]) -> str:
    waiting = synced.get("waits_for_endpoints") or []
    return f"waits until the proxy asks for the endpoints of {_listed(waiting)}" if waiting else ""


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def _problems(url: str, told: Mapping[str, Any], taken: Mapping[str, Any] | None, trace: Trace) -> tuple[Problem, ...]:
    """What the proxy has refused. Its own page still knows what an answer to something later hides."""
    if taken is not None:
        return tuple(
            Problem(one["name"], text, tuple(trace(url, one["name"], path_of(text))))
            for one in taken["rejected"]
            for text in one["problems"]
        )
    refused = told.get("rejected")
    listed = refused["problems"] if refused is not None else ()
    return tuple(Problem(one["resource"], one["problem"], tuple(one["objects"])) for one in listed)
