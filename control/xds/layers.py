"""Messages of one type for one proxy in two layers: those that it has in common with others, and its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


class Layer(dict[str, Any]):
    """Messages by name that many proxies are sent, or one is sent again. Nobody changes it once it is made."""

    #: What a cache has made of it, and which cache.
    encoded: tuple[object, Any] | None = None
    #: The layer that it is but for the messages of these names.
    origin: tuple[Layer, frozenset[str]] | None = None

    def replaced(self, messages: Mapping[str, Any]) -> Layer:
        """The layer with others in place of those of these names."""
        made = Layer({**self, **messages})
        made.origin = (self, frozenset(messages))
        return made


class Layered(Mapping[str, Any]):
    """Both layers as one mapping; a name of its own comes before one in common."""

    __slots__ = ("common", "own")

    def __init__(self, common: Layer, own: Layer) -> None:
        self.common = common
        self.own = own

    def __getitem__(self, name: str) -> Any:
        return self.own[name] if name in self.own else self.common[name]

    def __iter__(self) -> Iterator[str]:
        yield from (name for name in self.common if name not in self.own)
        yield from self.own

    def __len__(self) -> int:
        return len(self.common.keys() | self.own.keys())
