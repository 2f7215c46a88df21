"""What a pod's spec has beside processes: environment, and volumes as folders of the node.

A projected token is bound to its pod and renewed when a fifth of its life is left, as kubelets do it.
"""

from __future__ import annotations

import base64
import json
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.kubernetes.api import Api, ApiRefused, Object
from tests.kubernetes.kubelet.network import ADDRESS

_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")
_SOURCES = ("configMap", "secret", "downwardAPI")
_BY_KEY = re.compile(r"metadata\.(labels|annotations)\['(.+)'\]")


class Unknown(RuntimeError):
    """A field of a pod that this kubelet does not know."""


def only(what: str, given: Mapping[str, Any], known: set[str]) -> None:
    """Refuse fields that are not known."""
    strange = sorted(set(given) - known)
    if strange:
        raise Unknown(f"{what}: this kubelet does not know {', '.join(strange)}")


@dataclass
class Volumes:
    """The volumes of one pod."""

    api: Api
    pod: Object
    folder: Path
    #: Where the folders of PersistentVolumeClaims are, which outlive pods.
    claims: Path
    #: Path of a token -> what is asked for, and when to ask again.
    _tokens: dict[Path, tuple[Object, float]] = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        """The pod's."""
        return str(self.pod["metadata"]["namespace"])

    def prepare(self) -> dict[str, Path]:
        """Make all of them; name -> folder."""
        return {one["name"]: self._volume(one) for one in self.pod["spec"].get("volumes", ())}

    def refresh(self) -> None:
        """Renew tokens whose time has come."""
        for path, (wanted, due) in list(self._tokens.items()):
            if time.time() >= due:
                # One that cannot be had now is asked for at the next turn; the old one is good for a while.
                with suppress(OSError, ApiRefused):
                    self._token(path, wanted)

    def environment(self, container: Object, services: list[Object]) -> dict[str, str]:
        """The variables of a container: those of services, and its own, which may refer to each other."""
        made = _links(services) if self.pod["spec"].get("enableServiceLinks", True) else {}
        for source in container.get("envFrom", ()):
            only("envFrom", source, {"configMapRef"})
            made.update(self._config_map(source["configMapRef"]["name"]))
        for one in container.get("env", ()):
            only(f"env {one['name']}", one, {"name", "value", "valueFrom"})
            if "valueFrom" in one:
                made[one["name"]] = self._value(one["valueFrom"], container)
            else:
                made[one["name"]] = expanded(one.get("value", ""), made)
        return made

    def field(self, path: str) -> str:
        """What the downward API says."""
        meta, spec, status = self.pod["metadata"], self.pod["spec"], self.pod.get("status", {})
        keyed = _BY_KEY.fullmatch(path)
        if keyed is not None:
            return str(meta.get(keyed[1], {}).get(keyed[2], ""))
        simple = {
            "metadata.name": meta["name"],
            "metadata.namespace": meta["namespace"],
            "metadata.uid": meta["uid"],
            "spec.nodeName": spec.get("nodeName", ""),
            "spec.serviceAccountName": spec.get("serviceAccountName", "default"),
            "status.podIP": status.get("podIP", ""),
            "status.podIPs": status.get("podIP", ""),
            "status.hostIP": ADDRESS,
            "metadata.labels": _lines(meta.get("labels", {})),
            "metadata.annotations": _lines(meta.get("annotations", {})),
        }
        if path not in simple:
            raise Unknown(f"fieldRef {path}")
        return str(simple[path])

    def _volume(self, one: Object) -> Path:
        folder = self.folder / one["name"]
        folder.mkdir(mode=0o755)
        only(f"volume {one['name']}", one, {"name", "emptyDir", "persistentVolumeClaim", *_SOURCES, "projected"})
        if "persistentVolumeClaim" in one:
            folder = self.claims / f"{self.namespace}-{one['persistentVolumeClaim']['claimName']}"
            folder.mkdir(mode=0o755, exist_ok=True)
        if "emptyDir" in one or "persistentVolumeClaim" in one:
            group = self.pod["spec"].get("securityContext", {}).get("fsGroup")
            folder.chmod(0o777 if group is None else 0o2775)
            if group is not None:
                os.chown(folder, -1, group)
        for kind in _SOURCES:
            if kind in one:
                source = dict(one[kind])
                if kind == "secret":
                    source["name"] = source.pop("secretName")
                self._source(folder, kind, source)
        for source in one.get("projected", {}).get("sources", ()):
            (kind,) = source
            self._source(folder, kind, source[kind])
        return folder

    def _source(self, folder: Path, kind: str, given: Object) -> None:
        if kind == "serviceAccountToken":
            only("serviceAccountToken", given, {"audience", "expirationSeconds", "path"})
            self._token(folder / given["path"], given)
        elif kind == "downwardAPI":
            for item in given.get("items", ()):
                only("downwardAPI", item, {"path", "fieldRef", "resourceFieldRef"})
                _put(folder, item["path"], self._value(item, {}).encode())
        elif kind in ("configMap", "secret"):
            only(kind, given, {"name", "items", "optional", "defaultMode"})
            content = self._config_map(given["name"], given.get("optional", False)) if kind == "configMap" else {}
            data = {name: text.encode() for name, text in content.items()}
            if kind == "secret":
                data = self._secret(given["name"], given.get("optional", False))
            named = {item["key"]: item["path"] for item in given.get("items", ())} or {name: name for name in data}
            for name, path in named.items():
                _put(folder, path, data[name])
        else:
            raise Unknown(f"a volume from {kind}")

    def _token(self, path: Path, given: Object) -> None:
        meta = self.pod["metadata"]
        account = self.pod["spec"].get("serviceAccountName", "default")
        reference = {"kind": "Pod", "apiVersion": "v1", "name": meta["name"], "uid": meta["uid"]}
        spec: Object = {"expirationSeconds": given.get("expirationSeconds", 3600), "boundObjectRef": reference}
        if given.get("audience"):
            spec["audiences"] = [given["audience"]]
        wanted = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        folder = f"/api/v1/namespaces/{self.namespace}/serviceaccounts/{account}/token"
        status = self.api.request("POST", folder, wanted)["status"]
        _put(path.parent, path.name, status["token"].encode())
        self._tokens[path] = (given, time.time() + 0.8 * spec["expirationSeconds"])

    def _value(self, source: Object, container: Object) -> str:
        if "fieldRef" in source:
            return self.field(source["fieldRef"]["fieldPath"])
        if "resourceFieldRef" in source:
            return _resource(source["resourceFieldRef"], container)
        if "configMapKeyRef" in source:
            wanted = source["configMapKeyRef"]
            return self._config_map(wanted["name"])[wanted["key"]]
        raise Unknown(f"valueFrom {sorted(source)}")

    def _config_map(self, name: str, optional: bool = False) -> Mapping[str, str]:
        found = self.api.get("v1", "ConfigMap", name, self.namespace)
        if found is None and not optional:
            raise Missing(f"there is no ConfigMap {self.namespace}/{name}")
        data: Mapping[str, str] = (found or {}).get("data", {})
        return data

    def _secret(self, name: str, optional: bool) -> dict[str, bytes]:
        found = self.api.get("v1", "Secret", name, self.namespace)
        if found is None and not optional:
            raise Missing(f"there is no Secret {self.namespace}/{name}")
        return {key: base64.b64decode(value) for key, value in (found or {}).get("data", {}).items()}


