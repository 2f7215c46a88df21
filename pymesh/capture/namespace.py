"""Network namespaces, by descriptors: one lives as long as a descriptor of it or a process in it.

A thread of its own enters a namespace, does there what is to be done, and is gone. What it has made belongs to that
namespace for good, a socket as well as a process, whoever uses it later.
"""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
# `os.unshare` and `os.setns` are there from Python 3.12 on. Looked up before any fork.
_libc = ctypes.CDLL(None, use_errno=True)


class NetworkNamespace:
    """A namespace that was made here."""

    def __init__(self) -> None:
        """An empty one: its loopback is down. Raises OSError."""
        self._file = _in_thread(_unshared)

    def call(self, function: Callable[[], T]) -> T:
        """What `function` returns or raises in there."""

        def inside() -> T:
            self.enter()
            return function()

        return _in_thread(inside)

    def enter(self) -> None:
        """The calling thread does, for good: for a child between its fork and its exec."""
        _check(_libc.setns(self._file, _CLONE_NEWNET))

    def connection(self) -> socket.socket:
        """A TCP socket over IPv4 that connects from there."""
        made = self.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        made.setblocking(False)
        return made

    @property
    def path(self) -> str:
        """For `ip link ... netns`, while we hold it."""
        return f"/proc/{os.getpid()}/fd/{self._file}"

    def close(self) -> None:
        """Let it go."""
        os.close(self._file)


def _unshared() -> int:
    _check(_libc.unshare(_CLONE_NEWNET))
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _in_thread(function: Callable[[], T]) -> T:
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:  # it is raised again where it was asked for
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]
