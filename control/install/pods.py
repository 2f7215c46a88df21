"""The pods of an installation: what those of the control plane and of gateways have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pymesh.control.injection.inject import USER

Json = dict[str, Any]


def template(
    account: str,
    containers: Sequence[Json],
    volumes: Sequence[Json],
    labels: Mapping[str, str],
    annotations: Mapping[str, str] | None = None,
) -> Json:
    """A Deployment's template of pods that need no rights over their node."""
    spec = {
        "serviceAccountName": account,
        "containers": list(containers),
        "volumes": list(volumes),
        "securityContext": {
            "fsGroup": USER,
            # The state's files are their owner's alone: nothing is to be changed about them at each mount.
            "fsGroupChangePolicy": "OnRootMismatch",
            "runAsGroup": USER,
            "runAsNonRoot": True,
            "runAsUser": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": 60,
    }
    default = {"kubectl.kubernetes.io/default-container": containers[0]["name"]}
    return {
        "metadata": {
            "labels": {**labels, "sidecar.istio.io/inject": "false"},
            "annotations": {**(annotations or {}), **default},
        },
        "spec": spec,
    }


def of_gateway(container: Json, volumes: Sequence[Json], account: str, **described: Any) -> Json:
    """Those of a gateway."""
    made = template(account, [{**container, "securityContext": restricted()}], volumes, **described)
    # Gateways listen on the ports that they name, 80 among them, and not as root.
    unprivileged = [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]
    made["spec"]["securityContext"]["sysctls"] = unprivileged
    # They ask the API server nothing, and strangers speak to them: the token for the control plane is all they have.
    made["spec"]["automountServiceAccountToken"] = False
    return made


def restricted() -> Json:
    """Kubernetes' Pod Security Standard of that name."""
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "privileged": False,
        "readOnlyRootFilesystem": True,
    }


#: Requests go on while the proxies are replaced.
ROLLING: Json = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "100%", "maxUnavailable": 0}}
