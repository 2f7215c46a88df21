"""Types of the filter contract, version 1.0.

A filter is a class with one or both hooks. The proxy makes one instance per worker and configuration;
hooks of one instance never run at the same time. Messages are protocols here because the real ones are
native objects of the proxy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

CONTRACT_VERSION = "1.0"
"""Major: a filter written for another major version is refused. Minor: only additions."""

ConfigT = TypeVar("ConfigT")


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


class Context(Protocol):
    """What is known beside the message, and a place for the filter's own values from hook to hook."""

    @property
    def route(self) -> str | None:
        """Name of the chosen route."""

    @property
    def peer(self) -> str | None:
        """SPIFFE ID that the peer has proved with its certificate."""

    def get(self, key: str, default: Any = None) -> Any: ...
    def __getitem__(self, key: str) -> Any: ...
    def __setitem__(self, key: str, value: Any) -> None: ...
    def __contains__(self, key: str) -> bool: ...


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
    """Base of HTTP filters. Override one or both hooks; a hook that is not overridden costs nothing."""

    api: ClassVar[str] = CONTRACT_VERSION
    """Version of the contract that the filter was written for."""
    Config: ClassVar[type[Any] | None] = None
    """A dataclass that the resource's `config` fills; without one, `config` is the plain dict."""
    when: ClassVar[tuple[When, ...]] = ()
    """Only requests that meet all of these enter the filter; the others never touch the interpreter."""

    def __init__(self, config: ConfigT) -> None:
        self.config = config

    def on_request_headers(self, request: Request, ctx: Context) -> Reply | None:
        """Called when the request head has arrived. `None` lets it pass; a `Reply` answers it."""
        return None

    def on_response_headers(self, response: Response, ctx: Context) -> Reply | None:
        """Called when the response head has arrived. `None` lets it pass; a `Reply` replaces it."""
        return None
