"""What is wrong with a resource, as an Event: also for kinds whose status is not ours, such as Services.

The name of an Event is made of the resource and of what is said: who says it again finds that it was said.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any, Final

from pymesh.control.status.conditions import stamp, told
from pymesh.control.status.objects import Object

COMPONENT: Final = "pymesh-control"
#: What an API server takes at most.
_LONGEST_NOTE = 1024


def refusal(found: Object, reporter: str, now: datetime) -> dict[str, Any] | None:
    """The Event of a resource that is not in force, or only in part; None for one that is."""
    if not found.errors:
        return None
    note = told(found.errors)
    if len(note) > _LONGEST_NOTE:
        note = f"{note[: _LONGEST_NOTE - 4]} ..."
    said = hashlib.sha256(f"{found.uid} {found.generation} {note}".encode()).hexdigest()[:16]
    namespace = found.namespace or "default"
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{found.name[:200]}.{said}", "namespace": namespace},
        "type": "Warning",
        "reason": "PartiallyInvalid" if found.is_partial else "Refused",
        "action": "Configure",
        "note": note,
        "eventTime": f"{stamp(now)[:-1]}.{now.astimezone(UTC).microsecond:06d}Z",
        "reportingController": COMPONENT,
        "reportingInstance": reporter[:128],
        "regarding": {
            "apiVersion": found.version,
            "kind": found.kind,
            "namespace": found.namespace,
            "name": found.name,
            "uid": found.uid,
        },
    }
