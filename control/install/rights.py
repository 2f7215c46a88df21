"""What the control plane and the gateway may do in a cluster, and nothing else.

Each rule stands with its reason. What Kubernetes cannot narrow is said there: `create` knows no names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pymesh.control.install.crds import GROUP

Json = dict[str, Any]

_FOLLOW: Final = ("list", "watch")
#: For who reads the manifests.
_DESCRIPTION: Final = "kubernetes.io/description"
_OF_SECRETS: Final = (
    "Secrets are followed in all namespaces: a gateway's certificates are where the gateway is, which may be anywhere, "
    "and RBAC tells Secrets apart by neither type nor label. Types that no gateway has are not asked for. "
    "No Secret is ever written."
)
_OF_GATEWAYS: Final = (
    "Runs the Gateways of class pymesh, in whatever namespace they are; RBAC cannot say: those that are labelled. "
    "Who may make Deployments can run pods as any service account there, so these rights stand apart: without this "
    "binding, Gateways need proxies that somebody else runs."
)
#: Group -> plural names of what configures the mesh, and whose status we write.
_CONFIGURATION: Final[Mapping[str, Sequence[str]]] = {
    "networking.istio.io": (
        *("virtualservices", "destinationrules", "gateways", "serviceentries", "workloadentries", "sidecars"),
        # Refused by name, so that nobody thinks that they do something.
        *("envoyfilters", "workloadgroups", "proxyconfigs"),
    ),
    "security.istio.io": ("peerauthentications", "authorizationpolicies", "requestauthentications"),
    "telemetry.istio.io": ("telemetries",),
    "extensions.istio.io": ("wasmplugins", "trafficextensions"),
    "gateway.networking.k8s.io": (
        *("gatewayclasses", "gateways", "httproutes", "grpcroutes", "tlsroutes", "tcproutes", "udproutes"),
        *("referencegrants", "backendtlspolicies", "listenersets"),
    ),
    GROUP: ("pythonfilters", "healthcheckpolicies", "localratelimits"),
}
#: They have no status, or none that is ours to write.
_WITHOUT_STATUS: Final = ("referencegrants", "backendtlspolicies", "listenersets")


def of_control(name: str, namespace: str) -> list[Json]:
    """Of the control plane."""
    cluster = [
        # Who runs where, and what they are called.
        _rule([""], ["services", "pods", "nodes", "namespaces"], _FOLLOW),
        _rule(["discovery.k8s.io"], ["endpointslices"], _FOLLOW),
        # Keys of gateways: they are in whatever namespace a gateway is in.
        _rule([""], ["secrets"], _FOLLOW),
        *(_rule([group], kinds, _FOLLOW) for group, kinds in _CONFIGURATION.items()),
        *(
            _rule([group], [f"{kind}/status" for kind in kinds if kind not in _WITHOUT_STATUS], ("patch",))
            for group, kinds in _CONFIGURATION.items()
        ),
        # The class of our gateways is made where it is missing.
        _rule(["gateway.networking.k8s.io"], ["gatewayclasses"], ("create",)),
        # What is wrong with a resource is told beside it.
        _rule(["events.k8s.io"], ["events"], ("create",)),
        # Who somebody is, and whether a gateway may read the Secrets of its namespace.
        _rule(["authentication.k8s.io"], ["tokenreviews"], ("create",)),
        _rule(["authorization.k8s.io"], ["subjectaccessreviews"], ("create",)),
        # The roots of the mesh, in each namespace.
        _rule([""], ["configmaps"], ("list", "patch"), ["istio-ca-root-cert"]),
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
    gateways = [
        # Applying makes what is missing and changes what is there.
        _rule(["apps"], ["deployments"], ("list", "create", "patch", "delete")),
        _rule([""], ["services", "serviceaccounts"], ("list", "create", "patch", "delete")),
    ]
    own = [
        # The mesh's configuration.
        _rule([""], ["configmaps"], _FOLLOW),
        # Who writes status.
        _rule(["coordination.k8s.io"], ["leases"], ("get", "update"), ["pymesh-status"]),
        _rule(["coordination.k8s.io"], ["leases"], ("create",)),
    ]
    whole, controller = f"{name}-{namespace}", f"pymesh-gateway-controller-{namespace}"
    return [
        {**_described(_head("ClusterRole", whole), _OF_SECRETS), "rules": cluster},
        {**_head("ClusterRoleBinding", whole), **_binding("ClusterRole", whole, name, namespace)},
        {**_described(_head("ClusterRole", controller), _OF_GATEWAYS), "rules": gateways},
        {**_head("ClusterRoleBinding", controller), **_binding("ClusterRole", controller, name, namespace)},
        {**_head("Role", name, namespace), "rules": own},
        {**_head("RoleBinding", name, namespace), **_binding("Role", name, name, namespace)},
    ]


def of_gateway(name: str, namespace: str) -> list[Json]:
    """Of a gateway: the keys in its namespace. It is by this right that the control plane knows it for a gateway."""
    rules = [_rule([""], ["secrets"], ("get", *_FOLLOW))]
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


def _described(head: Json, text: str) -> Json:
    return {**head, "metadata": {**head["metadata"], "annotations": {_DESCRIPTION: text}}}


def _binding(kind: str, role: str, account: str, namespace: str) -> Json:
    return {
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
    }
