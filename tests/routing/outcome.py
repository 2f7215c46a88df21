"""What becomes of a request, as a reading of the standard says, and whether an answer is that."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.tools.wire.client import Answer


@dataclass(frozen=True)
class Asked:
    """A request of a test."""

    host: str
    target: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """The query with its question mark, or nothing."""
        return self.target[len(self.path) :]

    @property
    def name(self) -> str:
        """The host without its port."""
        return self.host.partition(":")[0]


@dataclass(frozen=True)
class Local:
    """The proxy answers."""

    status: int
    body: str = ""
    response: Mapping[str, str] = field(default_factory=dict)

    def differs(self, answer: Answer) -> list[str]:
        """What is not as said."""
        found = []
        if answer.status != self.status or answer.body.decode() != self.body:
            found.append(f"{answer.status} {answer.body!r} and not {self.status} {self.body!r}")
        return found + _headers(self.response, answer)


@dataclass(frozen=True)
class Redirected:
    """The client is sent elsewhere."""

    status: int
    location: str
    #: The same place in other words, where the standard lets both be.
    or_else: str = ""

    def differs(self, answer: Answer) -> list[str]:
        """What is not as said."""
        location = answer.header("location")
        if answer.status == self.status and location in (self.location, self.or_else or self.location):
            return []
        return [f"{answer.status, location} and not {self.status, self.location}"]


@dataclass(frozen=True)
class Forwarded:
    """One of the origins answers; what it must and must not have seen."""

    origins: frozenset[str]
    target: str
    authorities: frozenset[str]
    request: Mapping[str, str] = field(default_factory=dict)
    gone: frozenset[str] = frozenset()
    response: Mapping[str, str] = field(default_factory=dict)

    def differs(self, answer: Answer) -> list[str]:
        """What is not as said."""
        origin = answer.header("x-origin")
        if answer.status != 200 or origin not in self.origins:
            return [f"{answer.status} of {origin} and not 200 of one of {sorted(self.origins)}"]
        seen = json.loads(answer.body)
        found = []
        if seen["target"] != self.target:
            found.append(f"target {seen['target']!r} and not {self.target!r}")
        if seen["authority"] not in self.authorities:
            found.append(f"authority {seen['authority']!r} and not one of {sorted(self.authorities)}")
        headers: dict[str, list[str]] = {}
        for name, value in seen["headers"]:
            headers.setdefault(name, []).append(value)
        for name, value in self.request.items():
            if ",".join(headers.get(name, [])) != value:
                found.append(f"request header {name}: {headers.get(name)} and not {value!r}")
        found += [f"request header {name} is there" for name in self.gone if name in headers]
        return found + _headers(self.response, answer)


def _headers(wanted: Mapping[str, str], answer: Answer) -> list[str]:
    found = []
    for name, value in wanted.items():
        got = ",".join(given for known, given in answer.headers if known == name)
        if got != value:
            found.append(f"response header {name}: {got!r} and not {value!r}")
    return found


Outcome = Local | Redirected | Forwarded
