"""What is left of a Gateway of either API without those of its listeners, or servers, that cannot be used.

One certificate that is missing closes its own port and no other. Of every other kind the parts belong together, and one
that is wrong takes the whole with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from pymesh.control.resources.diagnostics import Diagnostic, Report
from pymesh.control.resources.gateway_api import KubeGateway, possible_kinds
from pymesh.control.resources.metadata import Resource
from pymesh.control.resources.objects import Object, load_object

_PART: Final = re.compile(r"spec\.(?:listeners|servers)\[\d+\]")


def wrong_parts(one: Object, errors: Iterable[Diagnostic]) -> frozenset[str]:
    """The fields of an object that are to be left out for these errors; empty: that would not do."""
    found = [_PART.match(each.at.field) for each in errors]
    if one.get("kind") != "Gateway" or not all(found):
        return frozenset()
    return frozenset(each[0] for each in found if each is not None)


def without(one: Object, parts: frozenset[str], report: Report) -> Resource | None:
    """The resource without them, and without those of which something is found only then, which is told; None: nothing
    is left that could be used.
    """
    own = Report()
    made = load_object(one, own, without=parts)
    more = wrong_parts(one, own.errors()) if made is None else frozenset()
    if more - parts:
        report.add(own.errors())
        return without(one, parts | more, report)
    if not isinstance(made, KubeGateway):
        return made
    kept = {listener.name for listener in made.spec.listeners}
    written = [part for part in one["spec"]["listeners"] if isinstance(part, Mapping)]
    names = (part.get("name") for part in written)
    lost = tuple(name for name in names if isinstance(name, str) and name not in kept)
    ports = tuple(_ports(part for part in written if part.get("name") in lost))
    return replace(made, spec=replace(made.spec, left_out=lost, left_out_ports=ports))


def readable(one: Object) -> Resource | None:
    """The resource, or what is left of it without what cannot be read."""
    report = Report()
    made = load_object(one, report)
    parts = wrong_parts(one, report.errors()) if made is None else frozenset()
    return without(one, parts, report) if parts else made


def _ports(listeners: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, str]]:
    for one in listeners:
        port, protocol = one.get("port"), str(one.get("protocol"))
        if isinstance(port, int) and 0 < port < 65536 and possible_kinds(protocol, passes_on=False):
            yield port, protocol
