"""A pod with a sidecar to which something has been added since: other webhooks come after ours, and the API server asks
again. What they have brought is treated as the rest was; whoever comes with nothing new leaves as he came.
"""

from __future__ import annotations

import copy
import json
from typing import Any

from pymesh.control.injection import ending, ports, probes, wishes
from pymesh.control.injection.inject import CAPTURE, SIDECAR, rewritten
from pymesh.control.injection.problems import Fault, InjectionError
from pymesh.control.injection.settings import InjectionSettings

Json = dict[str, Any]
_OURS = (CAPTURE, SIDECAR)


def complete(pod: Json, settings: InjectionSettings) -> Json:
    """The pod, with the probes and the end of every container as the sidecar needs them. Raises
    :class:`InjectionError`.
    """
    made = copy.deepcopy(pod)
    spec = made["spec"]
    sidecar = next((one for one in spec.get("initContainers") or () if one.get("name") == SIDECAR), None)
    if sidecar is None or sidecar.get("command") != ["pymesh"]:
        return made  # it is another mesh's
    wished, faults = wishes.read(made.get("metadata") or {}, settings)
    known = {one["name"]: one.get("value") for one in sidecar.get("env") or ()}
    try:
        asked: dict[str, Json] = dict(json.loads(known.get(probes.VARIABLE) or "{}"))
    except (ValueError, TypeError) as error:
        fault = Fault(
            "spec.initContainers", f"{probes.VARIABLE} of {SIDECAR!r} is not JSON", "it is for the sidecar alone"
        )
        raise InjectionError([fault]) from error
    for field in ("initContainers", "containers"):
        if wished.rewrite_probes and spec.get(field):
            theirs = [one for one in spec[field] if one.get("name") not in _OURS]
            changed = {one["name"]: one for one in rewritten(theirs, f"spec.{field}", asked, faults)}
            spec[field] = [changed.get(one.get("name"), one) for one in spec[field]]
    if faults:
        raise InjectionError(faults)
    spec["containers"] = ending.held_back(spec, spec["containers"], settings.pre_stop_sleep_seconds)
    told = {**probes.variables(asked), **ports.variables(_without_ours(spec))}
    kept = [one for one in sidecar.get("env") or () if one["name"] not in told]
    sidecar["env"] = [*kept, *({"name": name, "value": value} for name, value in told.items())]
    return made


def _without_ours(spec: Json) -> Json:
    return {
        field: [one for one in spec.get(field) or () if one.get("name") not in _OURS]
        for field in ("initContainers", "containers")
    }
