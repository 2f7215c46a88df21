"""Whether the proxy would load a filter: what `pymesh filter check` says, each problem with its place in the file."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pymesh.authoring.file import AuthorError, AuthorFile, read, standing
from pymesh.filters import HttpFilter, loader

_WORD = re.compile(r"\w+")


def locate(path: Path) -> AuthorFile:
    """The file, which has to have a filter in it."""
    author = read(path)
    if not author.filters():
        raise AuthorError(f"{path}:1:1: no filter in it\nhint: derive a class from pymesh.filters.HttpFilter")
    return author


def find(target: str) -> tuple[AuthorFile, list[type[HttpFilter[Any]]]]:
    """A file and all its filters, or the file of `MODULE:CLASS` and that one."""
    module_name, separator, class_name = target.partition(":")
    if not separator or Path(target).exists():
        author = locate(Path(target))
        return author, author.filters()
    sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        hint = "name the file, or run this where the module can be imported"
        raise AuthorError(f"{module_name} cannot be imported: {type(error).__name__}: {error}\nhint: {hint}") from error
    finally:
        sys.path.remove("")
    path = Path(module.__file__ or "")
    text = path.read_text() if path.suffix == ".py" else ""
    author = AuthorFile(path, text, ast.parse(text), module)
    cls = getattr(module, class_name, None)
    if not isinstance(cls, type) or not issubclass(cls, HttpFilter):
        known = ", ".join(one.__name__ for one in author.filters()) or "none"
        raise AuthorError(f"{author.path}:1:1: no filter `{class_name}` in it\nhint: it has {known}")
    return author, [cls]


def check(target: str, config: Mapping[str, Any] | None) -> tuple[list[str], list[str]]:
    """What was found to be good, a line for each filter, and the problems."""
    author, classes = find(target)
    good: list[str] = []
    problems: list[str] = []
    for cls in classes:
        try:
            traits = loader.describe(cls)
            settings = "settings not checked (no --config)"
            if config is not None:
                with standing(author.module):
                    loader.make(cls, config)
                settings = "settings fit"
        except loader.FilterError as error:
            problems += _placed(author, cls, str(error))
            continue
        hooks = ", ".join(traits.hooks) or "no hooks: the proxy never calls it"
        good.append(f"{author.place(cls)}: {cls.__name__}: lane {traits.lane}; {hooks}; {settings}")
    return good, problems


def _placed(author: AuthorFile, cls: type[HttpFilter[Any]], text: str) -> list[str]:
    """The problems in a text of the loader, each with its place. A line that begins with a name begins a problem."""
    found: list[str] = []
    for line in text.split("\n"):
        if line.startswith("`"):
            words = _WORD.findall(line)
            named = [word for word in words if word in vars(cls)]
            setting = cls.Config is not None and [word for word in words if word in vars(cls.Config)["__annotations__"]]
            place = author.place(cls, *named)
            if not named and setting and cls.Config is not None:
                place = author.place(cls.Config, *setting)
            found.append(f"{place}: {line}")
        elif found:
            found[-1] += f"\n{line}"
        else:
            found.append(f"{author.place(cls)}: {line}")
    return found


def config_of(path: Path | None) -> Mapping[str, Any] | None:
    """The settings in a file: a mapping, or a PythonFilter resource that has them."""
    if path is None:
        return None
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise AuthorError(f"{path} cannot be read: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        at = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else f"{path}:1:1"
        raise AuthorError(f"{at}: {error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise AuthorError(f"{path}:1:1: {error}") from None
    if isinstance(document, dict) and document.get("kind") == "PythonFilter":
        spec = document.get("spec")
        document = (spec.get("config") or {}) if isinstance(spec, dict) else None
    if not isinstance(document, dict) or not all(isinstance(name, str) for name in document):
        raise AuthorError(
            f"{path}:1:1: no settings in it\nhint: write `name: value`, or a PythonFilter with spec.config"
        )
    return document
