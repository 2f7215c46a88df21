"""Code that waits for something of a mesh: coroutines, driven by its clock.

A coroutine awaits :class:`Pending` values, and goes on in the moment in which what it waits for has happened. There is
no event loop of asyncio in it: time, and the order of everything, is the mesh's.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")


class Pending(Generic[T]):
    """Something that is under way: awaited by a service, or looked at by a test after :meth:`Mesh.run`."""

    def __init__(self) -> None:
        self._value: T | None = None
        self._error: Exception | None = None
        self._waiting: list[Callable[[], None]] = []
        self.is_done = False

    def resolve(self, value: T) -> None:
        """It has happened; what comes later does not count."""
        self._end(value, None)

    def fail(self, error: Exception) -> None:
        """It went wrong."""
        self._end(None, error)

    @property
    def error(self) -> Exception | None:
        """What went wrong, if something did."""
        return self._error

    def result(self) -> T:
        """What came of it; raises what went wrong, and RuntimeError while it is under way."""
        if not self.is_done:
            raise RuntimeError("this is still under way\nhint: let time pass with mesh.run(seconds)")
        if self._error is not None:
            raise self._error
        return cast("T", self._value)

    def then(self, call: Callable[[], None]) -> None:
        """Call this once it has happened."""
        if self.is_done:
            call()
        else:
            self._waiting.append(call)

    def __await__(self) -> Generator[Pending[T], None, T]:
        if not self.is_done:
            yield self
        return self.result()

    def _end(self, value: T | None, error: Exception | None) -> None:
        if self.is_done:
            return
        self.is_done, self._value, self._error = True, value, error
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            call()


def drive(coroutine: Coroutine[Any, Any, T], done: Pending[T]) -> None:
    """Let a coroutine go on as far as it can, and again when what it waits for has happened."""
    if done.is_done:
        coroutine.close()
        return
    try:
        waits_for = coroutine.send(None)
    except StopIteration as stop:
        done.resolve(stop.value)
    except Exception as error:
        done.fail(error)
    else:
        if not isinstance(waits_for, Pending):
            coroutine.close()
            done.fail(TypeError("a service awaits what its request offers (sleep, get, ...), and nothing of asyncio"))
            return
        waits_for.then(lambda: drive(coroutine, done))
