"""What a hook sees of a message, as the proxy's own views are (`rust/python/src/views.rs`), in pure Python.

A view is lent to one call of a hook: afterwards every access raises. Text is Latin-1, one character an octet; what
frames a message cannot be set; the texts of errors are the proxy's, so that a test may compare them.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pymesh.filters.api import Answer
from pymesh.testing.calls import Calls

PROTECTED = ("connection", "content-length", "host", "keep-alive", "transfer-encoding", "upgrade")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HOST = re.compile(r"[-0-9A-Za-z._~%:\[\]]+")
#: Tab is the only control character of a field value (RFC 9110 section 5.5).
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def field_name(name: str) -> str:
    """A field name in lower case; raises ValueError if it is none."""
    if not _TOKEN.fullmatch(_text(name)):
        raise ValueError(f"`{name}` is not a header name")
    return name.translate(_LOWER)


def field_value(value: str) -> str:
    """A field value; raises ValueError if it is none."""
    if _CONTROL.search(_latin(value)):
        raise ValueError("a header value must not contain control characters")
    return value


def _settable(name: str) -> str:
    name = field_name(name)
    if name in PROTECTED:
        raise ValueError(f"`{name}` is written by the proxy and cannot be set by a filter")
    return name


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"'{type(value).__name__}' object is not an instance of 'str'")
    return value


def _latin(value: object) -> str:
    text = _text(value)
    if any(ord(character) > 0xFF for character in text):
        raise ValueError("header text must be Latin-1: encode other text first")
    return text


class Loan:
    """What a view and its headers share."""

    __slots__ = ("is_changed", "is_over")

    def __init__(self) -> None:
        self.is_over = False
        self.is_changed = False

    def check(self) -> None:
        """Raises once the hook has returned."""
        if self.is_over:
            raise RuntimeError("this message is over: read what you need of it inside the hook")


class Headers:
    """Header fields of a message, while it is lent."""

    def __init__(self, loan: Loan, pairs: list[tuple[str, str]]) -> None:
        self._loan = loan
        self._pairs = pairs

    def get(self, name: str, default: str | None = None) -> str | None:
        wanted = _text(name).translate(_LOWER)
        self._loan.check()
        return next((value for known, value in self._pairs if known == wanted), default)

    def getall(self, name: str) -> list[str]:
        wanted = _text(name).translate(_LOWER)
        self._loan.check()
        return [value for known, value in self._pairs if known == wanted]

    def add(self, name: str, value: str) -> None:
        pair = _settable(name), field_value(value)
        self._change()
        self._pairs.append(pair)

    def items(self) -> list[tuple[str, str]]:
        self._loan.check()
        return list(self._pairs)

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __setitem__(self, name: str, value: str) -> None:
        pair = _settable(name), field_value(value)
        self._change()
        self._pairs[:] = [one for one in self._pairs if one[0] != pair[0]]
        self._pairs.append(pair)

    def __delitem__(self, name: str) -> None:
        known = _settable(name)
        self._loan.check()
        left = [one for one in self._pairs if one[0] != known]
        self._loan.is_changed = True
        if len(left) == len(self._pairs):
            raise KeyError(name)
        self._pairs[:] = left

    def __contains__(self, name: object) -> bool:
        return self.get(_text(name)) is not None

    def __iter__(self) -> Iterator[str]:
        return iter([name for name, _ in self.items()])

    def __len__(self) -> int:
        return len(self.items())

    def __repr__(self) -> str:
        return f"Headers({self.items()!r})"

    def _change(self) -> None:
        self._loan.check()
        self._loan.is_changed = True

    def _undo(self) -> Callable[[], None]:
        """Puts back what there is now."""
        kept = list(self._pairs)

        def put_back() -> None:
            self._pairs[:] = kept

        return put_back


class RequestHead:
    """A request's head, as it is between two hooks."""

    def __init__(self, method: str, path: str, authority: str, scheme: str, pairs: list[tuple[str, str]]) -> None:
        self.method = method
        self.path = path
        self.authority = authority
        self.scheme = scheme
        self.pairs = pairs

    def values(self, name: str) -> list[str]:
        """What the proxy's matchers find under a name (``:path`` and its like among them)."""
        pseudo = {":method": self.method, ":path": self.path, ":scheme": self.scheme}
        if name in pseudo:
            return [pseudo[name]]
        if name in (":authority", "host"):
            return [self.authority]
        return [value for known, value in self.pairs if known == name]


