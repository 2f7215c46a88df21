"""Envoy, on the same bootstrap, answers every vector as ours does, but for differences that are listed and explained.

A difference is a status. Envoy ends the HTTP/2 connection where ours ends the stream (unless it is configured
otherwise), so neither's way of giving no answer counts. Where they answer the same, both access logs have the same
lines: flags, status, details. `vectors/envoy.toml` has the differences, with the reasons: one that is no difference any
more has no place in it.
"""

from __future__ import annotations

import fnmatch
import json
import tomllib
from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conformance.corpus.agreement import read_log
from tests.conformance.corpus.run import listener
from tests.conformance.corpus.send import MARKER, Told, play, source
from tests.conformance.corpus.vectors import FILES, FOLDER, Vector, load
from tests.proxy.bootstrap import bootstrap, cluster
from tests.proxy.running import Proxy, eventually, proxy
from tests.tools.peers import peer
from tests.tools.ports import free_ports
from tests.tools.processes import running

VECTORS = load(*FILES)


@dataclass(frozen=True)
class Difference:
    """What Envoy answers instead, and why ours does not."""

    vectors: list[str]
    envoy: str
    why: str


@dataclass(frozen=True)
class Wording:
    """What ours and Envoy's log say of the same: flags, status, details."""

    ours: list[str]
    envoy: str
    why: str
    #: Where only some are said otherwise; they go before what is said of all.
    vectors: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Played:
    """What a proxy said to each vector, and what it logged of it."""

    told: dict[str, Told]
    lines: dict[str, list[str]]


_LISTED = tomllib.loads((FOLDER / "envoy.toml").read_text())
DIFFERENCES = [Difference(**entry) for entry in _LISTED["difference"]]
WORDINGS = [Wording(**entry) for entry in _LISTED["wording"]]


def _differences(vector: Vector) -> list[Difference]:
    return [one for one in DIFFERENCES if any(fnmatch.fnmatchcase(vector.id, pattern) for pattern in one.vectors)]


@pytest.fixture(scope="module")
def envoys(tmp_path_factory: pytest.TempPathFactory) -> Played:
    """Envoy, with one origin behind it."""
    return _play("envoy", tmp_path_factory.mktemp("envoy") / "access.log")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Played:
    """Ours, likewise."""
    return _play("pymesh", tmp_path_factory.mktemp("pymesh") / "access.log")


def _play(kind: str, log: Path) -> Played:
    port, origin, admin = free_ports(3)
    config = bootstrap([listener(port, "go", log)], [cluster("go", [origin])], admin)
    started: AbstractContextManager[Proxy] = proxy(kind, config)
    with running([peer("go-origin"), f"127.0.0.1:{origin}"], title="go", ports=[origin]), started as both:
        told = play(VECTORS, {"go": port}, lambda *_: True)
        wanted = both.stats()["http.go.downstream_rq_total"]
        assert eventually(lambda: log.read_bytes().count(b"\n") == wanted, 20), log.read_bytes().count(b"\n")
    logged = [line for line in read_log(log.read_text()) if line.path != MARKER]
    by_source: dict[str, list[str]] = {}
    for line in logged:
        # Envoy goes on with what its library said.
        detail = line.detail.partition(":")[0]
        by_source.setdefault(line.source, []).append(f"{line.flags} {line.status} {detail}")
    lines = {vector.id: by_source.get(source(0, number), []) for number, vector in enumerate(VECTORS)}
    return Played({id_: one for (_, id_), one in told.items()}, lines)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.id)
def test_same_as_envoy(vector: Vector, envoys: Played) -> None:
    listed = _differences(vector)
    assert len(listed) <= 1, listed
    got = _answered(envoys.told[vector.id])
    if listed:
        assert got == listed[0].envoy, listed[0].why
        assert got != _ours(vector), "no difference any more"
    else:
        assert got == _ours(vector)


_ALIKE = [vector for vector in VECTORS if not _differences(vector)]


@pytest.mark.parametrize("vector", _ALIKE, ids=lambda vector: vector.id)
def test_logged_as_envoy_does(vector: Vector, ours: Played, envoys: Played) -> None:
    only_ours, only_envoys = _only(vector, ours, envoys)
    said = [(line, _wording(vector, line)) for line in only_ours]
    assert [line if listed is None else listed.envoy for line, listed in said] == only_envoys


def test_every_wording_is_needed(ours: Played, envoys: Played) -> None:
    found = {(vector.id, line) for vector in _ALIKE for line in _only(vector, ours, envoys)[0]}
    for listed in WORDINGS:
        for pattern in listed.vectors:
            assert any(fnmatch.fnmatchcase(id_, pattern) for id_, _ in found), pattern
        for pattern in listed.ours:
            assert any(fnmatch.fnmatchcase(line, pattern) for _, line in found), pattern


def _only(vector: Vector, ours: Played, envoys: Played) -> tuple[list[str], list[str]]:
    """The lines that one of them has alone."""
    mine, theirs = Counter(ours.lines[vector.id]), Counter(envoys.lines[vector.id])
    return sorted((mine - theirs).elements()), sorted((theirs - mine).elements())


def _wording(vector: Vector, line: str) -> Wording | None:
    listed = [one for one in WORDINGS if any(fnmatch.fnmatchcase(line, pattern) for pattern in one.ours)]
    named = [one for one in listed if any(fnmatch.fnmatchcase(vector.id, pattern) for pattern in one.vectors)]
    found = named or [one for one in listed if not one.vectors]
    assert len(found) <= 1, found
    return found[0] if found else None


def _ours(vector: Vector) -> str:
    """The statuses that the vector expects, without the marked request's."""
    each = "400" if "go" in vector.origins else "200"
    statuses = [each] * len(vector.forwarded) + ([str(vector.status)] if vector.status else [])
    return " ".join(statuses) or "none"


def _answered(told: Told) -> str:
    statuses = [str(answer.status) for answer in told.answers if not _is_marked(answer.body)]
    return " ".join(statuses) or "none"


def _is_marked(body: bytes) -> bool:
    return body.startswith(b"{") and json.loads(body)["target"] == MARKER


def test_every_difference_is_of_a_vector() -> None:
    patterns = [pattern for one in DIFFERENCES for pattern in one.vectors]
    assert [one for one in patterns if not fnmatch.filter([vector.id for vector in VECTORS], one)] == []
