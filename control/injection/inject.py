"""A pod with a sidecar: a pure function of the pod, of who owns it, and of the mesh's settings.

```text
initContainers: istio-init    pymesh capture on ...     ends before anything is captured that cannot be served
                istio-proxy   pymesh pod sidecar        restartPolicy: Always: ready before, gone after the others
                the pod's own
containers:     the pod's own, probes rewritten, held back for a moment when they are to end
```
The same pod always gives the same result, and nothing of the pod's is lost: fields that are not known here stay.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pymesh.control.identity.token_review import AUDIENCE
from pymesh.control.injection import ending, ports, probes, wishes
from pymesh.control.injection.policy import STATUS
from pymesh.control.injection.problems import Fault, InjectionError
from pymesh.control.injection.settings import InjectionSettings
from pymesh.control.injection.wishes import Wishes
from pymesh.control.store.workloads import TLS_MODE_LABEL

Json = dict[str, Any]

#: Containers, by Istio's names: its tools look for them.
CAPTURE, SIDECAR = "istio-init", "istio-proxy"
#: The proxy's user and group, by which the capture rules know its connections.
USER = 1337
#: In every namespace, written by the control plane: the roots of the mesh.
ROOTS_CONFIG_MAP, ROOTS_KEY = "istio-ca-root-cert", "root-cert.pem"
READY_PORT, METRICS_PORT = 15021, 15090
METRICS_PATH = "/stats/prometheus"
#: Where the sidecar finds things, and where it may write.
TOKEN_PATH = "/var/run/secrets/tokens/istio-token"
ROOTS_PATH = f"/var/run/secrets/istio/{ROOTS_KEY}"
LABELS_PATH = "/etc/istio/pod/labels"
SCRATCH_PATH = "/etc/istio/proxy"

CANONICAL_NAME, CANONICAL_REVISION = "service.istio.io/canonical-name", "service.istio.io/canonical-revision"
_APP_LABELS = ("app.kubernetes.io/name", "app")
_VERSION_LABELS = ("app.kubernetes.io/version", "version")
_DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
#: What a Deployment adds to its name for a ReplicaSet, and a Rollout of Argo's.
_HASH_LABELS = ("pod-template-hash", "rollouts-pod-template-hash")
#: What a CronJob adds to its name for a Job: minutes since 1970.
_OF_CRON_JOB = re.compile(r"-\d{8,10}$")
_VOLUMES = ("istio-envoy", "istio-token", "istiod-ca-cert", "istio-podinfo")


@dataclass(frozen=True, slots=True)
class Owner:
    """The workload that a pod is one of."""

    name: str

    @classmethod
    def of_pod(cls, pod: Mapping[str, Any]) -> Owner:
        """As Istio tells it: the controller, or who is behind a ReplicaSet or a Job, by what is added to its name."""
        metadata = pod.get("metadata") or {}
        controller = next((one for one in metadata.get("ownerReferences") or () if one.get("controller")), None)
        if controller is None:
            return cls(str(metadata.get("name") or (metadata.get("generateName") or "").rstrip("-")))
        name, labels = str(controller.get("name", "")), metadata.get("labels") or {}
        if controller.get("kind") == "ReplicaSet":
            ends = (f"-{labels[key]}" for key in _HASH_LABELS if labels.get(key))
            name = next((name.removesuffix(end) for end in ends if name.endswith(end)), name)
        elif controller.get("kind") == "ReplicationController":
            name = labels.get("deploymentconfig") or name
        elif controller.get("kind") == "Job":
            name = _OF_CRON_JOB.sub("", name)
        return cls(name)


def inject(pod: Json, settings: InjectionSettings, owner: Owner | None = None) -> Json:
    """The pod (or the template of pods) with a sidecar. Raises :class:`InjectionError`."""
    faults = shape(pod)
    if faults:
        raise InjectionError(faults)
    made = copy.deepcopy(pod)
    metadata, spec = made.setdefault("metadata", {}), made["spec"]
    wished, faults = wishes.read(metadata, settings)
    asked: dict[str, Json] = {}
    faults += _taken(spec)
    for field in ("initContainers", "containers"):
        if wished.rewrite_probes and spec.get(field):
            spec[field] = rewritten(spec[field], f"spec.{field}", asked, faults)
    if faults:
        raise InjectionError(faults)
    spec["containers"] = ending.held_back(spec, spec["containers"], settings.pre_stop_sleep_seconds)
    workload = owner or Owner.of_pod(pod)
    first = spec["containers"][0]["name"]
    told = {**probes.variables(asked), **ports.variables(pod["spec"])}
    ours = [_sidecar(wished, settings, workload, told)]
    if wished.interception_mode != "NONE":
        ours.insert(0, _capture(wished, settings))
    spec["initContainers"] = [*ours, *(spec.get("initContainers") or ())]
    spec["volumes"] = [*(spec.get("volumes") or ()), *_volumes()]
    _mark(metadata, workload, first, [one["name"] for one in ours])
    return made


def shape(pod: Any) -> list[Fault]:
    """What keeps it from being read as a pod at all; an API server has looked at this, a file has not."""
    spec = pod.get("spec") if isinstance(pod, Mapping) else None
    if not isinstance(spec, Mapping):
        return [Fault("spec", "expected a mapping", "spec.containers has what runs in the pod")]
    faults = []
    for path, value in (("metadata", pod.get("metadata")), *_maps(pod.get("metadata"))):
        if value is not None and not isinstance(value, Mapping):
            faults.append(Fault(path, "expected a mapping"))
        elif path != "metadata":
            wrong = [key for key, text in (value or {}).items() if not isinstance(text, str)]
            faults += [Fault(f"{path}[{key!r}]", "expected a string", "put it in quotes") for key in wrong]
    faults += _unowned(pod.get("metadata"))
    for field in ("initContainers", "containers"):
        listed = spec.get(field)
        if listed is None and field == "initContainers":
            continue
        if not isinstance(listed, list) or (not listed and field == "containers"):
            faults.append(Fault(f"spec.{field}", "expected a list of containers"))
            continue
        for number, one in enumerate(listed):
            if not isinstance(one, Mapping) or not isinstance(one.get("name"), str):
                faults.append(Fault(f"spec.{field}[{number}]", "expected a container with a name"))
            elif not _is_list_of_maps(one.get("ports")):
                faults.append(Fault(f"spec.{field}[{number}].ports", "expected a list of ports"))
    if not isinstance(spec.get("volumes") or [], list):
        faults.append(Fault("spec.volumes", "expected a list"))
    return faults


def _unowned(metadata: Any) -> list[Fault]:
    """What is wrong with the fields that tell whose the pod is."""
    if not isinstance(metadata, Mapping):
        return []
    fields = [field for field in ("name", "generateName") if not isinstance(metadata.get(field) or "", str)]
    faults = [Fault(f"metadata.{field}", "expected a string") for field in fields]
    if not _is_list_of_maps(metadata.get("ownerReferences")):
        faults.append(Fault("metadata.ownerReferences", "expected a list of references"))
    return faults


def _is_list_of_maps(value: Any) -> bool:
    return isinstance(value or [], list) and all(isinstance(one, Mapping) for one in value or ())


def _maps(metadata: Any) -> list[tuple[str, Any]]:
    if not isinstance(metadata, Mapping):
        return []
    return [(f"metadata.{name}", metadata.get(name)) for name in ("labels", "annotations")]


def _taken(spec: Json) -> list[Fault]:
    """Names of ours that the pod has already: what it says of them would be lost."""
    faults = []
    for field, names in (
        ("initContainers", (CAPTURE, SIDECAR)),
        ("containers", (CAPTURE, SIDECAR)),
        ("volumes", _VOLUMES),
    ):
        for number, one in enumerate(spec.get(field) or ()):
            if isinstance(one, Mapping) and one.get("name") in names:
                hint = "rename it; the sidecar is made from annotations and the InjectionSettings"
                faults.append(Fault(f"spec.{field}[{number}].name", f"{one['name']!r} is the sidecar's", hint))
    return faults


def rewritten(containers: Sequence[Json], path: str, asked: dict[str, Json], faults: list[Fault]) -> list[Json]:
    """Containers whose probes the sidecar answers; ``asked`` grows by what they were."""
    made = []
    for number, one in enumerate(containers):
        changed, found = probes.rewrite(one, f"{path}[{number}]", faults)
        asked |= found
        made.append(changed)
    return made


def _capture(wished: Wishes, settings: InjectionSettings) -> Json:
    user = ("--proxy-uid", str(USER), "--proxy-gid", str(USER))
    return {
        "name": CAPTURE,
        "image": wished.image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["pymesh"],
        "args": ["capture", "on", *user, *wished.capture],
        "resources": _resources(wished),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "runAsGroup": 0,
            "runAsNonRoot": False,
            "runAsUser": 0,
        },
    }


def _sidecar(wished: Wishes, settings: InjectionSettings, workload: Owner, told: Mapping[str, str]) -> Json:
    made = _proxy("sidecar", wished, settings, workload, told)
    ready = made["readinessProbe"]["httpGet"]
    # Transparent sockets need the right to make them; the group still tells whose they are.
    transparent = wished.interception_mode == "TPROXY"
    return {
        **made,
        "restartPolicy": "Always",
        # Ready once, ten minutes at most: until then the application does not start.
        "startupProbe": {"httpGet": ready, "failureThreshold": 600, "periodSeconds": 1, "timeoutSeconds": 3},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {**({"add": ["NET_ADMIN"]} if transparent else {}), "drop": ["ALL"]},
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "runAsGroup": USER,
            "runAsNonRoot": not transparent,
            "runAsUser": 0 if transparent else USER,
        },
    }


def gateway_container(settings: InjectionSettings, name: str) -> tuple[Json, list[Json]]:
    """The container of a proxy at the mesh's edge, and the volumes that its pod needs."""
    wished, _ = wishes.read({}, settings)
    return _proxy("router", replace(wished, interception_mode="NONE"), settings, Owner(name), {}), _volumes()


