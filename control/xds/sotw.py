"""The state-of-the-world variant: each response carries a type's resources, removal is absence.

Listeners and clusters go out complete, since a proxy drops those that a response lacks. Of all other
types only what changed is sent, as the protocol allows: a proxy keeps what a response does not mention
and drops it when whatever referred to it goes.
"""

from __future__ import annotations

from typing import Any

from pymesh.control.xds import pb
from pymesh.control.xds.cache import Resource, Table
from pymesh.control.xds.session import (
    WILDCARD,
    WILDCARD_TYPES,
    Outcome,
    Received,
    Response,
    Session,
    Subscription,
    checked,
    encoded,
    rejection,
)


class SotwSession(Session):
    """``StreamAggregatedResources``."""

    def __init__(self) -> None:
        super().__init__()
        #: What the last complete response of a type held, to keep retired resources until nothing uses them.
        self._complete: dict[str, dict[str, Resource]] = {}

    def _receive(self, subscription: Subscription, request: Any) -> Received:
        nonce = request.response_nonce
        if subscription.requested and nonce != subscription.nonce:
            # Written before the proxy saw our latest response; its answer to that one says the same or newer.
            return Received(Outcome.STALE, subscription.type_url)
        first = self._is_first(subscription)
        judged = Received(Outcome.SUBSCRIBED, subscription.type_url)
        if first:
            # Whatever an earlier stream sent is unknown here: answer in full.
            subscription.awaited = True
        elif nonce:
            judged = subscription.judge(nonce, subscription.sent_version, rejection(request))
        self._subscribe(subscription, checked(request.resource_names, subscription.type_url), first=first)
        return judged

    def _subscribe(self, subscription: Subscription, names: list[str], *, first: bool) -> None:
        """Take over the names of a request."""
        legacy = not names and subscription.type_url in WILDCARD_TYPES and (first or subscription.wildcard)
        wildcard = legacy or WILDCARD in names
        wanted = set(names) - {WILDCARD}
        if not first and wildcard == subscription.wildcard and wanted == subscription.names:
            return
        subscription.wildcard, subscription.names = wildcard, wanted
        subscription.settled = None
        if not wildcard:
            for name in [n for n in subscription.sent if n not in wanted]:
                del subscription.sent[name]

    def _respond(self, subscription: Subscription, table: Table, *, retire: bool) -> Response | None:
        if subscription.type_url in WILDCARD_TYPES:
            return self._respond_complete(subscription, table, retire=retire)
        doubtful = subscription.doubtful(table)
        changed = subscription.changed(table, doubtful)
        for name in subscription.retired(table, doubtful):
            subscription.forget(name)
        # This variant has no way to say that a name does not exist.
        subscription.owed -= subscription.absent(table)
        if not changed and not subscription.awaited:
            return None
        return self._response(subscription, table.version, changed, removed=0)

    def _respond_complete(self, subscription: Subscription, table: Table, *, retire: bool) -> Response | None:
        resources = {r.name: r for r in subscription.wanted(table)}
        before = self._complete.get(subscription.type_url, {})
        retired = {n: r for n, r in before.items() if n not in resources}
        changed = subscription.changed(table, subscription.doubtful(table))
        if not (changed or subscription.awaited or (retire and retired)):
            return None
        version = table.version
        if retired and not retire:
            resources |= retired
            version += "-retiring"
        removed = len(retired) if retire else 0
        for name in retired if retire else ():
            subscription.forget(name)
        self._complete[subscription.type_url] = resources
        return self._response(subscription, version, list(resources.values()), removed, fresh=changed)

    def _response(
        self,
        subscription: Subscription,
        version: str,
        resources: list[Resource],
        removed: int,
        fresh: list[Resource] | None = None,
    ) -> Response:
        """Encode and record a response; ``fresh`` are those of ``resources`` that the proxy did not have."""
        self._note_sent(subscription, resources if fresh is None else fresh)
        subscription.awaited = False
        subscription.nonce, subscription.sent_version = self._next_nonce(), version
        header = pb.DiscoveryResponse(version_info=version, type_url=subscription.type_url, nonce=subscription.nonce)
        return Response(
            type_url=subscription.type_url,
            nonce=subscription.nonce,
            version=version,
            parts=encoded(header, (r.sotw for r in resources)),
            resources=len(resources),
            removed=removed,
        )
