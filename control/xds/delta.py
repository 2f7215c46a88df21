"""The incremental variant: subscriptions change by difference, responses carry only what changed.

Every name that a client asks about gets an answer: the resource, or its name among the removed ones. A
client that reconnects says which versions it still has, and hears only about the others.
"""

from __future__ import annotations

from typing import Any

from pymesh.control.xds import pb
from pymesh.control.xds.cache import Resource, Table
from pymesh.control.xds.session import (
    MAX_NAMES,
    WILDCARD,
    WILDCARD_TYPES,
    Outcome,
    Received,
    Response,
    Session,
    SessionError,
    Subscription,
    checked,
    encoded,
    rejection,
)

#: Responses without an answer of which the version is remembered.
MAX_UNANSWERED = 256


class DeltaSession(Session):
    """``DeltaAggregatedResources``."""

    def __init__(self) -> None:
        super().__init__()
        #: Nonce -> version of responses that were not answered yet, oldest first.
        self._unanswered: dict[str, str] = {}

    def _receive(self, subscription: Subscription, request: Any) -> Received:
        first = self._is_first(subscription)
        judged = Received(Outcome.SUBSCRIBED, subscription.type_url)
        if first:
            self._begin(subscription, request)
        elif request.response_nonce:
            version = self._unanswered.pop(request.response_nonce, None)
            if version is None:
                judged = Received(Outcome.STALE, subscription.type_url)
            else:
                judged = subscription.judge(request.response_nonce, version, rejection(request))
        # Unlike in the other variant a late nonce changes nothing here: differences of subscriptions
        # always count.
        self._unsubscribe(subscription, list(request.resource_names_unsubscribe))
        names = checked(request.resource_names_subscribe, request.type_url, len(subscription.names))
        self._subscribe(subscription, names, first=first)
        return judged

    def _begin(self, subscription: Subscription, request: Any) -> None:
        subscription.awaited = True
        subscription.wildcard = not request.resource_names_subscribe and subscription.type_url in WILDCARD_TYPES
        versions = dict(request.initial_resource_versions)
        if len(versions) > MAX_NAMES:
            raise SessionError(f"more than {MAX_NAMES} initial versions of {subscription.type_url}")
        subscription.sent.update(versions)

    def _subscribe(self, subscription: Subscription, names: list[str], *, first: bool) -> None:
        for name in names:
            subscription.settled = None
            if name == WILDCARD:
                subscription.wildcard = True
                continue
            subscription.names.add(name)
            # Every request for a name is answered, also a repeated one; only a client that reconnects and
            # said which version it has needs no answer while that version is the current one.
            if not (first and name in subscription.sent):
                subscription.owe(name)

    def _unsubscribe(self, subscription: Subscription, names: list[str]) -> None:
        for name in names:
            subscription.settled = None
            if name == WILDCARD:
                subscription.wildcard = False
                subscription.sent = {n: v for n, v in subscription.sent.items() if n in subscription.names}
                continue
            subscription.names.discard(name)
            subscription.owed.discard(name)
            if subscription.wildcard:
                # Still covered by the wildcard: the client needs to hear whether the resource exists.
                subscription.owe(name)
            else:
                subscription.sent.pop(name, None)

    def _respond(self, subscription: Subscription, table: Table, *, retire: bool) -> Response | None:
        doubtful = subscription.doubtful(table)
        changed = subscription.changed(table, doubtful)
        absent, retired = subscription.absent(table), subscription.retired(table, doubtful)
        removed = sorted(absent.union(retired)) if retire else sorted(absent)
        if not changed and not removed and not subscription.awaited:
            return None
        response = self._response(subscription, table.version, changed, removed)
        if retire or not retired:
            subscription.settle(table)
        return response

    def _response(
        self, subscription: Subscription, version: str, resources: list[Resource], removed: list[str]
    ) -> Response:
        self._note_sent(subscription, resources)
        for name in removed:
            subscription.forget(name)
            subscription.owed.discard(name)
        subscription.awaited = False
        subscription.nonce, subscription.sent_version = self._next_nonce(), version
        self._unanswered[subscription.nonce] = version
        if len(self._unanswered) > MAX_UNANSWERED:
            del self._unanswered[next(iter(self._unanswered))]
        header = pb.DeltaDiscoveryResponse(
            system_version_info=version,
            type_url=subscription.type_url,
            nonce=subscription.nonce,
            removed_resources=removed,
        )
        return Response(
            type_url=subscription.type_url,
            nonce=subscription.nonce,
            version=version,
            parts=encoded(header, (r.delta for r in resources)),
            resources=len(resources),
            removed=len(removed),
        )
