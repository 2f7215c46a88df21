"""What every resource has: its name, and where it was read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Any

from pymesh.control.resources.decode import Located, Problem, model

_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")


@model
class Metadata(Located):
    """``metadata`` of Kubernetes."""

    name: str
    namespace: str = "default"
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    #: Written by an API server; meaningless here.
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: Any = None
    managed_fields: Any = None

    @property
    def age(self) -> tuple[bool, str]:
        """Sorts the oldest first; what no API server has dated comes last."""
        return (not self.creation_timestamp, str(self.creation_timestamp or ""))

    def problems(self) -> Iterator[Problem]:
        stamp = self.creation_timestamp
        if stamp is not None and not (isinstance(stamp, str) and _TIMESTAMP.fullmatch(stamp)):
            yield Problem("creationTimestamp", f"{stamp!r} is no timestamp", "write it as in 2026-01-31T12:00:00Z")
        for key, value in (("name", self.name), ("namespace", self.namespace)):
            if not _NAME.fullmatch(value):
                hint = "lower-case letters, digits, '-' and '.'; it starts and ends with a letter or digit"
                yield Problem(key, f"{value!r} is not a valid name", hint)


@model
class Resource(Located):
    """A document that a user wrote."""

    metadata: Metadata

    @property
    def name(self) -> str:
        """Its name in its namespace."""
        return self.metadata.name

    @property
    def namespace(self) -> str:
        """The namespace that it is in."""
        return self.metadata.namespace

    @property
    def title(self) -> str:
        """For messages: kind, namespace and name."""
        return f"{type(self).__name__} {self.namespace}/{self.name}"

    @property
    def seniority(self) -> tuple[tuple[bool, str], str, str]:
        """Sorts the oldest first, then by name: the first of those that exclude each other counts."""
        return (self.metadata.age, f"{self.namespace}/{self.name}", self.title)
