"""The objects of an installation, in the order in which they are applied: what is needed first, first."""

from __future__ import annotations

from typing import Any, Final

import yaml

from pymesh.control.injection.inject import READY_PORT, gateway_container
from pymesh.control.injection.settings import API_VERSION, KIND, InjectionSettings
from pymesh.control.install import crds, pods, rights, webhooks
from pymesh.control.install.values import VERSION, Values
from pymesh.control.resources.gateway_api import KubeGateway

Json = dict[str, Any]

CONTROL: Final = "pymesh-control"
GATEWAY: Final = "istio-ingressgateway"
#: The injection settings: ConfigMap, key, and where the control plane finds it.
SETTINGS: Final = "pymesh-injection"
SETTINGS_KEY: Final = "settings.yaml"
_SETTINGS_FOLDER = "/etc/pymesh/injection"
_STATE_FOLDER = "/var/lib/pymesh"
XDS_PORT, WEBHOOK_PORT = 15012, 15017


def objects(values: Values) -> list[Json]:
    """All of them."""
    made = [_object("v1", "Namespace", values.namespace), *crds.definitions()]
    made += [_object("v1", "ServiceAccount", CONTROL, values.namespace)]
    made += rights.of_control(CONTROL, values.namespace)
    made += [_settings(values), _state(values), _control_service(values), _control(values)]
    if values.gateway:
        made += [_object("v1", "ServiceAccount", GATEWAY, values.namespace)]
        made += rights.of_gateway(GATEWAY, values.namespace)
        made += [_gateway_service(values), _gateway(values)]
    made += [webhooks.injecting(CONTROL, values), webhooks.validating(CONTROL, values)]
    return [labelled(one) for one in made]


def injection_settings(values: Values) -> Json:
    """The document that the webhook and `pymesh inject --settings` read."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": SETTINGS, "namespace": values.namespace},
        "spec": {
            "image": values.image,
            "imagePullPolicy": values.image_pull_policy,
            "control": values.control,
            "trustDomain": values.trust_domain,
            "clusterId": values.cluster_id,
        },
    }


def labelled(one: Json) -> Json:
    """With Kubernetes' recommended labels, by which an installation is found."""
    metadata = one["metadata"]
    ours = {
        "app.kubernetes.io/managed-by": "pymesh",
        "app.kubernetes.io/part-of": "pymesh",
        "app.kubernetes.io/version": VERSION,
    }
    return {**one, "metadata": {**metadata, "labels": {**ours, **metadata.get("labels", {})}}}


def _object(version: str, kind: str, name: str, namespace: str = "") -> Json:
    where = {"namespace": namespace} if namespace else {}
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, **where}}


def _settings(values: Values) -> Json:
    text = yaml.safe_dump(injection_settings(values), sort_keys=False)
    return {**_object("v1", "ConfigMap", SETTINGS, values.namespace), "data": {SETTINGS_KEY: text}}


def _state(values: Values) -> Json:
    """Where the root key is kept: a mesh whose root is lost has to be restarted as a whole."""
    spec: Json = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "128Mi"}}}
    if values.storage_class:
        spec["storageClassName"] = values.storage_class
    return {**_object("v1", "PersistentVolumeClaim", f"{CONTROL}-state", values.namespace), "spec": spec}


def _control_service(values: Values) -> Json:
    return {
        **_object("v1", "Service", CONTROL, values.namespace),
        "spec": {
            "selector": {"app": CONTROL},
            "ports": [
                {"name": "grpc-xds", "port": XDS_PORT, "protocol": "TCP", "targetPort": XDS_PORT},
                {"name": "https-webhook", "port": 443, "protocol": "TCP", "targetPort": WEBHOOK_PORT},
            ],
        },
    }


def _control(values: Values) -> Json:
    name = f"{CONTROL}.{values.namespace}.svc"
    arguments = [
        *("control", "--kubernetes", "--state", _STATE_FOLDER),
        *("--listen", f"0.0.0.0:{XDS_PORT}", "--webhook", f"0.0.0.0:{WEBHOOK_PORT}"),
        *("--server-name", name, "--trust-domain", values.trust_domain),
        *("--injection", f"{_SETTINGS_FOLDER}/{SETTINGS_KEY}", "--namespace", values.namespace),
    ]
    probe = {"path": "/ready", "port": WEBHOOK_PORT, "scheme": "HTTPS"}
    container = {
        "name": "control",
        "image": values.image,
        "imagePullPolicy": values.image_pull_policy,
        "command": ["pymesh"],
        "args": arguments,
        "ports": [
            {"name": "grpc-xds", "containerPort": XDS_PORT, "protocol": "TCP"},
            {"name": "https-webhook", "containerPort": WEBHOOK_PORT, "protocol": "TCP"},
        ],
        "readinessProbe": {"httpGet": probe, "periodSeconds": 5, "timeoutSeconds": 5},
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "2Gi"}},
        "securityContext": pods.restricted(),
        "volumeMounts": [
            {"name": "state", "mountPath": _STATE_FOLDER},
            {"name": "injection", "mountPath": _SETTINGS_FOLDER, "readOnly": True},
            {"name": "scratch", "mountPath": "/tmp"},
        ],
    }
    volumes = [
        {"name": "state", "persistentVolumeClaim": {"claimName": f"{CONTROL}-state"}},
        {"name": "injection", "configMap": {"name": SETTINGS}},
        {"name": "scratch", "emptyDir": {"medium": "Memory"}},
    ]
    # The state has one writer: the old one goes before the new one comes. Proxies go on meanwhile.
    template = pods.template(CONTROL, [container], volumes, _pod_labels(CONTROL))
    return _deployment(CONTROL, values, 1, {"type": "Recreate"}, template)


def _gateway_service(values: Values) -> Json:
    ports = (("status-port", READY_PORT, READY_PORT), ("http2", 80, 80), ("https", 443, 443))
    return {
        **_object("v1", "Service", GATEWAY, values.namespace),
        "spec": {
            "type": values.gateway_service_type,
            # By the second it is known for what runs the Gateway API's Gateway of that name.
            "selector": {"istio": "ingressgateway", KubeGateway.PROXY_LABEL: GATEWAY},
            "ports": [
                {"name": name, "port": port, "protocol": "TCP", "targetPort": target} for name, port, target in ports
            ],
        },
    }


def _gateway(values: Values) -> Json:
    settings = InjectionSettings(
        image=values.image,
        image_pull_policy=values.image_pull_policy,
        control=values.control,
        trust_domain=values.trust_domain,
        cluster_id=values.cluster_id,
    )
    container, volumes = gateway_container(settings, GATEWAY)
    template = pods.of_gateway(container, volumes, GATEWAY, labels=_pod_labels(GATEWAY))
    return _deployment(GATEWAY, values, values.gateway_replicas, pods.ROLLING, template)


def _pod_labels(name: str) -> dict[str, str]:
    if name == GATEWAY:
        # By the second Istio's Gateways select it, by the third it serves the Gateway API's Gateway of that name.
        return {"app": name, "istio": "ingressgateway", KubeGateway.PROXY_LABEL: GATEWAY}
    return {"app": name}


def _deployment(name: str, values: Values, replicas: int, strategy: Json, template: Json) -> Json:
    return {
        **_object("apps/v1", "Deployment", name, values.namespace),
        "spec": {
            "replicas": replicas,
            "strategy": strategy,
            "selector": {"matchLabels": {"app": name}},
            "template": template,
        },
    }