def _proxy(role: str, wished: Wishes, settings: InjectionSettings, workload: Owner, told: Mapping[str, str]) -> Json:
    ready = {"path": "/healthz/ready", "port": READY_PORT}
    return {
        "name": SIDECAR,
        "image": wished.image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["pymesh"],
        "args": ["pod", role, "--control", settings.control, "--trust-domain", settings.trust_domain],
        "env": _environment(wished, settings, workload, told),
        "ports": [{"containerPort": METRICS_PORT, "name": "http-envoy-prom", "protocol": "TCP"}],
        "readinessProbe": {"httpGet": ready, "failureThreshold": 4, "periodSeconds": 15, "timeoutSeconds": 3},
        "resources": _resources(wished),
        "volumeMounts": [
            {"mountPath": "/var/run/secrets/istio", "name": "istiod-ca-cert", "readOnly": True},
            {"mountPath": SCRATCH_PATH, "name": "istio-envoy"},
            {"mountPath": "/var/run/secrets/tokens", "name": "istio-token", "readOnly": True},
            {"mountPath": "/etc/istio/pod", "name": "istio-podinfo", "readOnly": True},
        ],
    }


def _environment(wished: Wishes, settings: InjectionSettings, workload: Owner, told: Mapping[str, str]) -> list[Json]:
    return [
        _from_pod("POD_NAME", "metadata.name"),
        _from_pod("POD_NAMESPACE", "metadata.namespace"),
        _from_pod("INSTANCE_IP", "status.podIP"),
        _from_pod("SERVICE_ACCOUNT", "spec.serviceAccountName"),
        _from_pod("ISTIO_META_NODE_NAME", "spec.nodeName"),
        {"name": "ISTIO_META_CLUSTER_ID", "value": settings.cluster_id},
        {"name": "ISTIO_META_INTERCEPTION_MODE", "value": wished.interception_mode},
        {"name": "ISTIO_META_WORKLOAD_NAME", "value": workload.name},
        *({"name": name, "value": value} for name, value in told.items()),
    ]


