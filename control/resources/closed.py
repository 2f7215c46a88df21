"""What a policy becomes that cannot be read: it closes what it was for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.metadata import Resource
from pymesh.control.resources.objects import Object, load_object


def closed(one: Object) -> Resource | None:
    """The policy that stands in for an object; None: it is no policy that closes anything."""
    spec = one.get("spec")
    written: Mapping[str, Any] = spec if isinstance(spec, Mapping) else {}
    if one.get("kind") == "AuthorizationPolicy":
        annotations = (one.get("metadata") or {}).get("annotations") or {}
        if written.get("action") == "AUDIT" or annotations.get("istio.io/dry-run") == "true":
            return None
        closing: dict[str, Any] = {}  # no rules: it allows nothing
    elif one.get("kind") == "PeerAuthentication":
        closing = {"mtls": {"mode": "STRICT"}}
    else:
        return None
    # Whom it selects, if that is not what is wrong; else everybody in its namespace.
    for selecting in ("selector", "targetRefs"):
        if selecting in written:
            made = load_object({**one, "spec": {**closing, selecting: written[selecting]}}, Report())
            if made is not None:
                return made
    return load_object({**one, "spec": closing}, Report())
