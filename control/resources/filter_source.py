"""What is wrong with a filter's source can be told before any proxy runs it, at its place in the author's own file.

Nothing is executed here: the source is parsed, and its class is looked for among the names that the module binds.
"""

from __future__ import annotations

import ast
import os.path
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pymesh.control.resources.diagnostics import Position, Report, did_you_mean
from pymesh.control.resources.embedded import Text
from pymesh.control.resources.python_filter import PythonFilterSpec


@dataclass(frozen=True, slots=True)
class Source:
    """A module's text, and where its lines and columns, counted from 0, are for its author."""

    text: str
    position: Callable[[int, int], Position]


def inline(text: str, at: Position, yaml: str) -> Source:
    """A source that stands in a YAML file itself."""
    header = yaml.splitlines()[at.line - 1][at.column - 1 :] if at.line else ""
    return Source(text, Text(text, at, literal=header.startswith("|")).within(yaml).position)


def of_file(text: str, file: str, named_at: Position) -> Source:
    """A source in a file of its own, whose path is relative to the YAML file."""
    path = os.path.normpath(Path(named_at.file).parent / file)
    return Source(text, lambda line, column: Position(path, line + 1, column + 1))


def check(source: Source, spec: PythonFilterSpec, report: Report) -> bool:
    """Whether it is Python and has the class; otherwise that is reported."""
    try:
        tree = ast.parse(source.text)
    except SyntaxError as error:
        at = source.position((error.lineno or 1) - 1, (error.offset or 1) - 1)
        report.error(at, f"the filter's source is not Python: {error.msg}")
        return False
    except ValueError as error:
        report.error(source.position(0, 0), f"the filter's source is not Python: {error}")
        return False
    except (RecursionError, MemoryError):  # MemoryError: what the parser says of its own stack
        hint = "split the longest expression; data in it goes into `config`"
        report.error(source.position(0, 0), "the filter's source is nested too deeply to be parsed", hint)
        return False
    wanted = spec.class_.partition(":")[2]
    bound = set(_bound(tree))
    if wanted and wanted not in bound and "*" not in bound:
        classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
        hint = did_you_mean(wanted, classes, otherwise=f"it has {', '.join(classes)}" if classes else "")
        report.error(spec.place("class"), f"the filter's source has no class {wanted!r}", hint)
        return False
    return True


def _bound(tree: ast.Module) -> Iterator[str]:
    """Names that the module may bind: rather too many than too few. `*` if that cannot be known."""
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                yield name
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                yield from (one.asname or one.name.partition(".")[0] for one in names)
            case ast.Name(id="globals" | "exec"):
                yield "*"
            case ast.Name(id=name, ctx=ast.Store()):
                yield name
            case _:
                pass
