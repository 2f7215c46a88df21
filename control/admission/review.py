"""`AdmissionReview` of `admission.k8s.io/v1`: what the API server asks, and what it is told."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import orjson

API_VERSION, KIND = "admission.k8s.io/v1", "AdmissionReview"
#: What `kubectl` shows of a warning; longer ones are cut by the API server.
_LONGEST_WARNING = 256
_MOST_WARNINGS = 16


class ReviewError(ValueError):
    """This is no AdmissionReview that can be answered: what is wrong."""


class _Kind(msgspec.Struct):
    group: str = ""
    version: str = ""
    kind: str = ""


class _Request(msgspec.Struct, rename="camel"):
    uid: str
    kind: _Kind
    operation: str
    name: str = ""
    namespace: str = ""
    object: dict[str, Any] | None = None
    dry_run: bool | None = None


class _Review(msgspec.Struct, rename="camel"):
    api_version: str
    kind: str
    request: _Request | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """One object on its way into the cluster."""

    uid: str
    kind: str
    group: str
    operation: str
    namespace: str
    name: str
    object: dict[str, Any]

    @property
    def title(self) -> str:
        """For messages."""
        metadata = self.object.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        name = self.name or metadata.get("name") or metadata.get("generateName") or "(no name)"
        return f"{self.kind} {self.namespace}/{name}" if self.namespace else f"{self.kind} {name}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What becomes of it."""

    #: Why it is not taken; empty if it is.
    refusal: str = ""
    patch: Sequence[dict[str, Any]] = ()
    warnings: Sequence[str] = ()
    #: Of audit annotations: for the API server's log.
    audit: dict[str, str] = field(default_factory=dict)


def decoded(content: bytes) -> Asked:
    """Raises :class:`ReviewError`."""
    try:
        review = msgspec.json.decode(content, type=_Review)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ReviewError(f"this is no AdmissionReview: {error}") from error
    if (review.api_version, review.kind) != (API_VERSION, KIND) or review.request is None:
        raise ReviewError(f"expected a request of {API_VERSION} {KIND}, found {review.api_version} {review.kind}")
    asked = review.request
    return Asked(
        asked.uid,
        asked.kind.kind,
        asked.kind.group,
        asked.operation,
        asked.namespace,
        asked.name,
        asked.object or {},
    )


def encoded(uid: str, answer: Answer) -> bytes:
    """The whole message."""
    response: dict[str, Any] = {"uid": uid, "allowed": not answer.refusal}
    if answer.refusal:
        response["status"] = {"code": 422, "reason": "Invalid", "message": answer.refusal}
    elif answer.patch:
        response |= {"patchType": "JSONPatch", "patch": base64.b64encode(orjson.dumps(list(answer.patch))).decode()}
    if answer.warnings:
        response["warnings"] = [one[:_LONGEST_WARNING] for one in answer.warnings[:_MOST_WARNINGS]]
    if answer.audit:
        response["auditAnnotations"] = answer.audit
    return orjson.dumps({"apiVersion": API_VERSION, "kind": KIND, "response": response})
