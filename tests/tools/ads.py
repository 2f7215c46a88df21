"""An ADS server on grpcio that a test scripts, and that judges its client by the protocol's text.

It shares nothing with our control plane but the message classes. What the client says is held against the rules of
Envoy's "xDS REST and gRPC protocol"; whatever breaks one stands in `violations`, which a test expects to be empty.

    server.put(cluster, endpoints)       what there is; nothing is sent yet
    server.push(pb.CLUSTER)              say so to whoever is subscribed
    server.hold(pb.ENDPOINTS)            answer no request of this type until `release`
"""

from __future__ import annotations

import hashlib
import itertools
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc

from pymesh.control.xds import pb

WILDCARDS = (pb.CLUSTER, pb.LISTENER)
SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
World = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Answer:
    """An ACK, or a NACK with its reason."""

    type_url: str
    version: str
    reason: str | None


@dataclass
class Subscription:
    """What one stream knows of one type."""

    wildcard: bool = False
    names: set[str] = field(default_factory=set)
    #: Delta: resource -> version, as the client is known to have it.
    sent: dict[str, str] = field(default_factory=dict)
    #: Delta: names that it was told there are none of.
    absent: set[str] = field(default_factory=set)
    #: Nonce -> version of responses that were not answered yet.
    unanswered: dict[str, str] = field(default_factory=dict)
    nonces: list[str] = field(default_factory=list)
    #: State of the world: of the last response that was accepted.
    accepted: str = ""


class Stream:
    """One stream of one client; `requests` is everything it said."""

    def __init__(self, server: Server, number: int) -> None:
        self.server, self.number = server, number
        self.requests: list[Any] = []
        self.types: dict[str, Subscription] = {}
        self.outgoing: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def receive(self, request: Any) -> None:
        """Judge a request and answer it."""
        if not self.requests and not request.node.id:
            self._violation(request, "the first request does not say who asks")
        self.requests.append(request)
        url = request.type_url
        first = url not in self.types
        known = self.types.setdefault(url, Subscription())
        if first and request.response_nonce:
            self._violation(request, "a nonce before any response on this stream")
        (self._delta if self.server.delta else self._whole)(request, known, first=first)

    def _delta(self, request: Any, known: Subscription, *, first: bool) -> None:
        added, removed = list(request.resource_names_subscribe), list(request.resource_names_unsubscribe)
        if first:
            known.wildcard = not added and request.type_url in WILDCARDS
            known.sent = dict(request.initial_resource_versions)
        elif request.initial_resource_versions:
            self._violation(request, "initial versions belong into the first request of a type")
        elif request.response_nonce:
            self._judge(request, known)
        elif not added and not removed:
            self._violation(request, "neither an answer nor a change")
        for name in removed:
            if name not in known.names:
                self._violation(request, f"unsubscribes from {name}, which it never asked for")
            known.names.discard(name)
            known.sent.pop(name, None)
        known.names.update(added)
        asked = [name for name in added if not first]
        if first or asked:
            self.respond(request.type_url, again=asked)

    def _whole(self, request: Any, known: Subscription, *, first: bool) -> None:
        names = set(request.resource_names)
        if first:
            known.wildcard = not names and request.type_url in WILDCARDS
            known.accepted = request.version_info
        elif request.response_nonce not in known.nonces:
            if known.nonces or request.response_nonce:
                self._violation(request, "a nonce that this stream never saw")
        elif request.response_nonce != known.nonces[-1]:
            return  # said before it had our latest response, and void
        elif request.response_nonce in known.unanswered:
            self._judge(request, known)
        elif request.version_info != known.accepted:
            self._violation(request, f"version {request.version_info}, not {known.accepted}")
        if first or names - known.names:
            known.names = names
            self.respond(request.type_url)
        known.names = names

    def _judge(self, request: Any, known: Subscription) -> None:
        version = known.unanswered.pop(request.response_nonce, None)
        if version is None:
            self._violation(request, "answers a response that it has answered, or never got")
            return
        refused = request.HasField("error_detail")
        if not self.server.delta:
            known.accepted = known.accepted if refused else version
            if request.version_info != known.accepted:
                self._violation(request, f"version {request.version_info} after {known.accepted}")
        reason = request.error_detail.message if refused else None
        self.server.answers.append(Answer(request.type_url, version, reason))

    def respond(self, url: str, again: list[str] | None = None) -> None:
        """Send what the client lacks of a type (delta) or all that it asked for; `again` is sent in any case."""
        known = self.types.get(url)
        if known is None or url in self.server.held:
            return
        there = self.server.world.get(url, {})
        wanted = {name: one for name, one in there.items() if known.wildcard or name in known.names}
        version, nonce = str(self.server.version), f"{self.number}-{next(self.server.nonces)}"
        if not self.server.delta:
            resources = [pb.pack(one) for one in wanted.values()]
            response = pb.DiscoveryResponse(type_url=url, version_info=version, nonce=nonce, resources=resources)
        else:
            changed = {n: o for n, o in wanted.items() if known.sent.get(n) != _version(o) or n in (again or ())}
            gone = [name for name in known.sent if name not in wanted]
            absent = {name for name in known.names if name not in there}
            gone += sorted(absent - known.absent - set(gone))
            known.absent = absent
            if not changed and not gone and known.nonces:
                return
            known.sent = {n: v for n, v in known.sent.items() if n not in gone}
            known.sent |= {name: _version(one) for name, one in changed.items()}
            response = pb.DeltaDiscoveryResponse(type_url=url, nonce=nonce, removed_resources=gone)
            for name, one in changed.items():
                response.resources.add(name=name, version=_version(one), resource=pb.pack(one))
        known.nonces.append(nonce)
        known.unanswered[nonce] = version
        self.outgoing.put(response)

    def _violation(self, request: Any, text: str) -> None:
        self.server.violations.append(f"{text}:\n{request}")


