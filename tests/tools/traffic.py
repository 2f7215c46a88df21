"""Requests that run beside a change: whoever changes something looks at what became of them."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager


def get(port: int) -> tuple[int, str]:
    """Status and origin of one request on a connection of its own; status 0 if there was no answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/")
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.getheader("x-origin") or ""
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()


@contextmanager
def traffic(port: int) -> Iterator[list[tuple[int, str]]]:
    """Requests one after another for the length of the block; the list grows with their outcomes."""
    seen: list[tuple[int, str]] = []
    over = threading.Event()

    def run() -> None:
        while not over.is_set():
            seen.append(get(port))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join(20)
