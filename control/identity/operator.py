"""The operator's door: a Unix socket in the state folder, which only the control plane's own user can open.

`pymesh ca` speaks HTTP on it, with what :mod:`pymesh.control.identity.door` serves. The admin address on loopback is
everybody's on the machine, so nothing can be changed there.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from pymesh.control.identity import private_files

SOCKET = "operator.sock"
_PATIENCE_SECONDS = 30.0


class RefusedError(Exception):
    """The control plane does not do it now: why."""


def ask(folder: Path, phase: str = "", *, force: bool = False, authority: str = "") -> dict[str, Any]:
    """Begin a phase, or without one only look; the status as :meth:`Rotation.status` has it.

    Raises :class:`RefusedError`, and ``OSError`` when no control plane answers in this state folder.
    """
    query = {"force": "true"} if force else {}
    query |= {"authority": authority} if authority else {}
    connection = http.client.HTTPConnection("control", timeout=_PATIENCE_SECONDS)
    try:
        connection.sock = connected(folder)
        connection.request("POST" if phase else "GET", f"/ca/{phase}".rstrip("/") + f"?{urlencode(query)}")
        answer = connection.getresponse()
        content = json.loads(answer.read())
    except (http.client.HTTPException, ValueError) as error:
        raise OSError(f"its answer cannot be read: {error}") from error
    finally:
        connection.close()
    if answer.status != 200:
        raise RefusedError(str(content.get("error", answer.status)))
    assert isinstance(content, dict)
    return content


def listening(folder: Path) -> socket.socket:
    """The bound socket. Raises ``OSError``, also when another control plane serves there."""
    try:
        connected(folder).close()
        raise OSError(f"another control plane uses the state folder {folder}")
    except (FileNotFoundError, ConnectionRefusedError):
        (folder / SOCKET).unlink(missing_ok=True)
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with _short(folder) as name, private_files.owner_only():
        found.bind(name)
    found.listen(16)
    return found


def connected(folder: Path) -> socket.socket:
    """A connection to the control plane that uses this state folder. Raises ``OSError``."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short(folder) as name:
            made.connect(name)
    except OSError:
        made.close()
        raise
    return made


@contextmanager
def _short(folder: Path) -> Iterator[str]:
    """The socket's path in a form that always fits into the 108 octets that the system has for it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET}"
    finally:
        os.close(descriptor)
