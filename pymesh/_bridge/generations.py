"""Makes the instances of a filter's new generation (`rust/python/src/generations.rs`), beside the one that serves.

Code that is loaded may do anything, and runs where the configuration is taken in: it gets a thread of its own, and
not for ever.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Mapping
from typing import Any

from pymesh._bridge import filters
from pymesh.filters.loader import FilterError

LONGEST = 10.0
"""Seconds that all instances of a filter may take together."""


class _TooLongError(BaseException):
    """Is raised in the thread that has taken too long."""


def make(
    class_path: str,
    source: str,
    config: Mapping[str, Any],
    count: int,
    finish: Callable[[filters.Loaded], Any],
    runner: filters.Runner | None,
) -> list[Any]:
    """Loads `count` instances, all or none, each as `finish` has made it. `FilterError` says why it cannot be done."""
    made: list[Any] = []
    loaded: list[filters.Loaded] = []
    failure: list[BaseException] = []

    def load() -> None:
        try:
            for _ in range(count):
                loaded.append(filters.load(class_path, source, config, runner))
                made.append(finish(loaded[-1]))
        except BaseException as error:  # Whatever it is, it is the filter's, and its end.
            failure.append(error)

    thread = threading.Thread(target=load, name=f"load {class_path}", daemon=True)
    thread.start()
    thread.join(LONGEST)
    if thread.is_alive():
        _interrupt(thread)
        hint = "what takes long belongs into the work of the first request, or beside the filter"
        failure = [FilterError(f"`{class_path}` takes longer than {LONGEST:.0f} s to load\nhint: {hint}")]
    if not failure:
        return made
    for one in loaded:
        one.close()
    error = failure[0]
    if isinstance(error, FilterError):
        raise error
    raise FilterError(f"`{class_path}` cannot be loaded: {type(error).__name__}: {error}") from error


def _interrupt(thread: threading.Thread) -> None:
    """Ends the thread at its next instruction. One that waits in C goes on waiting, and harms nobody."""
    assert thread.ident is not None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(_TooLongError))
