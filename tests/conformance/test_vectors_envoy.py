"""Envoy, on the same bootstrap, answers every vector as ours does, but for differences that are listed and explained.

A difference is a status. Envoy ends the HTTP/2 connection where ours ends the stream (unless it is configured
otherwise), so neither's way of giving no answer counts. `vectors/envoy.toml` has the list, with the reasons: one that
is no difference any more has no place in it.
"""

from __future__ import annotations

import fnmatch
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conformance.corpus.run import listener
from tests.conformance.corpus.send import MARKER, Told, play
from tests.conformance.corpus.vectors import FILES, FOLDER, Vector, load
from tests.proxy.bootstrap import bootstrap, cluster
from tests.proxy.running import envoy
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


DIFFERENCES = [Difference(**entry) for entry in tomllib.loads((FOLDER / "envoy.toml").read_text())["difference"]]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Told]:
    """What Envoy says to each vector, with one origin behind it."""
    log: Path = tmp_path_factory.mktemp("envoy") / "access.log"
    port, origin, admin = free_ports(3)
    with running([peer("go-origin"), f"127.0.0.1:{origin}"], title="go", ports=[origin]):
        with envoy(bootstrap([listener(port, "go", log)], [cluster("go", [origin])], admin)):
            return play(VECTORS, {"go": port}, lambda *_: True)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.id)
def test_same_as_envoy(vector: Vector, told: dict[tuple[str, str], Told]) -> None:
    listed = [one for one in DIFFERENCES if any(fnmatch.fnmatchcase(vector.id, pattern) for pattern in one.vectors)]
    assert len(listed) <= 1, listed
    got = _answered(told["go", vector.id])
    if listed:
        assert got == listed[0].envoy, listed[0].why
        assert got != _ours(vector), "no difference any more"
    else:
        assert got == _ours(vector)


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