def _from_pod(name: str, path: str) -> Json:
    return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}


def _resources(wished: Wishes) -> Json:
    return {"limits": dict(wished.limits), "requests": dict(wished.requests)}


def _volumes() -> list[Json]:
    token = {"audience": AUDIENCE, "expirationSeconds": 43200, "path": "istio-token"}
    labels = {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.labels"}, "path": "labels"}
    return [
        {"name": "istio-envoy", "emptyDir": {"medium": "Memory"}},
        {"name": "istio-token", "projected": {"sources": [{"serviceAccountToken": token}]}},
        {"name": "istiod-ca-cert", "configMap": {"name": ROOTS_CONFIG_MAP}},
        {"name": "istio-podinfo", "downwardAPI": {"items": [labels]}},
    ]


def _mark(metadata: Json, workload: Owner, first: str, ours: Sequence[str]) -> None:
    """What others know the pod by: the mesh its clients, Prometheus its metrics, kubectl its application."""
    labels = metadata.get("labels") or {}
    name = next((labels[key] for key in _APP_LABELS if labels.get(key)), workload.name)
    revision = next((labels[key] for key in _VERSION_LABELS if labels.get(key)), "latest")
    # A label ends with a letter or a digit, also where a long name is cut.
    given = {TLS_MODE_LABEL: "istio", CANONICAL_NAME: name[:63].rstrip("-_."), CANONICAL_REVISION: revision}
    metadata["labels"] = {**labels, **{key: value for key, value in given.items() if key not in labels}}
    status = {"initContainers": list(ours), "volumes": list(_VOLUMES), "revision": "default"}
    scraped = {
        "prometheus.io/path": METRICS_PATH,
        "prometheus.io/port": str(METRICS_PORT),
        "prometheus.io/scrape": "true",
    }
    own = metadata.get("annotations") or {}
    # An application that is scraped itself keeps what it says; its metrics are its own.
    taken = any(key.startswith("prometheus.io/") for key in own)
    metadata["annotations"] = {
        **own,
        **({} if _DEFAULT_CONTAINER in own else {_DEFAULT_CONTAINER: first}),
        **({} if taken else scraped),
        STATUS: json.dumps(status, separators=(",", ":")),
    }
