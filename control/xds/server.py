"""The aggregated discovery service on the wire: drives a session machine per stream.

Requests are taken into the session in the turn of the event loop in which they come, and what that or a change
of configuration makes necessary is written at once, as far as the client takes it: for hundreds of streams that
are told of the same change nothing else has to run. When a client reads slowly its own task waits with the rest.
No response exists before the one ahead of it was written.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from pymesh.control.identity.bearer import authenticated
from pymesh.control.identity.spiffe import Identity
from pymesh.control.identity.tokens import Authenticator, UnavailableError
from pymesh.control.xds import pb
from pymesh.control.xds.delta import DeltaSession
from pymesh.control.xds.fleet import Connection, Fleet
from pymesh.control.xds.grpc import Call, GRPCError, Method, Status
from pymesh.control.xds.metrics import XdsMetrics, short_type
from pymesh.control.xds.node import Node, NodeRefusedError, NotYetError, accept, is_gateway
from pymesh.control.xds.session import Outcome, Session, SessionError
from pymesh.control.xds.sotw import SotwSession

log = logging.getLogger(__name__)

SERVICE = "/envoy.service.discovery.v3.AggregatedDiscoveryService/"
SECRET_SERVICE = "/envoy.service.secret.v3.SecretDiscoveryService/"
#: A client that opens a stream has this long to say who it is.
FIRST_REQUEST_SECONDS = 30.0
#: Names of secrets that one stream is remembered to have asked for in vain.
MAX_STRANGE_NAMES = 1000
#: One that was sent clusters has this long to ask for their endpoints before it is sent what leads there.
ENDPOINTS_REQUEST_SECONDS = 5.0
#: How often a stream's token is looked at again: one that was withdrawn or has expired ends its streams.
REAUTHENTICATE_SECONDS = 30.0


class DiscoveryService:
    """Both variants of discovery over one fleet."""

    def __init__(self, fleet: Fleet, authenticator: Authenticator | None, metrics: XdsMetrics) -> None:
        """Without an authenticator every client is served; only for loopback."""
        self._fleet = fleet
        self._authenticator = authenticator
        self._metrics = metrics

    async def _may_be(self, node: Node) -> bool:
        """Whether a proxy may be what it says."""
        if self._authenticator is None or node.identity is None or not is_gateway(node.id):
            return True
        return await self._authenticator.is_gateway(node.identity)

    async def _reads_secrets(self, node: Node) -> bool:
        if self._authenticator is None or node.identity is None:
            return True
        return await self._authenticator.reads_secrets(node.identity)

    def methods(self) -> dict[str, Method]:
        """The aggregated service's methods, by path."""
        return {
            SERVICE + "StreamAggregatedResources": Method(self._sotw, streaming=True),
            SERVICE + "DeltaAggregatedResources": Method(self._delta, streaming=True),
        }

    def secret_methods(self) -> dict[str, Method]:
        """The methods of a service of secrets alone, by path: the same streams with one type on them."""
        return {
            SECRET_SERVICE + "StreamSecrets": Method(self._sotw, streaming=True),
            SECRET_SERVICE + "DeltaSecrets": Method(self._delta, streaming=True),
        }

    async def _sotw(self, call: Call) -> None:
        await self._serve(call, SotwSession(), pb.DiscoveryRequest.FromString, "sotw")

    async def _delta(self, call: Call) -> None:
        await self._serve(call, DeltaSession(), pb.DeltaDiscoveryRequest.FromString, "delta")

    async def _serve(self, call: Call, session: Session, decode: Callable[[bytes], Any], variant: str) -> None:
        try:
            identity = await authenticated(call, self._authenticator) if self._authenticator else None
            connection, first = await self._connect(call, session, decode, variant, identity)
        except GRPCError as error:
            self._metrics.refused.inc(error.status.name.lower())
            log.warning("xDS stream refused", extra={"peer": call.peer, "reason": error.message})
            raise
        log.info("proxy connected", extra={"node": connection.node.id, "peer": call.peer, "variant": variant})
        broken = asyncio.get_running_loop().create_future()
        connection.push = partial(self._push_now, call, connection, broken)
        writer = asyncio.create_task(self._write(call, connection))
        reader = asyncio.create_task(self._read(call, connection, decode, first))
        try:
            ended: set[asyncio.Future[None]] = set()
            while not ended:
                ended, _ = await asyncio.wait(
                    {reader, writer, broken}, timeout=REAUTHENTICATE_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                if ended or not self._authenticator:
                    continue
                if await authenticated(call, self._authenticator) != identity:
                    raise GRPCError(Status.UNAUTHENTICATED, "the token is another workload's by now")
                await self._still_allowed(connection.node)
        except GRPCError as error:
            self._metrics.refused.inc(error.status.name.lower())
            log.warning("xDS stream ended", extra={"node": connection.node.id, "reason": error.message})
            raise
        finally:
            self._fleet.disconnect(connection)
            for one in (reader, writer, broken):
                one.cancel()
            results = await asyncio.gather(reader, writer, broken, return_exceptions=True)
            if connection.patience is not None:
                connection.patience.cancel()
            log.info("proxy disconnected", extra={"node": connection.node.id, "peer": call.peer})
        for result in results:
            if isinstance(result, GRPCError):
                raise result
            if isinstance(result, Exception):
                log.debug("stream ended", extra={"node": connection.node.id, "reason": repr(result)})

    async def _connect(
        self,
        call: Call,
        session: Session,
        decode: Callable[[bytes], Any],
        variant: str,
        identity: Identity | None,
    ) -> tuple[Connection, Any]:
        first: Any = None
        with suppress(asyncio.TimeoutError):
            content = await asyncio.wait_for(call.receive(), FIRST_REQUEST_SECONDS)
            first = None if content is None else _decoded(decode, content)
        if first is None:
            raise GRPCError(Status.INVALID_ARGUMENT, "the stream carried no request")
        try:
            node = replace(accept(first.node, identity), reads_secrets=identity is None)
            if not await self._may_be(node):
                raise NodeRefusedError(
                    f"node.id is a gateway's, {str(identity)!r} is none; hint: a gateway's token has "
                    '"gateway": true in the token file; in a cluster its service account may list the Secrets of its '
                    "namespace"
                )
            # While nobody can tell it is served without; it is asked again.
            with suppress(UnavailableError):
                node = replace(node, reads_secrets=await self._reads_secrets(node))
            return self._fleet.connect(node, session, call.peer, variant), first
        except NotYetError as early:
            raise GRPCError(Status.UNAVAILABLE, str(early)) from early
        except NodeRefusedError as refused:
            raise GRPCError(Status.PERMISSION_DENIED, str(refused)) from refused
        except UnavailableError as error:
            raise GRPCError(Status.UNAVAILABLE, str(error)) from error
        except Exception as error:
            log.exception("translation failed for a new proxy", extra={"node": first.node.id})
            raise GRPCError(Status.INTERNAL, "no configuration could be made for this proxy") from error

    async def _still_allowed(self, node: Node) -> None:
        """End the stream of a proxy that may have less, or more, by now: the next one has what is right."""
        with suppress(UnavailableError):
            if not await self._may_be(node) or await self._reads_secrets(node) != node.reads_secrets:
                raise GRPCError(Status.PERMISSION_DENIED, "what the proxy's identity may have has changed")

    async def _read(self, call: Call, connection: Connection, decode: Callable[[bytes], Any], first: Any) -> None:
        await call.begin()
        self._take(call, connection, first)
        await call.each(lambda content: self._take(call, connection, _decoded(decode, content)))

    def _take(self, call: Call, connection: Connection, request: Any) -> None:
        try:
            received = connection.session.receive(request)
        except SessionError as error:
            raise GRPCError(Status.INVALID_ARGUMENT, str(error)) from error
        if received.outcome is Outcome.REJECTED:
            short = short_type(received.type_url)
            self._metrics.rejects.inc(short)
            log.warning(
                "configuration rejected by a proxy",
                extra={"node": connection.node.id, "type": short, "reason": received.reason[:2000]},
            )
        elif received.outcome is Outcome.STALE:
            self._metrics.expired.inc(short_type(received.type_url))
        if received.type_url == pb.SECRET:
            self._note_strange_secrets(connection, request)
        if connection.session.may_say(received.type_url):
            self._push(call, connection)

    def _note_strange_secrets(self, connection: Connection, request: Any) -> None:
        """Secrets that are not this proxy's do not exist for it; whether they do for others is not told."""
        is_delta = isinstance(request, pb.DeltaDiscoveryRequest)
        asked: Iterable[str] = request.resource_names_subscribe if is_delta else request.resource_names
        known = connection.snapshot.get(pb.SECRET)
        strange = {name for name in asked if known is None or name not in known.resources} - connection.strange
        if not strange or len(connection.strange) >= MAX_STRANGE_NAMES:
            return
        connection.strange |= strange
        self._metrics.strange_secrets.inc(amount=len(strange))
        log.warning(
            "a proxy asks for secrets that are not its own",
            extra={"node": connection.node.id, "names": sorted(name[:200] for name in strange)[:10]},
        )

    async def _write(self, call: Call, connection: Connection) -> None:
        """Send what could not be sent at once."""
        while True:
            await connection.wake.wait()
            connection.wake.clear()
            await call.drained()
            self._push(call, connection)

    def _push_now(self, call: Call, connection: Connection, broken: asyncio.Future[None]) -> None:
        try:
            self._push(call, connection)
        except Exception as error:
            # It ends this stream, not the round that others have their turn in.
            if not broken.done():
                broken.set_exception(error)

    def _push(self, call: Call, connection: Connection) -> None:
        """Send what there is, as far as the client takes it now; :meth:`_write` goes on with the rest."""
        session = connection.session
        while call.is_free:
            response = session.pull()
            if response is None:
                self._has_all(connection)
                return
            call.write(*response.parts)
            short = short_type(response.type_url)
            self._metrics.pushes.inc(short)
            self._metrics.sent_bytes.inc(short, response.size)
            if log.isEnabledFor(logging.DEBUG):
                log.debug(
                    "pushed",
                    extra={
                        "node": connection.node.id,
                        "type": short,
                        "resources": response.resources,
                        "removed": response.removed,
                        "version": response.version,
                    },
                )
        connection.wake.set()

    def _has_all(self, connection: Connection) -> None:
        """Nothing more can be sent until something is asked for or changes; the first is not waited for for ever."""
        waits = connection.session.awaits_endpoints()
        if waits and connection.patience is None:
            loop = asyncio.get_running_loop()
            connection.patience = loop.call_later(ENDPOINTS_REQUEST_SECONDS, self._stop_waiting, connection)
        elif not waits and connection.patience is not None:
            connection.patience.cancel()
            connection.patience = None
        if not waits and connection.changed_at is not None:
            self._metrics.convergence.observe(time.monotonic() - connection.changed_at)
            connection.changed_at = None

    def _stop_waiting(self, connection: Connection) -> None:
        connection.patience = None
        unasked = connection.session.stop_waiting()
        log.warning("endpoints not asked for", extra={"node": connection.node.id, "names": unasked[:10]})
        connection.push()


def _decoded(decode: Callable[[bytes], Any], content: bytes) -> Any:
    try:
        return decode(content)
    except pb.DecodeError as error:
        raise GRPCError(Status.INVALID_ARGUMENT, "the request is not a valid message") from error
