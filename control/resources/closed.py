"""What takes the place of a resource that decides who gets in and cannot be read: it closes what that was for.

It says nothing that it would not have to: so nothing is wrong with it, and it refers to nothing that could be missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.metadata import Resource
from pymesh.control.resources.objects import Object, load_object

#: Fails each request, which is answered as any failure of a filter that is `CLOSED`.
_REFUSING: Final = """\
from pymesh.filters import Context, HttpFilter, Request


class Refusing(HttpFilter):
    def on_request_headers(self, request: Request, ctx: Context) -> None:
        raise RuntimeError("this PythonFilter cannot be used; its status says why")
"""
#: Of a filter: which requests it sees, and when.
_PLACE: Final = ("phase", "priority", "match")


def closed(one: Object) -> Resource | None:
    """What stands in for an object; None: it is nothing that closes."""
    spec = one.get("spec")
    written: Mapping[str, Any] = spec if isinstance(spec, Mapping) else {}
    everybody: dict[str, Any] = {}
    place: dict[str, Any] = {}
    if one.get("kind") == "AuthorizationPolicy":
        annotations = (one.get("metadata") or {}).get("annotations") or {}
        if written.get("action") == "AUDIT" or annotations.get("istio.io/dry-run") == "true":
            return None
        closing: dict[str, Any] = {}  # no rules: it allows nothing
    elif one.get("kind") == "PeerAuthentication":
        closing = {"mtls": {"mode": "STRICT"}}
    elif one.get("kind") == "PythonFilter":
        if written.get("failurePolicy") == "OPEN":
            return None
        closing = {"class": "refusing:Refusing", "source": _REFUSING}
        everybody = {"selector": {"matchLabels": {}}}
        place = {name: written[name] for name in _PLACE if name in written}
    else:
        return None
    # Whom it selects, if that is not what is wrong; else everybody in its namespace.
    chosen = [{name: written[name]} for name in ("selector", "targetRefs") if written.get(name) is not None]
    for selecting in (*chosen, everybody):
        for where in (place, {}):
            made = load_object({**one, "spec": {**closing, **where, **selecting}}, Report())
            if made is not None:
                return made
    return None
