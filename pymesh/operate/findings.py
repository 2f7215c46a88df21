"""Everything that is wrong, or probably not meant, with the resources in folders: one list, each finding with its code.

Three stages, the later ones only if the first has found no error that would make them guess: reading and references,
what the resources mean together (`pymesh.control.analysis`), and what translation warns of for each proxy of the mesh.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pymesh.control.analysis import Known, analyze, coded
from pymesh.control.resources.diagnostics import Diagnostic, Report
from pymesh.control.store.store import MeshOptions, assemble
from pymesh.explain.files import FileSource, read

#: The worst first.
SEVERITIES = ("error", "warning", "info")


def findings(folders: Sequence[Path], options: MeshOptions | None = None) -> list[Diagnostic]:
    """In the order of files and lines. Raises :class:`~pymesh.explain.source.SourceError` for a broken mesh file."""
    options = options or MeshOptions()
    report = Report()
    resources, local = read(folders, report)
    store = assemble(resources, options, report)
    found = {coded(one) for one in report.diagnostics}
    if not report.failed:
        deeper = Report()
        others = [Known(one.namespace, one.labels) for one in local]
        analyze(store, resources, others, deeper)
        found |= set(deeper.diagnostics)
        found |= {coded(one) for one in FileSource(folders, options).warnings()}
    return sorted(found)
