"""A resource among those that are in force: what would be found about it if it were one of them."""

from __future__ import annotations

from collections.abc import Sequence

from pymesh.control.analysis import analyze
from pymesh.control.resources.diagnostics import Diagnostic, Report
from pymesh.control.resources.metadata import Resource
from pymesh.control.store.store import MeshOptions, assemble


def findings(new: Resource, in_force: Sequence[Resource], options: MeshOptions) -> list[Diagnostic]:
    """Of the store and of `pymesh analyze`, those whose place is in the new resource."""
    others = [one for one in in_force if _key(one) != _key(new)]
    # Who asks is not known, so that he is not helped to the names of others' services and Secrets.
    report = Report(searches=0)
    store = assemble([*others, new], options, report)
    # References of others that lead nowhere are in force, and no reason to look away.
    wrong = (one for one in report.errors() if not one.dangling or one.at.file == new.at.file)
    if not any(wrong):
        analyze(store, [*others, new], (), report)
    return [one for one in report.diagnostics if one.at.file == new.at.file]


def _key(one: Resource) -> tuple[type[Resource], str, str]:
    return type(one), one.namespace, one.name
