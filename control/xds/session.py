"""One proxy's stream, as a pure machine: requests and snapshots go in, encoded responses come out.

The machine holds no queue. It remembers what the proxy was sent, is told what the proxy should have
(:meth:`Session.update`), and :meth:`Session.pull` computes the next response from the difference. A slow
reader thus costs nothing: the driver pulls again when the last write finished, and only the latest
snapshot counts.

Rules of the protocol that are kept here, for both variants:

* Types go out in the order clusters, endpoints, listeners, routes, secrets, and what was removed of
  clusters and endpoints goes last, after the routes that stopped using it (make before break).
* Listeners and routes wait until the proxy has asked for, and was sent, the endpoints of the clusters before
  them: a proxy hears of a cluster first and asks then, and a route to a cluster without endpoints is an outage.
* A cluster that changed waits in the proxy ("warms") until it hears its endpoints again, changed or not.
  Its endpoint resource therefore becomes owed to the proxy whenever the cluster is sent.
* The first request of a type is always answered, even by an empty response, since the proxy waits for one.
* A refused response (NACK) is not sent again; the next change of a resource sends that resource.

The two variants are :class:`~pymesh.control.xds.sotw.SotwSession` and
:class:`~pymesh.control.xds.delta.DeltaSession`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from sys import intern
from types import MappingProxyType
from typing import Any

from pymesh.control.xds import pb
from pymesh.control.xds.cache import Resource, Snapshot, Table

#: The order in which types are sent; types that are not listed come last, by name.
ORDER = (pb.CLUSTER, pb.ENDPOINTS, pb.LISTENER, pb.ROUTES, pb.SECRET)
#: Types whose removals wait until everything else was sent.
RETIRED_LAST = (pb.CLUSTER, pb.ENDPOINTS)
#: Types whose resources lead to clusters, and wait for the endpoints of those.
AFTER_ENDPOINTS = (pb.LISTENER, pb.ROUTES)
#: Types for which an empty first subscription means everything.
WILDCARD_TYPES = frozenset({pb.CLUSTER, pb.LISTENER})
WILDCARD = "*"
#: Limits on what one stream may make us remember.
MAX_NAMES = 100_000
MAX_TYPES = 32

EMPTY_TABLE = Table(MappingProxyType({}), "")


class SessionError(Exception):
    """The client broke the protocol; the stream ends with this message."""


class Outcome(Enum):
    """What a request meant."""

    SUBSCRIBED = "subscribed"
    ACKED = "acked"
    REJECTED = "rejected"
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class Received:
    """A request, judged."""

    outcome: Outcome
    type_url: str
    #: The version acknowledged or rejected, if the request was about one.
    version: str = ""
    #: The proxy's reason for a rejection.
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Response:
    """An encoded response, ready for the wire."""

    type_url: str
    nonce: str
    version: str
    #: The message's octets: its header, and the fields that it shares with the responses to other proxies.
    parts: tuple[bytes, ...]
    resources: int
    removed: int

    @property
    def size(self) -> int:
        """How many octets it has."""
        return sum(map(len, self.parts))

    @property
    def body(self) -> bytes:
        """Its octets in one piece."""
        return b"".join(self.parts)


@dataclass(frozen=True, slots=True)
class TypeStatus:
    """What a stream knows about one type, for the admin pages."""

    type_url: str
    wildcard: bool
    subscribed: int
    #: How many resources the proxy was sent and has, as far as we know.
    resources: int
    #: The latest response, and the latest one that the proxy took.
    sent_nonce: str
    sent_version: str
    acked_nonce: str
    acked_version: str
    rejected_version: str
    rejection: str
    #: The proxy should have something newer, which was not sent yet.
    is_behind: bool


@dataclass(slots=True)
class Subscription:
    """Everything remembered about one type on one stream."""

    type_url: str
    wildcard: bool = False
    names: set[str] = field(default_factory=set)
    #: Name -> version of what the proxy has, as far as we know.
    sent: dict[str, str] = field(default_factory=dict)
    #: Names that must be answered although nothing changed, as far as (or as soon as) they are subscribed.
    owed: set[str] = field(default_factory=set)
    #: The proxy waits for a response, even an empty one.
    awaited: bool = False
    #: The table that the proxy was up to date with, owed nothing; None when that is not known.
    settled: Table | None = None
    #: Names about which it was told since.
    told: set[str] = field(default_factory=set)
    #: Nonce of the latest response.
    nonce: str = ""
    sent_version: str = ""
    acked_nonce: str = ""
    acked_version: str = ""
    rejected_version: str = ""
    rejection: str = ""
    requested: bool = False

    def forget(self, name: str) -> None:
        """The proxy has it no longer."""
        self.sent.pop(name, None)
        self.told.add(name)

    def wants(self, name: str) -> bool:
        return self.wildcard or name in self.names

    def unasked(self, table: Table) -> list[str]:
        """Names that are owed and exist, but that the proxy did not ask for (yet)."""
        return [name for name in self.owed if name in table.resources and not self.wants(name)]

    def doubtful(self, table: Table) -> frozenset[str] | None:
        """The names about which ``table`` may say something that the proxy does not know; None: all may be."""
        differing = None if self.settled is None else table.differing(self.settled)
        return differing if differing is None or not self.told else differing | self.told

    def settle(self, table: Table) -> None:
        """The proxy is up to date with ``table``."""
        self.settled = table
        self.told.clear()

    def is_settled(self, table: Table) -> bool:
        """Whether the proxy is up to date with ``table``; False also where that is not known."""
        return self.settled is table and not self.told and not self.awaited

    def wanted(self, table: Table) -> Iterator[Resource]:
        """The resources of ``table`` that the proxy subscribed to, in a stable order."""
        if self.wildcard:
            yield from table.all()
            return
        for name in sorted(self.names):
            resource = table.resources.get(name)
            if resource is not None:
                yield resource

    def changed(self, table: Table, doubtful: frozenset[str] | None) -> list[Resource]:
        """The wanted resources that the proxy lacks, has in another version, or is owed."""
        if doubtful is None:
            wanted: Iterable[Resource] = self.wanted(table)
        else:
            names = sorted(name for name in doubtful if self.wants(name) and name in table.resources)
            wanted = [table.resources[name] for name in names]
        return [r for r in wanted if self.sent.get(r.name) != r.version or r.name in self.owed]

    def owe(self, name: str) -> None:
        """Answer for ``name`` with the next response."""
        self.owed.add(name)
        self.settled = None

    def is_behind(self, table: Table) -> bool:
        """Whether the proxy waits for an answer, or ``table`` has what it was not sent."""
        if self.awaited or self.is_settled(table):
            return self.awaited
        doubtful = self.doubtful(table)
        return bool(self.changed(table, doubtful) or self.retired(table, doubtful))

    def absent(self, table: Table) -> set[str]:
        """Names that the proxy is owed an answer for and that do not exist. Unwanted ones are forgotten."""
        if not self.owed:
            return set()
        absent = {n for n in self.owed if n not in table.resources}
        unwanted = {n for n in absent if not self.wants(n)}
        self.owed -= unwanted
        return absent - unwanted

    def retired(self, table: Table, doubtful: frozenset[str] | None) -> list[str]:
        """Names that the proxy has and should not have."""
        names = self.sent if doubtful is None else self.sent.keys() & doubtful
        return sorted(n for n in names if n not in table.resources or not self.wants(n))

    def judge(self, nonce: str, version: str, reason: str | None) -> Received:
        """Record the proxy's answer to the response ``nonce``, which carried ``version``."""
        if reason is None:
            self.acked_nonce, self.acked_version = nonce, version
            if version == self.sent_version:
                self.rejected_version = self.rejection = ""
            return Received(Outcome.ACKED, self.type_url, version)
        self.rejected_version, self.rejection = version, reason
        return Received(Outcome.REJECTED, self.type_url, version, reason)

    def status(self, table: Table) -> TypeStatus:
        return TypeStatus(
            self.type_url,
            self.wildcard,
            len(self.names),
            len(self.sent),
            self.nonce,
            self.sent_version,
            self.acked_nonce,
            self.acked_version,
            self.rejected_version,
            self.rejection,
            self.is_behind(table),
        )


