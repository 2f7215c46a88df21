"""Whole HTTP messages, as clients and servers in Python see them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Union

Pairs = Union[Mapping[str, str], Iterable[tuple[str, str]], "Fields"]
"""Header fields as they are written down."""


class Fields:
    """Header fields, in order; names are in lower case, and looked up in any case."""

    __slots__ = ("_pairs",)

    def __init__(self, pairs: Pairs = ()) -> None:
        items = pairs.items() if isinstance(pairs, Mapping | Fields) else pairs
        self._pairs = tuple((name.lower(), value) for name, value in items)

    def get(self, name: str, default: str | None = None) -> str | None:
        """The first value, or ``default``."""
        return next((value for known, value in self._pairs if known == name.lower()), default)

    def getall(self, name: str) -> list[str]:
        """Every value."""
        return [value for known, value in self._pairs if known == name.lower()]

    def items(self) -> list[tuple[str, str]]:
        """All fields."""
        return list(self._pairs)

    def keys(self) -> list[str]:
        """All names."""
        return [name for name, _ in self._pairs]

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fields) and self._pairs == other._pairs

    def __hash__(self) -> int:
        return hash(self._pairs)

    def __repr__(self) -> str:
        return f"Fields({list(self._pairs)!r})"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as the upstream sees it."""

    method: str
    path: str
    authority: str
    headers: Fields = field(default_factory=Fields)
    body: bytes = b""
    trailers: Fields = field(default_factory=Fields)


class Answered:
    """A response: what a server gives, or what a client gets."""

    __slots__ = ("body", "headers", "status", "trailers")

    def __init__(self, status: int = 200, headers: Pairs = (), body: bytes = b"", trailers: Pairs = ()) -> None:
        self.status = status
        self.headers = headers if isinstance(headers, Fields) else Fields(headers)
        self.body = body
        self.trailers = trailers if isinstance(trailers, Fields) else Fields(trailers)

    @property
    def text(self) -> str:
        """The body, decoded."""
        return self.body.decode()

    def header(self, name: str) -> str | None:
        """The first field of this name."""
        return self.headers.get(name)

    def __repr__(self) -> str:
        return f"Answered({self.status}, {self.headers!r}, {self.body!r})"
