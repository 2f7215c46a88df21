"""The store of what can be used: what is wrong is left out, and the rest of the mesh goes on without it.

For resources that come one by one, from many hands. What is left out depends on nothing but the resources, so that
every control plane leaves out the same. Of a resource that is right but for references to what is not there, which
somebody else may have deleted, only these fail: it stays.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from pymesh.control.resources.diagnostics import ConfigError, Diagnostic, Report
from pymesh.control.resources.metadata import Resource
from pymesh.control.store.store import MeshOptions, Store, assemble

#: What takes the place of what cannot be used in a file: another each time, and None in the end.
StandIn = Callable[[str], Resource | None]


def assemble_usable(
    resources: Iterable[Resource], options: MeshOptions, report: Report, stand_in: StandIn
) -> tuple[Store, list[Resource]]:
    """The store, and what it is made of; what is wrong with the rest is in ``report``.

    Each resource is alone in its file. Raises ConfigError if something is wrong with none of them in particular.
    """
    used = {one.at.file: one for one in resources}
    #: Of those that are out of use: which can be used after all, if nothing better takes their place.
    dangling: dict[str, Resource] = {}
    left_out: set[str] = set()
    tolerated: set[str] = set()
    while True:
        attempt = Report()
        store = assemble(used.values(), options, attempt)
        errors = [one for one in attempt.errors() if not (one.dangling and one.at.file in tolerated)]
        if not errors:
            # Whether one has a hint depends on how many others there are: the first word stands.
            said = {(one.at, one.message) for one in report.diagnostics}
            report.add(one for one in attempt.diagnostics if (one.at, one.message) not in said)
            return store, list(used.values())
        gone = _to_leave_out(errors, used.keys())
        if not gone:
            raise ConfigError(attempt.diagnostics)
        dangling |= {
            file: used[file] for file in gone - left_out if all(one.dangling for one in errors if one.at.file == file)
        }
        left_out |= gone
        # What is said of the others may be for the sake of those that are left out. So may what is said of references:
        # of who stays with them it is said in the end.
        report.add(one for one in attempt.diagnostics if one.at.file in gone - dangling.keys())
        for file in gone:
            del used[file]
            other = stand_in(file)
            if other is None and file in dangling:
                other = dangling.pop(file)
                tolerated.add(file)
            elif file in dangling:
                report.add(one for one in attempt.diagnostics if one.at.file == file)
            if other is not None:
                used[file] = other


def _to_leave_out(errors: Sequence[Diagnostic], used: Collection[str]) -> set[str]:
    """The files of what is wrong. Who is so because of another one that is wrong itself has to wait: without that one
    nothing may be wrong with it.
    """
    wrong = {one.at.file for one in errors if one.at.file in used}
    by_itself = {one.at.file for one in errors if one.rival is None or one.rival.file not in wrong - {one.at.file}}
    return wrong & by_itself or wrong
