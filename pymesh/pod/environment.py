"""What a container knows of its pod: environment variables and files, by the names that Istio's agent reads."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Role = Literal["sidecar", "router"]

#: The proxy's own, out of the application's way; Istio's.
PROBE_PORT, READY_PORT, METRICS_PORT, ADMIN_PORT = 15020, 15021, 15090, 15000

_META = "ISTIO_META_"
_LABEL_LINE = re.compile(r'([^="\s]+)=("(?:[^"\\]|\\.)*")')


class PodError(Exception):
    """The pod does not tell what the proxy needs to know: what, and who tells it."""


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod, as its proxy introduces itself."""

    role: Role
    name: str
    namespace: str
    address: str
    service_account: str
    labels: Mapping[str, str] = field(default_factory=dict)
    #: More of the node's metadata: NODE_NAME, CLUSTER_ID, INTERCEPTION_MODE, WORKLOAD_NAME.
    metadata: Mapping[str, str] = field(default_factory=dict)
    #: Path -> what the kubelet asked the application for, before the sidecar was put in between.
    probes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def node_id(self) -> str:
        """Istio's."""
        return f"{self.role}~{self.address}~{self.name}.{self.namespace}~{self.namespace}.svc.cluster.local"

    @property
    def is_ipv6(self) -> bool:
        """By its address."""
        return ":" in self.address


def read(role: Role, environment: Mapping[str, str], labels: Path) -> Pod:
    """Raises :class:`PodError`."""
    wanted = ("POD_NAME", "POD_NAMESPACE", "INSTANCE_IP", "SERVICE_ACCOUNT")
    missing = [name for name in wanted if not environment.get(name)]
    if missing:
        raise PodError(
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set in the environment; "
            "hint: the downward API tells them, as in a pod that `pymesh inject` has made"
        )
    metadata = {name.removeprefix(_META): value for name, value in environment.items() if name.startswith(_META)}
    return Pod(
        role,
        environment["POD_NAME"],
        environment["POD_NAMESPACE"],
        environment["INSTANCE_IP"],
        environment["SERVICE_ACCOUNT"],
        _labels(labels),
        metadata,
        _probes(environment.get("ISTIO_KUBE_APP_PROBERS", "")),
    )


def _labels(file: Path) -> Mapping[str, str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PodError(f"the pod's labels cannot be read: {error}; hint: mount them by the downward API") from error
    found = {}
    for number, line in enumerate(lines, start=1):
        matched = _LABEL_LINE.fullmatch(line)
        if matched is None:
            raise PodError(f'{file}:{number}: {line[:80]!r} is not LABEL="VALUE", as the downward API writes it')
        found[matched[1]] = str(json.loads(matched[2]))
    return found


def _probes(text: str) -> Mapping[str, Mapping[str, Any]]:
    try:
        found = json.loads(text) if text else {}
    except ValueError as error:
        raise PodError(f"ISTIO_KUBE_APP_PROBERS is not JSON: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(one, dict) for one in found.values()):
        raise PodError("ISTIO_KUBE_APP_PROBERS: expected an object of probes by path")
    return found
