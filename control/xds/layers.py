"""Messages of one type for one proxy in two layers: those that it has in common with others, and its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


class Layer(dict[str, Any]):
    """Messages by name that many proxies are sent, or one is sent again. Nobody changes it once it is made."""

    #: What a cache has made of it, and which cache.
    encoded: tuple[object, Any] | None = None
    #: The layers that it has its messages from, of which a later one comes before an earlier one.
    parts: Sequence[Layer] = ()
    #: The layer that it is but for the messages in its parts.
    origin: Layer | None = None

    @classmethod
    def joined(cls, parts: Iterable[Layer]) -> Layer:
        """One of several, which others may have parts of as well."""
        made = cls()
        made.parts = tuple(parts)
        for part in made.parts:
            made.update(part)
        return made

    def replaced(self, parts: Sequence[Layer]) -> Layer:
        """The layer with others in place of the messages of these names."""
        made = Layer.joined([self, *parts])
        made.origin, made.parts = self, tuple(parts)
        return made


class Layered(Mapping[str, T]):
    """Two mappings as one, in the order of names; what is a proxy's own comes before what is in common."""

    __slots__ = ("common", "encoded", "own")

    def __init__(self, common: Mapping[str, T], own: Mapping[str, T]) -> None:
        self.common = common
        self.own = own
        #: What a cache has made of it, and which cache.
        self.encoded: tuple[object, Any] | None = None

    def __getitem__(self, name: str) -> T:
        return self.own[name] if name in self.own else self.common[name]

    def __contains__(self, name: object) -> bool:
        return name in self.own or name in self.common

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.common.keys() | self.own.keys()))

    def __len__(self) -> int:
        return len(self.common.keys() | self.own.keys())
