"""The data files as vectors.

A file of `tests/conformance/vectors/` is a list of families. A family is a template with the places `{x}` and a table
of vectors that fill it; a vector may override anything of its family. Characters stand for octets (Latin-1), and
`{a*100}` for a hundred `a`. The outcome is one of

    forwarded = "POST /a"       reaches the origin as this request, with `host`, `body`, `fields` and `trailers` and no
                                others; a list of them for several requests
    refused = "400 detail"      the proxy answers itself and closes; nothing reaches the origin
    answered = "404 detail"     the proxy answers itself and goes on
    dropped = true              the client leaves in the middle of a head: nothing is answered, the log says who left
    broken = "400 detail"       the head was good, the body is not: never complete at the origin
    reset = "PROTOCOL_ERROR"    (HTTP/2) the stream ends; the connection goes on
    goaway = "PROTOCOL_ERROR"   (HTTP/2) the connection ends

`then` is a refusal of what stands behind the forwarded requests, `closes` says whether the connection ends before the
request behind all of it is read.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "vectors"
#: The files with vectors of requests.
FILES = ("http1_framing", "http1_syntax", "http1_target", "http1_connection", "http2_heads", "http2_bodies")
OUTCOMES = ("forwarded", "refused", "answered", "dropped", "broken", "reset", "goaway")
_SETTINGS = {
    "name", "why", "x", "send", "frames", "host", "body", "fields", "trailers", "then",
    "closes", "eof", "stream", "envoy", "origins",
    *OUTCOMES,
}  # fmt: skip

Fields = tuple[tuple[str, str], ...]
Table = Mapping[str, Any]


@dataclass(frozen=True)
class Canonical:
    """A request as the origin is to see it, without what the proxy adds."""

    method: str
    target: str
    host: str
    body: bytes
    fields: Fields
    trailers: Fields


@dataclass(frozen=True)
class Vector:
    """One input with its expected outcome."""

    id: str
    why: str
    #: HTTP/1: the octets. HTTP/2: none, `frames` has them.
    octets: bytes
    frames: Sequence[Table]
    outcome: str
    #: What the origin sees; empty for everything but `forwarded`.
    forwarded: tuple[Canonical, ...]
    #: Status and response code detail of the proxy's own answer, if any; an error code for `reset` and `goaway`.
    status: int
    detail: str
    closes: bool
    #: The client ends its direction when it has sent this: for what the proxy would wait for.
    eof: bool
    #: HTTP/2: the stream that the outcome is about.
    stream: int
    #: What Envoy does where that is something else, and why we differ.
    envoy: str
    #: Origins that refuse the request that they are sent, with the reason.
    origins: Mapping[str, str]

    @property
    def is_http2(self) -> bool:
        """Whether it is a list of frames."""
        return bool(self.frames)


def load(*names: str) -> list[Vector]:
    """The vectors of these files, in order."""
    found = [vector for name in names for vector in _file(FOLDER / f"{name}.toml")]
    ids = [vector.id for vector in found]
    assert len(ids) == len(set(ids)), sorted({one for one in ids if ids.count(one) > 1})
    return found


def _file(path: Path) -> list[Vector]:
    families: list[dict[str, Any]] = tomllib.loads(path.read_text())["family"]
    return [
        _vector(f"{family['name']}/{name}", family, own if isinstance(own, dict) else {"x": own})
        for family in families
        for name, own in family.pop("vectors").items()
    ]


def _vector(name: str, family: Table, own: Table) -> Vector:
    unknown = (set(family) | set(own)) - _SETTINGS
    assert not unknown, f"{name}: no such settings: {sorted(unknown)}"
    # An outcome of its own replaces the family's, also if it is another one.
    inherited = {key: value for key, value in family.items() if not (key in OUTCOMES and _outcomes(own))}
    merged = {**inherited, **own}
    (outcome,) = _outcomes(merged)
    merged = {key: fill(value, merged.get("x", "")) for key, value in merged.items()}
    status, detail = 0, ""
    forwarded: tuple[Canonical, ...] = ()
    if outcome == "forwarded":
        lines = merged["forwarded"]
        forwarded = tuple(_canonical(line, merged) for line in ([lines] if isinstance(lines, str) else lines))
        status, detail = _answer(merged.get("then", ""))
    elif outcome in ("reset", "goaway"):
        detail = merged[outcome]
    elif outcome != "dropped":
        status, detail = _answer(merged[outcome])
    ends = outcome in ("refused", "broken", "goaway") or "then" in merged
    return Vector(
        id=name,
        why=merged["why"],
        octets=octets(merged.get("send", "")),
        frames=merged.get("frames", ()),
        outcome=outcome,
        forwarded=forwarded,
        status=status,
        detail=detail,
        closes=merged.get("closes", ends),
        eof=merged.get("eof", False),
        stream=merged.get("stream", 1),
        envoy=merged.get("envoy", ""),
        origins=merged.get("origins", {}),
    )


def _outcomes(table: Table) -> list[str]:
    return [key for key in OUTCOMES if key in table]


def _answer(text: str) -> tuple[int, str]:
    status, _, detail = text.partition(" ")
    return int(status or "0"), detail


def _canonical(line: str | Table, defaults: Table) -> Canonical:
    table = {**defaults, "line": line} if isinstance(line, str) else {**defaults, **line}
    method, _, target = table["line"].partition(" ")
    return Canonical(
        method,
        target,
        table.get("host", "a.test"),
        octets(table.get("body", "")),
        pairs(table.get("fields", ())),
        pairs(table.get("trailers", ())),
    )


def pairs(lines: Sequence[str]) -> Fields:
    """Lines of `name: value` taken apart."""
    split = [line.partition(":") for line in lines]
    return tuple((name, value.strip(" ")) for name, _, value in split)


def fill(value: Any, x: Any) -> Any:
    """The value with `{x}` and repetitions put in, at any depth."""
    if value == "{x}" and not isinstance(x, str):
        return fill(x, "")
    if isinstance(value, str):
        filled = value.replace("{x}", x) if isinstance(x, str) else value
        return re.sub(r"\{(.)\*(\d+)\}", lambda match: match[1] * int(match[2]), filled, flags=re.DOTALL)
    if isinstance(value, list):
        return [fill(part, x) for part in value]
    if isinstance(value, dict):
        return {key: fill(part, x) for key, part in value.items()}
    return value


def octets(text: str) -> bytes:
    """Characters as the octets that they stand for."""
    return text.encode("latin-1")
