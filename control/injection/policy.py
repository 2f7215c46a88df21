"""Whether a pod gets a sidecar, and if not, why: Istio's rules.

The webhook configuration selects by labels before anything is sent (`install/objects.py`), so that what comes here is
wanted by its namespace or by itself; what only the pod's body tells is judged here.
"""

from __future__ import annotations

from typing import Any

#: On namespaces.
NAMESPACE_LABEL = "istio-injection"
#: On pods, as a label or (older) as an annotation.
INJECT = "sidecar.istio.io/inject"
#: What we leave behind, and by which a pod that has a sidecar is known.
STATUS = "sidecar.istio.io/status"
#: Where the cluster itself runs: a sidecar there may keep a node from coming up.
NEVER = ("kube-system", "kube-public", "kube-node-lease")


def skipped(pod: dict[str, Any], namespace: str, wanted_by_namespace: bool = True) -> str:
    """Why the pod is left as it is; empty if it gets a sidecar."""
    metadata = pod.get("metadata") or {}
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    if is_injected(pod):
        return "it has a sidecar already"
    if namespace in NEVER:
        return f"pods of namespace {namespace} get none"
    if (pod.get("spec") or {}).get("hostNetwork"):
        return "it is in the node's network, where capturing would take everybody's connections"
    if _is_for_windows(pod.get("spec") or {}):
        return "it is for Windows, where there is no proxy"
    own = labels.get(INJECT, annotations.get(INJECT))
    if own == "false":
        return f"{INJECT} says so"
    if own != "true" and not wanted_by_namespace:
        return f"neither its namespace ({NAMESPACE_LABEL}: enabled) nor itself ({INJECT}) asks for one"
    return ""


def is_injected(pod: dict[str, Any]) -> bool:
    """Whether it has a sidecar already."""
    return STATUS in ((pod.get("metadata") or {}).get("annotations") or {})


def _is_for_windows(spec: dict[str, Any]) -> bool:
    """What tells Kubernetes so: an API server refuses such a pod with containers as ours are."""
    system, selected = (spec.get("os") or {}).get("name"), (spec.get("nodeSelector") or {}).get("kubernetes.io/os")
    return "windows" in (system, selected)
