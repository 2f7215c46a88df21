"""What the control plane says of documents, before any proxy is there."""

from __future__ import annotations

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.load import load_text
from pymesh.control.store.store import MeshOptions, Store, assemble

_SERVICE = "apiVersion: v1\nkind: Service\nmetadata: {name: good}\nspec: {ports: [{port: 80}]}\n"


def told(text: str) -> list[str]:
    """Errors and warnings, each with place and remedy; the file's name is left out."""
    return [one.removeprefix("f:") for one in assembled(text)[1]]


def assembled(text: str) -> tuple[Store, list[str]]:
    """The mesh that is made of them all the same, and what is told of file `f`."""
    report = Report()
    store = assemble(load_text("f", text, report), MeshOptions(), report)
    return store, [str(one) for one in report.diagnostics]


def told_of_one(text: str, good: str = _SERVICE) -> list[str]:
    """What is told of file `f` when one of its documents is read; `good`, of the name `good`, is read beside it."""
    report = Report()
    loaded = load_text("f", f"{text}---\n{good}", report)
    assert "good" in [one.name for one in loaded]
    return [str(one) for one in report.diagnostics]
