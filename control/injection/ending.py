"""An application goes on for a moment after its pod is to end.

The kubelet ends it at once, and at the same time the others begin to hear that the pod is no endpoint any more: its
sidecar, which outlives it, has requests then for which nobody is there. So a container without a `preStop` hook of its
own sleeps before it gets its SIGTERM. Istio leaves this to the author of each pod; what a hook says there holds here,
too, and `sleep: {seconds: 0}` is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

Json = dict[str, Any]

#: Kubernetes' default for a pod.
_GRACE_SECONDS: Final = 30


def held_back(spec: Mapping[str, Any], containers: Sequence[Json], seconds: int) -> list[Json]:
    """The containers, those without a hook with one that sleeps. Who ends by itself, as a Job does, serves nobody."""
    grace = spec.get("terminationGracePeriodSeconds", _GRACE_SECONDS)
    # The API server takes no sleep that leaves nothing for the application.
    sleep = min(seconds, grace // 2) if isinstance(grace, int) else 0
    if sleep <= 0 or spec.get("restartPolicy", "Always") != "Always":
        return list(containers)
    return [_with_sleep(one, sleep) for one in containers]


def _with_sleep(container: Json, seconds: int) -> Json:
    lifecycle = container.get("lifecycle") or {}
    if not isinstance(lifecycle, Mapping) or lifecycle.get("preStop"):
        return container
    return {**container, "lifecycle": {**lifecycle, "preStop": {"sleep": {"seconds": seconds}}}}
