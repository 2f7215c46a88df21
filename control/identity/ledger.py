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
#: Proxies of one identity that are told apart. Whoever has a token can make up node ids: he pushes out his own alone.
MOST_NODES = 10_000
#: Proxies of all identities; who has the most pushes out his own. With node ids of the longest the journal stays below
#: the 128 MiB of an installation's volume, also while it is written anew: when it is full nobody gets a certificate.
MOST = 40_000
_MOST_BYTES = 1 << 30
#: A journal that is not worth writing anew, and how many lines there may be for each that counts.
_FEW_LINES = 1000
_MOST_WASTE = 2


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
    #: Identity -> node -> its last certificate; those that were renewed longest ago first.
    _held: dict[str, dict[str, Holding]]
    _lines: int
    _count: int = 0

    @classmethod
    def open(cls, folder: Path, now: datetime) -> Ledger:
        """The ledger in ``folder``, empty on first use."""
        path = folder / FILE
        ledger = cls(path, {}, 0)
        try:
            content = private_files.read(path, limit=_MOST_BYTES)
        except FileNotFoundError:
            content = b""
        for line in content.splitlines():
            try:
                ledger._take(msgspec.json.decode(line, type=Holding))
            except msgspec.DecodeError:
                continue  # torn by a crash
        ledger._rewrite(now)
        return ledger

    def record(self, holding: Holding, now: datetime) -> None:
        """A certificate is about to go out."""
        self._take(holding)
        if self._lines > _FEW_LINES and self._lines > _MOST_WASTE * self._count:
            self._rewrite(now)
            return
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(holding) + b"\n")
        self._lines += 1

    def live(self, now: datetime) -> Iterator[Holding]:
        """Those whose certificate has not expired."""
        seconds = now.timestamp()
        return (one for held in self._held.values() for one in held.values() if one.until > seconds)

    def _take(self, holding: Holding) -> None:
        held = self._held.setdefault(holding.identity, {})
        _, node = holding.key
        self._count += node not in held
        held.pop(node, None)
        held[node] = holding
        if len(held) > MOST_NODES:
            self._forget(held)
        if self._count > MOST:
            self._forget(max(self._held.values(), key=len))

    def _forget(self, held: dict[str, Holding]) -> None:
        del held[next(iter(held))]
        self._count -= 1

    def _rewrite(self, now: datetime) -> None:
        live = list(self.live(now))
        self._held, self._count = {}, 0
        for one in live:
            self._take(one)
        private_files.write(self._path, b"".join(msgspec.json.encode(one) + b"\n" for one in live))
        self._lines = len(live)
