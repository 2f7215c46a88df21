"""What is wrong with users' configuration, said so that they can mend it: where, what, and how."""

from __future__ import annotations

import difflib
import heapq
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Final, Literal

#: As many wrong names of one report are looked for among all there are: whoever writes more of them knows by then, and
#: a mesh of thousands of services is read anew at every change.
MOST_SEARCHES: Final = 10
#: As many names are compared in every way.
_MOST_COMPARED: Final = 50

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in a file, or in an object of an API server. Lines and columns count from 1; 0 means the file as a whole.

    An object stands for a file of its own, named KIND/NAMESPACE/NAME, and has fields in place of lines.
    """

    file: str
    line: int = 0
    column: int = 0
    #: As in ``spec.http[0].route``; empty for the object as a whole, and in files.
    field: str = ""

    def __str__(self) -> str:
        if self.field:
            return f"{self.file}:{self.field}"
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True, slots=True, order=True)
class Diagnostic:
    """One finding."""

    at: Position
    message: str
    hint: str = ""
    severity: Severity = "error"
    #: Istio's code of the finding, where `pymesh analyze` has given it one.
    code: str = ""
    #: Where the other resource is without which nothing would be wrong with this one.
    rival: Position | None = field(default=None, compare=False)
    #: Nothing but a reference is wrong: the resource means something without what that refers to.
    dangling: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        hint = f"\n  hint: {self.hint}" if self.hint else ""
        return f"{self.at}: {self.severity}: {self.message}{hint}"


class Report:
    """Collects findings, so that all of them are told at once."""

    def __init__(self, searches: int = MOST_SEARCHES) -> None:
        """``searches`` as in :meth:`closest`; 0: whoever reads it may not see all names."""
        self._found: list[Diagnostic] = []
        #: One number, which the parts of a report have in common.
        self._searches = [searches]

    def part(self) -> Report:
        """Another one, whose findings are not yet those of this one."""
        made = Report()
        made._searches = self._searches
        return made

    def closest(self, wrong: str, known: Callable[[], Iterable[str]], *, otherwise: str = "") -> str:
        """As :func:`did_you_mean`, for names of which a mesh may have thousands: only the first few times."""
        if self._searches[0] <= 0:
            return otherwise
        self._searches[0] -= 1
        return did_you_mean(wrong, known(), otherwise=otherwise)

    def error(self, at: Position, message: str, hint: str = "", code: str = "", rival: Position | None = None) -> None:
        """Something that keeps the configuration from being used."""
        self._found.append(Diagnostic(at, message, hint, code=code, rival=rival))

    def warning(self, at: Position, message: str, hint: str = "", code: str = "") -> None:
        """Something that is probably not meant."""
        self._found.append(Diagnostic(at, message, hint, "warning", code))

    def info(self, at: Position, message: str, hint: str = "", code: str = "") -> None:
        """Something that is good to know."""
        self._found.append(Diagnostic(at, message, hint, "info", code))

    def add(self, found: Iterable[Diagnostic]) -> None:
        """What another report has found."""
        self._found.extend(found)

    def add_dangling(self, part: Report) -> None:
        """What another report has found of a reference, without which its resource still means something."""
        self._found.extend(replace(one, dangling=True) for one in part._found)

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """Everything found, in the order of files and lines, each once."""
        return tuple(sorted(set(self._found)))

    def errors(self) -> list[Diagnostic]:
        """Those that keep something from being used."""
        return [one for one in self._found if one.severity == "error"]

    @property
    def failed(self) -> bool:
        """Whether any finding is an error."""
        return any(found.severity == "error" for found in self._found)


class ConfigError(Exception):
    """Configuration that cannot be used, with everything that is wrong with it."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__("\n".join(map(str, self.diagnostics)))


def did_you_mean(wrong: str, known: Iterable[str], *, otherwise: str = "") -> str:
    """A hint that names the closest of ``known``, else ``otherwise``, else what there is."""
    names = sorted(set(known))
    folded = {name.lower(): name for name in names}
    close = difflib.get_close_matches(wrong.lower(), _likely(wrong.lower(), folded), n=1, cutoff=0.6)
    if close:
        return f"did you mean {folded[close[0]]!r}?"
    if otherwise or not names:
        return otherwise
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"known: {shown}"


def _likely(wrong: str, names: Iterable[str]) -> list[str]:
    """Those that begin and end as ``wrong`` does, if there are many: whoever mistypes a name has most of it right."""
    backwards = wrong[::-1]

    def unlike(name: str) -> tuple[int, int]:
        longer = abs(len(name) - len(wrong))
        return longer - _same(wrong, name) - _same(backwards, name[::-1]), longer

    found = list(names)
    return found if len(found) <= _MOST_COMPARED else heapq.nsmallest(_MOST_COMPARED, found, key=unlike)


def _same(one: str, other: str) -> int:
    """How many letters at their begin are the same."""
    return sum(takewhile(bool, map(operator.eq, one, other)))