class Session(ABC):
    """What both variants share. Not thread-safe: one driver owns one session."""

    def __init__(self) -> None:
        self._snapshot: Snapshot = MappingProxyType({})
        self._types: dict[str, Subscription] = {}
        #: Those of types that were asked for, in the order in which they are sent.
        self._requested: list[Subscription] = []
        self._nonces = 0
        #: Every type is settled, and nothing has come since.
        self._has_all = False

    def update(self, snapshot: Snapshot) -> None:
        """Say what the proxy should have from now on."""
        self._snapshot, self._has_all = snapshot, False

    def end(self) -> None:
        """The proxy has gone: nothing is remembered any longer."""
        self._snapshot = MappingProxyType({})
        self._types.clear()
        self._requested.clear()

    def receive(self, request: Any) -> Received:
        """Take a request message. Raises :class:`SessionError` when the stream has to end."""
        self._has_all = False
        return self._receive(self._subscription(request.type_url), request)

    @abstractmethod
    def _receive(self, subscription: Subscription, request: Any) -> Received:
        """Of one type."""

    @abstractmethod
    def _respond(self, subscription: Subscription, table: Table, *, retire: bool) -> Response | None:
        """The next response of one type, if any; removals only with ``retire``."""

    def pull(self) -> Response | None:
        """The next response to send, or None when the proxy has (or was sent) everything."""
        for retire in (False, True):
            if self._has_all or (retire and self.awaits_endpoints()):
                return None
            self._has_all = True
            for subscription in self._requested:
                table = self._snapshot.get(subscription.type_url, EMPTY_TABLE)
                if subscription.is_settled(table):
                    continue
                self._has_all = False
                if subscription.type_url in AFTER_ENDPOINTS and self.awaits_endpoints():
                    continue
                last = retire or subscription.type_url not in RETIRED_LAST
                response = self._respond(subscription, table, retire=last)
                if response is not None:
                    return response
                if last:
                    subscription.settle(table)
        return None

    def awaits_endpoints(self) -> bool:
        """Whether responses are held back until the proxy asks for the endpoints of clusters that it was sent."""
        return bool(self._unasked())

    def stop_waiting(self) -> list[str]:
        """Hold nothing back any longer; what the proxy did not ask for, as when it refused the clusters."""
        unasked, self._has_all = self._unasked(), False
        for name in unasked:
            self._types[pb.ENDPOINTS].owed.discard(name)
        return unasked

    def _unasked(self) -> list[str]:
        endpoints = self._types.get(pb.ENDPOINTS)
        if endpoints is None or not endpoints.owed:
            return []
        return endpoints.unasked(self._snapshot.get(pb.ENDPOINTS, EMPTY_TABLE))

    def status(self) -> list[TypeStatus]:
        """Per type what was sent, acknowledged and refused."""
        return [one.status(self._snapshot.get(one.type_url, EMPTY_TABLE)) for one in self._requested]

    def rejections(self) -> list[tuple[str, str]]:
        """Type and reason of what the proxy has refused and has taken nothing else instead of."""
        return [(one.type_url, one.rejection) for one in self._requested if one.rejection]

    def unasked_endpoints(self) -> list[str]:
        """Endpoints that the proxy must ask for before it is sent what leads there."""
        return sorted(self._unasked())

    def may_say(self, type_url: str) -> bool:
        """Whether a request about a type may be answered: one that acknowledges all that there is need not be."""
        known = self._types.get(type_url)
        return known is None or not known.is_settled(self._snapshot.get(type_url, EMPTY_TABLE))

    def asks_for(self, type_url: str, name: str) -> bool:
        """Whether the proxy subscribed to this resource."""
        known = self._types.get(type_url)
        return known is not None and known.requested and known.wants(name)

    def has_taken(self, type_url: str, name: str, version: str) -> bool:
        """Whether the proxy has this version of a resource and has acknowledged all that was sent of the type."""
        known = self._types.get(type_url)
        if known is None or known.sent.get(name) != version:
            return False
        return not known.awaited and known.acked_version == known.sent_version

    def _subscription(self, type_url: str) -> Subscription:
        if not type_url.startswith(pb.TYPE_PREFIX):
            shown = type_url[:200]
            raise SessionError(f"type_url {shown!r} is not a resource type (it must start with {pb.TYPE_PREFIX})")
        known = self._types.get(type_url)
        if known is None:
            if len(self._types) >= MAX_TYPES:
                raise SessionError(f"more than {MAX_TYPES} resource types on one stream")
            known = self._types[type_url] = Subscription(type_url)
        return known

    def _is_first(self, subscription: Subscription) -> bool:
        """Whether the type had not been asked for before; from now on it has."""
        if subscription.requested:
            return False
        subscription.requested = True
        insort(self._requested, subscription, key=lambda one: _rank(one.type_url))
        return True

    def _next_nonce(self) -> str:
        self._nonces += 1
        return f"{self._nonces:x}"

    def _note_sent(self, subscription: Subscription, resources: Iterable[Resource]) -> None:
        """Record resources as sent, and owe the endpoints that a sent cluster will wait for."""
        for resource in resources:
            subscription.sent[resource.name] = resource.version
            subscription.told.add(resource.name)
            subscription.owed.discard(resource.name)
            if resource.endpoints is not None:
                self._subscription(pb.ENDPOINTS).owe(resource.endpoints)


def checked(names: Iterable[str], type_url: str, already: int = 0) -> list[str]:
    """``names`` as a list, refused when the stream would have to remember too many."""
    listed = [intern(name) for name in names]  # hundreds of streams ask for the same
    if already + len(listed) > MAX_NAMES:
        raise SessionError(f"more than {MAX_NAMES} names subscribed of {type_url}")
    return listed


def rejection(request: Any) -> str | None:
    """The proxy's reason when ``request`` refuses a response, None when it accepts."""
    if not request.HasField("error_detail"):
        return None
    return str(request.error_detail.message) or f"code {request.error_detail.code}"


def encoded(header: Any, fields: Iterable[bytes]) -> tuple[bytes, ...]:
    """A response: its header's fields followed by the pre-encoded resource fields."""
    return (pb.encode(header), *fields)


def _rank(type_url: str) -> tuple[int, str]:
    return (ORDER.index(type_url) if type_url in ORDER else len(ORDER), type_url)
