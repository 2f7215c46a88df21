"""What the control plane says of documents, before any proxy is there."""

from __future__ import annotations

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.load import load_text
from pymesh.control.store.store import MeshOptions, assemble


def told(text: str) -> list[str]:
    """Errors and warnings, each with place and remedy; the file's name is left out."""
    report = Report()
    assemble(load_text("f", text, report), MeshOptions(), report)
    return [str(one).removeprefix("f:") for one in report.diagnostics]
