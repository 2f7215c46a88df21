"""Types of the filter contract, version 1.1.

A filter is a class with one or more hooks. The proxy makes one instance per worker and configuration. Messages
are protocols here because the real ones are native objects of the proxy.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeAlias, TypeVar

CONTRACT_VERSION = "1.1"
"""Major: a filter written for another major version is refused. Minor: only additions; a later one is refused."""

ConfigT = TypeVar("ConfigT")
T = TypeVar("T")

Hooked: TypeAlias = T | Awaitable[T]
"""What a hook returns: in lane `async` it may be written as `async def`."""


class Headers(Protocol):
    """Header fields: names in lower case on the way out, in any case on the way in; values are Latin-1 text.

    Fields that frame the message or belong to one connection (`content-length`, `host`, `connection`, ...)
    can be read where they are there, and not set.
    """

    def get(self, name: str, default: str | None = None) -> str | None: ...
    def getall(self, name: str) -> list[str]: ...
    def add(self, name: str, value: str) -> None: ...
    def items(self) -> list[tuple[str, str]]: ...
    def __getitem__(self, name: str) -> str: ...
    def __setitem__(self, name: str, value: str) -> None: ...
    def __delitem__(self, name: str) -> None: ...
    def __contains__(self, name: str) -> bool: ...
    def __iter__(self) -> Iterator[str]: ...
    def __len__(self) -> int: ...


class Request(Protocol):
    """A request on its way upstream. Valid inside the hook only."""

    @property
    def method(self) -> str: ...
    @property
    def scheme(self) -> str: ...
    @property
    def headers(self) -> Headers: ...

    path: str
    """Path and query in canonical form. Setting it routes the request again."""
    authority: str
    """Host and optional port. Setting it routes the request again."""


class Response(Protocol):
    """A response on its way to the client. Valid inside the hook only."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Headers: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What a cluster has answered to `Context.call`. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class CallError(Exception):
    """`Context.call` got no answer: the cluster is not known, has no healthy upstream, the time is over, ...

    `flags` are those of the access log (`UH`, `UF`, `UT`, ...), empty if there are none.
    """

    def __init__(self, reason: str, flags: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.flags = flags


class Context(Protocol):
    """What is known beside the message, and a place for the filter's own values from hook to hook."""

    @property
    def route(self) -> str | None:
        """Name of the chosen route."""

    @property
    def peer(self) -> str | None:
        """SPIFFE ID that the peer has proved with its certificate."""

    @property
    def request_id(self) -> str:
        """The request's `x-request-id`; empty if it has none."""

    @property
    def deadline(self) -> float | None:
        """Seconds that the hook has left, in lane `async`."""

    def get(self, key: str, default: Any = None) -> Any: ...
    def __getitem__(self, key: str) -> Any: ...
    def __setitem__(self, key: str, value: Any) -> None: ...
    def __contains__(self, key: str) -> bool: ...

    async def call(
        self,
        cluster: str,
        method: str,
        path: str,
        headers: Mapping[str, str] = {},
        body: bytes = b"",
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> Answer:
        """Asks a cluster, through the mesh: mTLS, balancing and circuit breakers apply. Lane `async` only.

        `cluster` is a cluster's name, or `host:port` of a service. Raises `CallError`.
        """


@dataclass(frozen=True, slots=True)
class LogRecord:
    """An exchange that is over, as `on_log` sees it."""

    method: str
    path: str
    authority: str
    status: int
    """0 if there was no answer."""
    flags: str
    """Of the access log, separated by commas; `-` if there are none."""
    details: str
    """Why it was answered as it was (Envoy's response code details)."""
    duration: timedelta
    request_bytes: int
    response_bytes: int
    upstream: str | None
    """Address of the last endpoint that was tried."""
    route: str | None
    peer: str | None


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer in place of the upstream's. `status` is 200 to 599."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class When:
    """One condition on a request, judged by the proxy without entering Python.

    `name` is a header, or `:method`, `:path`, `:authority`, `:scheme`.
    """

    name: str
    test: Literal["present", "exact", "prefix", "suffix", "contains"] = "present"
    value: str = ""


class HttpFilter(Generic[ConfigT]):
    """Base of HTTP filters. Override the hooks that are needed; one that is not overridden is never called.

    A body is seen whole (`on_request_body`) or as it streams (`on_request_chunk`), not both. In lane `async` each
    hook but `on_log` may be `async def`; plain ones run on the lane's thread pool.
    """

    api: ClassVar[str] = CONTRACT_VERSION
    """Version of the contract that the filter was written for."""
    Config: ClassVar[type[Any] | None] = None
    """A dataclass that the resource's `config` fills, by its annotations; without one, `config` is the plain dict."""
    when: ClassVar[tuple[When, ...]] = ()
    """Only requests that meet all of these enter the filter; the others never touch the interpreter."""
    wants: ClassVar[tuple[str, ...]] = ()
    """Request headers of which at least one must be there, likewise; empty: any request."""
    lane: ClassVar[Literal["inline", "async"]] = "inline"
    """Who calls the hooks: the worker itself, or an event loop and a thread pool beside the workers."""
    max_body: ClassVar[int] = 64 * 1024
    """Octets that `on_request_body` and `on_response_body` wait for; a longer request is answered with 413, in place of
    a longer response there is 500."""

    def __init__(self, config: ConfigT) -> None:
        self.config = config

    def setup(self) -> Hooked[None]:
        """Called once, before the instance's first request. If it raises, the filter is not loaded."""
        return None

    def close(self) -> Hooked[None]:
        """Called when the instance goes."""
        return None

    def on_request_headers(self, request: Request, ctx: Context) -> Hooked[Reply | None]:
        """The request head has arrived. `None` lets it pass; a `Reply` answers it."""
        return None

    def on_request_body(self, request: Request, body: bytes, ctx: Context) -> Hooked[bytes | Reply | None]:
        """The request is complete, its head not yet sent. `None` lets it pass, bytes replace the body."""
        return None

    def on_request_chunk(self, chunk: bytes, end: bool, ctx: Context) -> Hooked[bytes | None]:
        """A piece of the request body. `None` lets it pass, bytes replace it. The last one has `end`."""
        return None

    def on_request_trailers(self, trailers: Headers, ctx: Context) -> Hooked[None]:
        """The request has trailers."""
        return None

    def on_response_headers(self, response: Response, ctx: Context) -> Hooked[Reply | None]:
        """The response head has arrived. `None` lets it pass; a `Reply` replaces it."""
        return None

    def on_response_body(self, response: Response, body: bytes, ctx: Context) -> Hooked[bytes | Reply | None]:
        """The response is complete, its head not yet sent. `None` lets it pass, bytes replace the body."""
        return None

    def on_response_chunk(self, chunk: bytes, end: bool, ctx: Context) -> Hooked[bytes | None]:
        """A piece of the response body. `None` lets it pass, bytes replace it. The last one has `end`."""
        return None

    def on_response_trailers(self, trailers: Headers, ctx: Context) -> Hooked[None]:
        """The response has trailers."""
        return None

    def on_log(self, record: LogRecord, ctx: Context) -> None:
        """The exchange is over, whatever its end was."""
