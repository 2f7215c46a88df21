"""Who holds a certificate of ours: for each proxy the last one, until it expires.

A journal, one line of JSON for each certificate, appended before the certificate goes out: a control plane that starts
again knows what it has signed. A line that a crash has torn is the last one, and its certificate never went out. The
journal is written anew, without what has expired or was renewed, when it is opened and whenever most of it is waste.

A proxy is known by its identity and the node id that it gives with its request. Without a node id nobody can say which
certificate replaces which, so each counts by itself until it expires.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from pymesh.control.identity import private_files

FILE = "issued.jsonl"
_MOST_BYTES = 256 << 20


class Holding(msgspec.Struct, frozen=True, rename="camel"):
    """One proxy and its last certificate."""

    identity: str
    #: As the proxy calls itself; empty if it did not.
    node: str
    serial: str
    #: The root to which it leads.
    root: str
    #: Version of the trust bundle that went out with it.
    bundle: str
    #: Unix time at which it went out, and of its end.
    since: float
    until: int

    @property
    def key(self) -> tuple[str, str]:
        """Who holds it."""
        return self.identity, self.node or f"serial {self.serial}"

    def __str__(self) -> str:
        end = datetime.fromtimestamp(self.until, UTC).isoformat(timespec="seconds")
        return f"{self.node or self.identity} (certificate {self.serial} until {end})"


@dataclass(slots=True)
class Ledger:
    """See the module. `open` makes one."""

    _path: Path
    _held: dict[tuple[str, str], Holding]
    _lines: int

    @classmethod
    def open(cls, folder: Path, now: datetime) -> Ledger:
        """The ledger in ``folder``, empty on first use."""
        path = folder / FILE
        held: dict[tuple[str, str], Holding] = {}
        try:
            content = private_files.read(path, limit=_MOST_BYTES)
        except FileNotFoundError:
            content = b""
        for line in content.splitlines():
            try:
                found = msgspec.json.decode(line, type=Holding)
            except msgspec.DecodeError:
                continue  # torn by a crash
            held.pop(found.key, None)
            held[found.key] = found
        ledger = cls(path, held, 0)
        ledger._rewrite(now)
        return ledger

    def record(self, holding: Holding, now: datetime) -> None:
        """A certificate is about to go out."""
        self._held.pop(holding.key, None)
        self._held[holding.key] = holding
        if self._lines > 1000 and self._lines > 4 * len(self._held):
            self._rewrite(now)
            return
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(holding) + b"\n")
        self._lines += 1

    def live(self, now: datetime) -> Iterator[Holding]:
        """Those whose certificate has not expired."""
        seconds = now.timestamp()
        return (one for one in self._held.values() if one.until > seconds)

    def _rewrite(self, now: datetime) -> None:
        self._held = {one.key: one for one in self.live(now)}
        lines = [msgspec.json.encode(one) + b"\n" for one in self._held.values()]
        private_files.write(self._path, b"".join(lines))
        self._lines = len(lines)
