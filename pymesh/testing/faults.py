"""Faults by chance: what goes wrong in a mesh, when, and for how long."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pymesh.testing.mesh import Mesh

Fault = Callable[["Mesh", Sequence[str], random.Random, float, float], None]


def plan(mesh: Mesh, services: Sequence[str], within: float, count: int, chance: random.Random) -> None:
    """Let so many faults happen, from now on."""
    for _ in range(count):
        begin = mesh.now + chance.uniform(0, within)
        end = begin + chance.uniform(0.05, within / 3)
        chance.choice(_FAULTS)(mesh, services, chance, begin, end)


def _crash(mesh: Mesh, services: Sequence[str], chance: random.Random, begin: float, end: float) -> None:
    name = chance.choice(services)
    mesh.at(begin, mesh.crash, name, chance.choice(("both", "application", "proxy")))
    mesh.at(end, mesh.restart, name)


def _partition(mesh: Mesh, services: Sequence[str], chance: random.Random, begin: float, end: float) -> None:
    one, other = chance.sample(list(services), 2)
    mesh.at(begin, mesh.partition, one, other)
    mesh.at(end, mesh.heal)


def _slow(mesh: Mesh, services: Sequence[str], chance: random.Random, begin: float, end: float) -> None:
    name = chance.choice(services)
    mesh.at(begin, mesh.slow, name, round(chance.uniform(0.05, 3), 3))
    mesh.at(end, mesh.slow, name, 0)


def _fail(mesh: Mesh, services: Sequence[str], chance: random.Random, begin: float, end: float) -> None:
    name = chance.choice(services)
    mesh.at(begin, mesh.fail, name, chance.choice((500, 503)))
    mesh.at(end, mesh.fail, name, None)


def _cut(mesh: Mesh, services: Sequence[str], chance: random.Random, begin: float, end: float) -> None:
    one, other = chance.sample(list(services), 2)
    mesh.at(begin, mesh.cut, one, other)


def _delay(mesh: Mesh, services: Sequence[str], chance: random.Random, begin: float, end: float) -> None:
    one, other = chance.sample(list(services), 2)
    mesh.at(begin, mesh.latency, round(chance.uniform(0.01, 0.5), 3), jitter=0.1, between=(one, other))
    mesh.at(end, mesh.latency, 0.0005, between=(one, other))


_FAULTS: Sequence[Fault] = (_crash, _partition, _slow, _fail, _cut, _delay)