class Request:
    """A request, while it is lent."""

    def __init__(self, loan: Loan, head: RequestHead) -> None:
        self._loan = loan
        self._head = head
        self._headers = Headers(loan, head.pairs)

    @property
    def method(self) -> str:
        self._loan.check()
        return self._head.method

    @property
    def scheme(self) -> str:
        self._loan.check()
        return self._head.scheme

    @property
    def headers(self) -> Headers:
        return self._headers

    @property
    def path(self) -> str:
        self._loan.check()
        return self._head.path

    @path.setter
    def path(self, path: str) -> None:
        text = _latin(path)
        if not text.startswith("/") or any(not "!" <= character <= "~" or character == "#" for character in text):
            raise ValueError("a path starts with `/` and is percent-encoded ASCII without `#`")
        self._loan.check()
        self._loan.is_changed = True
        self._head.path = text

    @property
    def authority(self) -> str:
        self._loan.check()
        return self._head.authority

    @authority.setter
    def authority(self, authority: str) -> None:
        if not _HOST.fullmatch(_text(authority)):
            raise ValueError(f"`{authority}` is not a host and port")
        self._loan.check()
        self._loan.is_changed = True
        self._head.authority = authority

    def _undo(self) -> Callable[[], None]:
        head, headers = self._head, self._headers._undo()
        path, authority = head.path, head.authority

        def put_back() -> None:
            headers()
            head.path, head.authority = path, authority

        return put_back


class Response:
    """A response, while it is lent."""

    def __init__(self, loan: Loan, status: int, pairs: list[tuple[str, str]]) -> None:
        self._loan = loan
        self._status = status
        self._headers = Headers(loan, pairs)

    @property
    def status(self) -> int:
        self._loan.check()
        return self._status

    @property
    def headers(self) -> Headers:
        return self._headers

    def _undo(self) -> Callable[[], None]:
        return self._headers._undo()


class Context:
    """What is known beside the message; one for all hooks of an exchange."""

    def __init__(self, route: str | None, peer: str | None, request_id: str, calls: Calls | None) -> None:
        self._peer = peer
        self._request_id = request_id
        self._calls = calls
        self._values: dict[str, Any] = {}
        self._route = route
        #: The clock of the lane and the end of the hook's time, while one runs there.
        self._ends: tuple[Any, float] | None = None

    @property
    def route(self) -> str | None:
        return self._route

    @property
    def peer(self) -> str | None:
        return self._peer

    @property
    def request_id(self) -> str:
        return self._request_id

    @property
    def deadline(self) -> float | None:
        if self._ends is None:
            return None
        clock, end = self._ends
        return max(0.0, end - float(clock()))

    def get(self, key: str, default: Any = None) -> Any:
        return self._values.get(_text(key), default)

    def __getitem__(self, key: str) -> Any:
        return self._values[_text(key)]

    def __setitem__(self, key: str, value: Any) -> None:
        self._values[_text(key)] = value

    def __contains__(self, key: object) -> bool:
        return _text(key) in self._values

    async def call(
        self,
        cluster: str,
        method: str,
        path: str,
        headers: Mapping[str, str] = {},
        body: bytes = b"",
        timeout: float | None = None,  # noqa: ASYNC109 (the contract's)
    ) -> Answer:
        """Ask a cluster: one of the harness's stubs answers."""
        if self._calls is None:
            raise RuntimeError('calls through the mesh are for filters with lane = "async"')
        return await self._calls.answer(cluster, method, path, headers, body, timeout)