class Server:
    """See the module. One variant at a time: `DELTA_GRPC` or `GRPC`."""

    def __init__(self, variant: str) -> None:
        self.delta = variant == "DELTA_GRPC"
        self.world: World = {}
        self.version = 0
        self.held: set[str] = set()
        self.streams: list[Stream] = []
        self.answers: list[Answer] = []
        self.violations: list[str] = []
        self.nonces = itertools.count()
        self.port = 0
        self._lock = threading.RLock()
        self._grpc: grpc.Server | None = None

    def put(self, *messages: Any) -> None:
        """Add or replace resources."""
        with self._lock:
            self.version += 1
            for one in messages:
                self.world.setdefault(pb.type_url(one), {})[_name(one)] = one

    def drop(self, url: str, name: str) -> None:
        """Take a resource away."""
        with self._lock:
            self.version += 1
            del self.world[url][name]

    def push(self, *urls: str) -> None:
        """Send what changed of these types, in this order."""
        with self._lock:
            for url in urls:
                for stream in self.streams[-1:]:
                    stream.respond(url)

    def hold(self, url: str) -> None:
        """Say nothing about a type."""
        with self._lock:
            self.held.add(url)

    def release(self, url: str) -> None:
        """Say what was held back."""
        with self._lock:
            self.held.discard(url)
            self.push(url)

    def settled(self) -> bool:
        """Whether every response has been answered."""
        with self._lock:
            return all(not known.unanswered for stream in self.streams[-1:] for known in stream.types.values())

    def refusals(self) -> list[Answer]:
        """Every NACK so far."""
        return [answer for answer in self.answers if answer.reason is not None]

    def start(self) -> None:
        """Listen, on the same port as before if there was one."""
        self._grpc = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        self._grpc.add_generic_rpc_handlers((_Handler(self),))
        self.port = self._grpc.add_insecure_port(f"127.0.0.1:{self.port}")
        self._grpc.start()

    def stop(self) -> None:
        """Die: connections break at once."""
        if self._grpc is not None:
            self._grpc.stop(None).wait(10)
            self._grpc = None

    def stream(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        """Serve one stream."""
        with self._lock:
            stream = Stream(self, len(self.streams))
            self.streams.append(stream)
        context.add_callback(lambda: stream.outgoing.put(None))

        def listen() -> None:
            try:
                for request in requests:
                    with self._lock:
                        stream.receive(request)
            except Exception as error:  # the stream broke, or this file has a fault: a test must see that one
                if not isinstance(error, grpc.RpcError) and context.is_active():
                    self.violations.append(repr(error))
            stream.outgoing.put(None)

        threading.Thread(target=listen, daemon=True).start()
        while (response := stream.outgoing.get()) is not None:
            yield response


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, server: Server) -> None:
        name, kind = ("Delta", "Delta") if server.delta else ("Stream", "")
        self._path = f"/{SERVICE}/{name}AggregatedResources"
        decode: Callable[[bytes], Any] = getattr(pb, f"{kind}DiscoveryRequest").FromString
        self._method = grpc.stream_stream_rpc_method_handler(server.stream, decode, pb.encode)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._method if handler_call_details.method == self._path else None


def _name(message: Any) -> str:
    return str(message.cluster_name if pb.type_url(message) == pb.ENDPOINTS else message.name)


def _version(message: Any) -> str:
    return hashlib.sha256(pb.encode(message)).hexdigest()[:12]
