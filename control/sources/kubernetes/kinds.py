"""What is looked at in an API server, and where each kind is served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pymesh.control.resources.load import KINDS, REFUSED_KINDS


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object, and which objects of it."""

    group: str
    name: str
    #: The best first: the first that the server has is used.
    versions: tuple[str, ...]
    plural: str
    #: What the server is asked for, of all there are.
    field_selector: str = ""
    #: Where, if not everywhere.
    namespace: str = ""

    def path(self, version: str) -> str:
        """Where all of them are listed."""
        root = f"/apis/{self.group}/{version}" if self.group else f"/api/{version}"
        place = f"/namespaces/{self.namespace}" if self.namespace else ""
        return f"{root}{place}/{self.plural}"

    def version(self, version: str) -> str:
        """As ``apiVersion`` says it."""
        return f"{self.group}/{version}" if self.group else version

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


#: Secrets of these types are for others; gateways' have none of them.
_STRANGE_SECRETS: Final = (
    "kubernetes.io/service-account-token", "kubernetes.io/dockerconfigjson", "kubernetes.io/dockercfg",
    "kubernetes.io/basic-auth", "kubernetes.io/ssh-auth", "bootstrap.kubernetes.io/token", "helm.sh/release.v1",
)  # fmt: skip
#: Kinds that are refused with their name, so that nobody thinks that they do something.
_REFUSED_GROUPS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "EnvoyFilter": ("networking.istio.io", ("v1alpha3",)),
    "WorkloadGroup": ("networking.istio.io", ("v1", "v1beta1", "v1alpha3")),
    "ProxyConfig": ("networking.istio.io", ("v1beta1",)),
    "WasmPlugin": ("extensions.istio.io", ("v1alpha1",)),
    "TrafficExtension": ("extensions.istio.io", ("v1alpha1",)),
    "BackendTLSPolicy": ("gateway.networking.k8s.io", ("v1",)),
    "ListenerSet": ("gateway.networking.k8s.io", ("v1",)),
    "UDPRoute": ("gateway.networking.k8s.io", ("v1", "v1alpha2")),
}


def watched(root_namespace: str) -> tuple[Kind, ...]:
    """Every kind that tells the mesh something; that of the mesh's own settings in its root namespace alone."""
    found = [
        Kind(group, name, versions, plural(name), *_narrowed(name, root_namespace))
        for (group, name), (versions, _) in KINDS.items()
    ]
    found += [
        Kind(group, name, versions, plural(name))
        for name, (group, versions) in _REFUSED_GROUPS.items()
        if name in REFUSED_KINDS and (group, name) not in KINDS
    ]
    return tuple(found)


def _narrowed(name: str, root_namespace: str) -> tuple[str, str]:
    if name == "Secret":
        return ",".join(f"type!={one}" for one in _STRANGE_SECRETS), ""
    if name == "ConfigMap":
        return "metadata.name=istio", root_namespace
    return "", ""


def plural(name: str) -> str:
    """As all groups here have it: as in English."""
    lower = name.lower()
    if lower.endswith(("cy", "ry")):
        return f"{lower[:-1]}ies"
    return f"{lower}es" if lower.endswith("s") else f"{lower}s"
