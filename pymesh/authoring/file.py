"""An author's file: its text, its syntax and, run once, its module."""

from __future__ import annotations

import ast
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pymesh.filters import HttpFilter


class AuthorError(Exception):
    """Something is wrong with a filter's file; the text says what, where, and what to do."""


@dataclass(frozen=True, slots=True)
class AuthorFile:
    """A file that defines filters."""

    path: Path
    text: str
    tree: ast.Module
    module: ModuleType

    def filters(self) -> list[type[HttpFilter[Any]]]:
        """The filter classes that the file defines, in its order."""
        found = (getattr(self.module, node.name, None) for node in self.tree.body if isinstance(node, ast.ClassDef))
        return [one for one in found if isinstance(one, type) and issubclass(one, HttpFilter)]

    def place(self, cls: type[Any], *names: str) -> str:
        """`file:line:column` of the first of these attributes that the class writes out, else of the class itself."""
        for node in self.tree.body:
            if isinstance(node, ast.ClassDef) and node.name == cls.__name__:
                for one in node.body:
                    if _named(one) in names:
                        return self.at(one)
                return self.at(node)
        return f"{self.path}:1:1"

    def at(self, node: ast.stmt) -> str:
        """`file:line:column` of a statement; of a decorated one, of its `def` or `class`."""
        return f"{self.path}:{node.lineno}:{node.col_offset + 1}"


def _named(node: ast.stmt) -> str | None:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return node.name
        case ast.Assign([ast.Name(name)]) | ast.AnnAssign(ast.Name(name)):
            return name
    return None


def read(path: Path) -> AuthorFile:
    """Reads and runs a file. Raises `AuthorError`."""
    if not path.stem.isidentifier() or path.suffix != ".py":
        raise AuthorError(f"{path}: not a module's name\nhint: name the file like my_filter.py")
    try:
        text = path.read_text()
        tree = ast.parse(text, str(path))
    except OSError as error:
        hint = "`pymesh filter new NAME` writes a filter to begin with"
        raise AuthorError(f"{path} cannot be read: {error.strerror}\nhint: {hint}") from None
    except SyntaxError as error:
        raise AuthorError(f"{path}:{error.lineno or 1}:{error.offset or 1}: {error.msg}") from None
    except ValueError as error:
        raise AuthorError(f"{path}:1:1: {error}\nhint: a filter's source is text in UTF-8") from None
    return AuthorFile(path, text, tree, _run(path, text))


def _run(path: Path, text: str) -> ModuleType:
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(path.stem, None, origin=str(path)))  # type: ignore[arg-type]
    module.__file__ = str(path)
    with standing(module), _beside(path.parent):
        try:
            exec(compile(text, str(path), "exec"), vars(module))
        except (Exception, SystemExit) as error:
            raise AuthorError(f"{_raised(path, error)}: {type(error).__name__}: {error}") from error
    return module


@contextmanager
def standing(module: ModuleType) -> Iterator[None]:
    """Dataclasses and annotations look a module up by its name."""
    before = sys.modules.get(module.__name__)
    sys.modules[module.__name__] = module
    try:
        yield
    finally:
        if before is None:
            del sys.modules[module.__name__]
        else:
            sys.modules[module.__name__] = before


@contextmanager
def _beside(folder: Path) -> Iterator[None]:
    """What lies beside the file can be imported, as where it will run."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _raised(path: Path, error: BaseException) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    if not frames:
        return f"{path}:1:1"
    return f"{path}:{frames[-1].lineno}:{(frames[-1].colno or 0) + 1}"
