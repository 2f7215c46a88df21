"""Which objects the API server shows to the control plane before it takes them.

Labels select, so that a pod that nobody wants a sidecar for never waits for us. The authorities that the API server
trusts (`caBundle`) are not said here: the control plane keeps them current, whatever becomes of its root.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from pymesh.control.injection.policy import INJECT, NAMESPACE_LABEL, NEVER
from pymesh.control.install.crds import GROUP
from pymesh.control.install.values import Values

Json = dict[str, Any]

INJECT_PATH, VALIDATE_PATH = "/inject", "/validate"
#: Where the API server itself says in which namespace something is.
_NAME: Final = "kubernetes.io/metadata.name"
_GATEWAY_API: Final = (
    *("gateways", "httproutes", "grpcroutes", "tlsroutes", "tcproutes", "udproutes"),
    *("referencegrants", "backendtlspolicies", "listenersets"),
)
#: Seconds; a control plane that is there answers in milliseconds.
_PATIENCE = 10


def injector_name(namespace: str) -> str:
    """Of the MutatingWebhookConfiguration."""
    return f"pymesh-sidecar-injector-{namespace}"


def validator_name(namespace: str) -> str:
    """Of the ValidatingWebhookConfiguration."""
    return f"pymesh-validator-{namespace}"


def injecting(service: str, values: Values) -> Json:
    """Pods of namespaces that want sidecars, and pods that want one for themselves."""
    never = _not_in(_NAME, NEVER)
    by_namespace = _webhook("namespace.sidecar-injector.istio.io", service, values, INJECT_PATH)
    by_namespace |= {
        "namespaceSelector": {"matchExpressions": [_in(NAMESPACE_LABEL, ["enabled"]), never]},
        "objectSelector": {"matchExpressions": [_not_in(INJECT, ["false"])]},
    }
    by_pod = _webhook("object.sidecar-injector.istio.io", service, values, INJECT_PATH)
    by_pod |= {
        "namespaceSelector": {"matchExpressions": [{"key": NAMESPACE_LABEL, "operator": "DoesNotExist"}, never]},
        "objectSelector": {"matchExpressions": [_in(INJECT, ["true"])]},
    }
    rules = [_rule([""], ["v1"], ["pods"], ["CREATE"])]
    ours = {"failurePolicy": values.injection_failure_policy, "reinvocationPolicy": "IfNeeded", "rules": rules}
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": injector_name(values.namespace)},
        "webhooks": [{**by_namespace, **ours}, {**by_pod, **ours}],
    }


def validating(service: str, values: Values) -> Json:
    """What configures the mesh."""
    groups = ["networking.istio.io", "security.istio.io", "telemetry.istio.io", "extensions.istio.io", GROUP]
    changes = ["CREATE", "UPDATE"]
    webhook = _webhook("validation.pymesh.dev", service, values, VALIDATE_PATH)
    webhook |= {
        "failurePolicy": values.validation_failure_policy,
        "rules": [
            _rule(groups, ["*"], ["*"], changes),
            _rule(["gateway.networking.k8s.io"], ["*"], _GATEWAY_API, changes),
        ],
    }
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": validator_name(values.namespace)},
        "webhooks": [webhook],
    }


def _webhook(name: str, service: str, values: Values, path: str) -> Json:
    return {
        "name": name,
        "admissionReviewVersions": ["v1"],
        "clientConfig": {"service": {"name": service, "namespace": values.namespace, "path": path, "port": 443}},
        "sideEffects": "None",
        "timeoutSeconds": _PATIENCE,
        "matchPolicy": "Equivalent",
    }


def _rule(groups: Sequence[str], versions: Sequence[str], resources: Sequence[str], operations: Sequence[str]) -> Json:
    return {
        "apiGroups": list(groups),
        "apiVersions": list(versions),
        "resources": list(resources),
        "operations": list(operations),
        "scope": "Namespaced",
    }


def _in(key: str, values: Sequence[str]) -> Json:
    return {"key": key, "operator": "In", "values": list(values)}


def _not_in(key: str, values: Sequence[str]) -> Json:
    return {"key": key, "operator": "NotIn", "values": list(values)}
