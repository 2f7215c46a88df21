"""Requests as they end, from the proxies' own pages `/tap`: read, chosen, shown.

The page has a line of JSON for every request, for as long as it is read. What does not keep up loses lines: the proxy
says how many (`missed`), and so does who reads here, since a queue in between is bounded.
"""

from __future__ import annotations

import http.client
import json
import queue
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from pymesh.operate.mesh import PageError

PATH = "/tap"
_CONNECT_SECONDS = 10.0
#: Lines that wait to be shown. Beyond it the proxies' connections fill, and they count what is missed.
_MOST_WAITING = 1000

Line = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Target:
    """A proxy: what it is called, and where its pages are."""

    title: str
    admin: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which requests are shown; what is empty chooses nothing."""

    method: str = ""
    #: Begins the path.
    path: str = ""
    #: Is part of the authority.
    authority: str = ""
    #: A status (`503`), or a class of them (`5xx`).
    status: str = ""
    #: `in`: for the workload; `out`: from it.
    direction: str = ""
    #: Only what failed: no answer, 5xx, a gRPC status that is an error, or a response flag.
    failed: bool = False

    def __contains__(self, line: Line) -> bool:
        return (
            self.method.upper() in ("", line.get("method"))
            and str(line.get("path") or "").startswith(self.path)
            and self.authority in str(line.get("authority") or "")
            and (not self.status or _has_status(line, self.status))
            and self.direction in ("", direction(line))
            and (not self.failed or has_failed(line))
        )


def _has_status(line: Line, wanted: str) -> bool:
    told = str(line.get("response_code") or 0)
    return told[:1] == wanted[:1] and len(told) == 3 if wanted.endswith("xx") else told == wanted


def has_failed(line: Line) -> bool:
    """No answer, one that says so, or one that the proxy had to make."""
    status = int(line.get("response_code") or 0)
    return status == 0 or status >= 500 or line.get("grpc_status") not in (None, "0") or has_flags(line)


def has_flags(line: Line) -> bool:
    """Whether it has response flags; `-` is Envoy's word for none."""
    return line.get("response_flags") not in (None, "", "-")


def direction(line: Line) -> str:
    """`in` or `out`, by Istio's name of the cluster; `-` where no cluster was chosen or it says neither."""
    found = str(line.get("upstream_cluster") or "").partition("|")[0].lower()
    return {"inbound": "in", "outbound": "out", "outbound_tcp": "out"}.get(found, "-")


class Tap:
    """Lines of several proxies, as they come. A context manager: its end closes the connections."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = targets
        self._lines: queue.Queue[tuple[Target, Line | None]] = queue.Queue(_MOST_WAITING)
        self._open: list[_Page] = []
        #: Pages that have not come to their end.
        self._left = 0

    def __enter__(self) -> Tap:
        try:
            for target in self._targets:
                self._open.append(_Page(target))
        except PageError:
            self._close()
            raise
        self._left = len(self._open)
        for one in self._open:
            threading.Thread(target=self._read, args=(one,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        for one in self._open:
            one.close()

    def read(self, patience: float | None = None) -> tuple[Target, Line] | None:
        """The next line; nothing if none comes within `patience` (seconds), or every proxy has gone."""
        while self._left:
            try:
                target, line = self._lines.get(timeout=patience)
            except queue.Empty:
                return None
            if line is not None:
                return target, line
            self._left -= 1
        return None

    def _read(self, one: _Page) -> None:
        for line in one:
            self._lines.put((one.target, line))
        self._lines.put((one.target, None))


@dataclass(slots=True)
class _Page:
    """One proxy's page, open."""

    target: Target
    _connection: http.client.HTTPConnection = field(init=False)
    _answer: http.client.HTTPResponse = field(init=False)
    _sock: socket.socket | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        where = f"http://{self.target.admin}{PATH}"
        self._connection = http.client.HTTPConnection(self.target.admin, timeout=_CONNECT_SECONDS)
        try:
            self._connection.request("GET", PATH)
            self._answer = self._connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise PageError(f"{where}: {error}") from None
        if self._answer.status != 200:
            told = self._answer.read(1000).decode(errors="replace").strip()
            self._connection.close()
            raise PageError(f"{where}: {self._answer.status} {self._answer.reason}: {told}")
        # Without requests the page says nothing.
        self._sock = self._connection.sock
        if self._sock is not None:
            self._sock.settimeout(None)

    def __iter__(self) -> Iterator[Line]:
        try:
            for line in self._answer:
                yield json.loads(line)
        except (OSError, ValueError, http.client.HTTPException):
            # The proxy has ended, or we have.
            return
        finally:
            self._connection.close()

    def close(self) -> None:
        """Wakes whoever reads, who then puts it away: it must not lose what it reads from."""
        if self._sock is not None:
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)


def text(line: Line, title: str = "") -> str:
    """A line for people."""
    if "missed" in line:
        return f"{title}: {line['missed']} requests were not shown: they come faster than they are read"
    status = str(line.get("response_code") or "-")
    flags = f" {line['response_flags']}" if has_flags(line) else ""
    grpc = f" grpc-status {line['grpc_status']}" if line.get("grpc_status") is not None else ""
    details = str(line.get("response_code_details") or "")
    why = f" ({details})" if details not in ("", "via_upstream") else ""
    where = line.get("upstream_host") or "nowhere"
    return (
        f"{str(line.get('start_time') or '')[11:23]}  {title}  {direction(line):>3}  "
        f"{line.get('method') or '-'} {line.get('authority') or '-'}{line.get('path') or ''}  "
        f"{status}{flags}{grpc}{why}  {line.get('duration')} ms  "
        f"{line.get('bytes_received')}/{line.get('bytes_sent')} B  -> {where} {line.get('upstream_cluster') or ''}"
    ).rstrip()
