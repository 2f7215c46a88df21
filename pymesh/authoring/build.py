"""Cython and a compiler for C++, on the text of `module`.

A hook that Cython cannot do without the interpreter is left to it, and the rest is tried again: Cython's types are the
judge of what is compiled, not a list here.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pymesh.filters
from pymesh.authoring.file import AuthorFile
from pymesh.authoring.module import Hook, Source, hooks, write

_CONTRACT = Path(pymesh.filters.__file__).parent
_PACKAGES = _CONTRACT.parents[1]
_FLAGS = ("-shared", "-fPIC", "-O2", "-std=c++11", "-fvisibility=hidden", "-w")
_COMPLAINT = re.compile(r"(?:.*/)?[^/\s]+\.pyx:(\d+):(\d+): (.*)")


class BuildError(Exception):
    """Nothing was built; the text says why, where, and what to do."""


@dataclass(frozen=True, slots=True)
class Built:
    """A library, and what became of each hook."""

    library: Path
    hooks: tuple[Hook, ...]


@dataclass(frozen=True, slots=True)
class _Complaint:
    line: int
    column: int
    text: str


def build(author: AuthorFile, folder: Path) -> Built:
    """Makes `folder/<module>.<platform>.so`. Raises `BuildError`."""
    compiler = _compiler()
    found = hooks(author.tree, author.module)
    if not author.filters():
        raise BuildError(f"{author.path}: no filter in it\nhint: derive a class from pymesh.filters.HttpFilter")
    with tempfile.TemporaryDirectory(prefix="pymesh-filter-") as temporary:
        work = Path(temporary)
        found = _translate(author, found, work)
        made = work / f"{author.path.stem}{sysconfig.get_config_var('EXT_SUFFIX')}"
        _compile(compiler, work / f"{author.path.stem}.cpp", made)
        folder.mkdir(parents=True, exist_ok=True)
        library = folder / made.name
        # A proxy may have the old one mapped: it keeps that file, which a copy onto it would change.
        beside = folder / f".{made.name}.new"
        shutil.copyfile(made, beside)
        beside.replace(library)
    return Built(library, tuple(found))


def _translate(author: AuthorFile, found: list[Hook], work: Path) -> list[Hook]:
    """Writes the C++ text; returns the hooks with what has become of them."""
    while True:
        source = write(author.text, found)
        complaints = _cythonize(author, source, work)
        if not complaints:
            return found
        own = next((one for one in complaints if one.line <= source.length), None)
        if own:
            raise BuildError(f"{author.path}:{own.line}:{own.column}: Cython cannot compile this: {own.text}")
        refused: dict[tuple[str, str], tuple[int, str]] = {}
        for one in complaints:
            if at := source.lines.get(one.line):
                hook, line = at
                refused.setdefault((hook.filter, hook.name), (line, one.text))
        if not refused:
            raise BuildError(f"{author.path}: Cython refuses what was written for it: {complaints[0].text}")
        found = [
            dataclasses.replace(hook, body=None, line=refusal[0], why_not=refusal[1])
            if (refusal := refused.get((hook.filter, hook.name)))
            else hook
            for hook in found
        ]


def _cythonize(author: AuthorFile, source: Source, work: Path) -> list[_Complaint]:
    text = work / f"{author.path.stem}.pyx"
    text.write_text(source.text)
    # In a file that does not know Cython `x: float` is an annotation, not a type in C.
    typed = any(name in ("cython", "Cython") for name in vars(author.module))
    if importlib.util.find_spec("Cython") is None:
        raise BuildError("Cython is not installed\nhint: pip install 'pymesh-proxy[compile]'")
    argv = [sys.executable, "-m", "cython", "--cplus", "-3", "-I", str(_PACKAGES)]
    argv += ["-X", f"annotation_typing={typed}", "--module-name", author.path.stem, text.name]
    done = subprocess.run(argv, cwd=work, capture_output=True, text=True)
    if done.returncode == 0:
        return []
    lines = [line for line in done.stderr.splitlines() if not line.startswith("warning:")]
    found = [_Complaint(int(one[1]), int(one[2]), one[3]) for line in lines if (one := _COMPLAINT.fullmatch(line))]
    if not found:
        raise BuildError(f"{author.path}: Cython has failed:\n{done.stderr.strip()}")
    return found


def _compile(compiler: list[str], text: Path, library: Path) -> None:
    include = sysconfig.get_path("include")
    if not (Path(include) / "Python.h").exists():
        raise BuildError(
            f"{include} has no Python.h\nhint: install Python's headers (Debian: apt-get install python3-dev)"
        )
    flags = shlex.split(os.environ.get("CXXFLAGS", ""))
    argv = [*compiler, *_FLAGS, *flags, f"-I{include}", f"-I{_CONTRACT}", str(text), "-o", str(library)]
    if sys.platform == "darwin":
        argv += ["-undefined", "dynamic_lookup"]
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"`{shlex.join(compiler)}` has failed:\n{done.stderr.strip()}")


def _compiler() -> list[str]:
    """What $CXX names, or the usual names."""
    named = os.environ.get("CXX")
    wanted = [named] if named else [sysconfig.get_config_var("CXX") or "c++", "c++", "g++", "clang++"]
    for one in wanted:
        if one and shutil.which(shlex.split(one)[0]):
            return shlex.split(one)
    tried = ", ".join(dict.fromkeys(shlex.split(one)[0] for one in wanted if one))
    hint = "install one (Debian: apt-get install g++), or set CXX to yours"
    raise BuildError(f"there is no compiler for C++ here (looked for {tried})\nhint: {hint}")
