"""What the control plane and the gateway may do in a cluster, and nothing else.

Each rule stands with its reason. What Kubernetes cannot narrow is said there: `create` knows no names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pymesh.control.install.crds import GROUP

Json = dict[str, Any]

_READ: Final = ("get", "list", "watch")
#: Group -> plural names of what configures the mesh, and whose status we write.
_CONFIGURATION: Final[Mapping[str, Sequence[str]]] = {
    "networking.istio.io": (
        *("virtualservices", "destinationrules", "gateways", "serviceentries", "workloadentries", "sidecars"),
        # Refused by name, so that nobody thinks that they do something.
        *("envoyfilters", "workloadgroups", "proxyconfigs"),
    ),
    "security.istio.io": ("peerauthentications", "authorizationpolicies", "requestauthentications"),
    "telemetry.istio.io": ("telemetries",),
    "extensions.istio.io": ("wasmplugins",),
    "gateway.networking.k8s.io": (
        *("gatewayclasses", "gateways", "httproutes", "grpcroutes", "tlsroutes", "tcproutes", "udproutes"),
        "referencegrants",
    ),
    GROUP: ("pythonfilters", "healthcheckpolicies", "localratelimits"),
}
#: They have no status.
_WITHOUT_STATUS: Final = ("referencegrants",)


def of_control(name: str, namespace: str) -> list[Json]:
    """Of the control plane."""
    cluster = [
        # Who runs where, and what they are called.
        _rule([""], ["services", "pods", "nodes", "namespaces"], _READ),
        _rule(["discovery.k8s.io"], ["endpointslices"], _READ),
        # Keys of gateways: they are in whatever namespace a gateway is in.
        _rule([""], ["secrets"], _READ),
        *(_rule([group], kinds, _READ) for group, kinds in _CONFIGURATION.items()),
        *(
            _rule([group], [f"{kind}/status" for kind in kinds if kind not in _WITHOUT_STATUS], ("patch", "update"))
            for group, kinds in _CONFIGURATION.items()
        ),
        # The class of our gateways is made where it is missing.
        _rule(["gateway.networking.k8s.io"], ["gatewayclasses"], ("create",)),
        # What is wrong with a resource is told beside it.
        _rule(["events.k8s.io"], ["events"], ("create", "patch")),
        # Who somebody is, and whether a gateway may read the Secrets of its namespace.
        _rule(["authentication.k8s.io"], ["tokenreviews"], ("create",)),
        _rule(["authorization.k8s.io"], ["subjectaccessreviews"], ("create",)),
        # The roots of the mesh, in each namespace.
        _rule([""], ["configmaps"], (*_READ, "patch", "update"), ["istio-ca-root-cert"]),
        _rule([""], ["configmaps"], ("create",)),
        # Whom the API server trusts when it calls the webhooks.
        _rule(
            ["admissionregistration.k8s.io"],
            ["mutatingwebhookconfigurations"],
            ("get", "patch"),
            [f"pymesh-sidecar-injector-{namespace}"],
        ),
        _rule(
            ["admissionregistration.k8s.io"],
            ["validatingwebhookconfigurations"],
            ("get", "patch"),
            [f"pymesh-validator-{namespace}"],
        ),
    ]
    own = [
        # The mesh's configuration.
        _rule([""], ["configmaps"], _READ),
        # Who writes status; its name is in the program.
        _rule(["coordination.k8s.io"], ["leases"], ("get", "create", "update", "patch")),
    ]
    whole = f"{name}-{namespace}"
    return [
        {**_head("ClusterRole", whole), "rules": cluster},
        {**_head("ClusterRoleBinding", whole), **_binding("ClusterRole", whole, name, namespace)},
        {**_head("Role", name, namespace), "rules": own},
        {**_head("RoleBinding", name, namespace), **_binding("Role", name, name, namespace)},
    ]


def of_gateway(name: str, namespace: str) -> list[Json]:
    """Of a gateway: the keys in its namespace. It is by this right that the control plane knows it for a gateway."""
    rules = [_rule([""], ["secrets"], _READ)]
    return [
        {**_head("Role", f"{name}-sds", namespace), "rules": rules},
        {**_head("RoleBinding", f"{name}-sds", namespace), **_binding("Role", f"{name}-sds", name, namespace)},
    ]


def _rule(groups: Sequence[str], resources: Sequence[str], verbs: Sequence[str], names: Sequence[str] = ()) -> Json:
    made: Json = {"apiGroups": list(groups), "resources": list(resources), "verbs": list(verbs)}
    return {**made, "resourceNames": list(names)} if names else made


def _head(kind: str, name: str, namespace: str = "") -> Json:
    where = {"namespace": namespace} if namespace else {}
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name, **where}}


def _binding(kind: str, role: str, account: str, namespace: str) -> Json:
    return {
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
    }