class Missing(RuntimeError):
    """What the pod waits for."""


def expanded(text: str, variables: Mapping[str, str]) -> str:
    """With `$(NAME)` replaced where there is such a variable."""

    def one(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else variables.get(match[1], match[0])

    return _REFERENCE.sub(one, text)


def _put(folder: Path, path: str, content: bytes) -> None:
    """Replaced at one moment: whoever reads finds the old or the new."""
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.new")
    beside.write_bytes(content)
    beside.chmod(0o644)
    beside.replace(target)


def _links(services: list[Object]) -> dict[str, str]:
    """As pods know services of their namespace since before there was DNS."""
    made: dict[str, str] = {}
    for one in services:
        address, ports = one["spec"].get("clusterIP", ""), one["spec"].get("ports", ())
        if address not in ("", "None") and ports:
            name = one["metadata"]["name"].upper().replace("-", "_")
            made[f"{name}_SERVICE_HOST"] = address
            made[f"{name}_SERVICE_PORT"] = str(ports[0]["port"])
    return made


def _lines(pairs: Mapping[str, str]) -> str:
    return "\n".join(f"{key}={json.dumps(value)}" for key, value in sorted(pairs.items()))


def _resource(wanted: Object, container: Object) -> str:
    kind, name = wanted["resource"].split(".")
    text = str(container.get("resources", {}).get(kind, {}).get(name, ""))
    if name != "cpu":
        raise Unknown(f"resourceFieldRef {wanted['resource']}")
    if not text:
        return str(os.cpu_count() or 1)
    amount = float(text[:-1]) / 1000 if text.endswith("m") else float(text)
    return str(-int(-amount // 1))
