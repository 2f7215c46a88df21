"""The Helm chart, made from the same objects: `python -m pymesh.control.install.chart deploy/chart/pymesh`.

Every value that an installer decides is a mark in the objects, and the mark becomes a reference to `.Values` in their
text. So a chart that is rendered with its defaults is what `pymesh install` applies, and nothing is written twice.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from pymesh.control.install import crds
from pymesh.control.install.objects import GATEWAY, labelled, objects
from pymesh.control.install.values import VERSION, Values

Json = dict[str, Any]

_REPLICAS: Final = 987654321
#: What stands in the objects -> what stands in the templates. Of one that begins like another, the longer comes first.
_MARKS: Final[Mapping[str, str]] = {
    "mark-namespace": "{{ .Release.Namespace }}",
    "mark-image": "{{ .Values.image }}",
    "mark-pull": "{{ .Values.imagePullPolicy }}",
    "mark-trust": "{{ .Values.trustDomain }}",
    "mark-cluster": "{{ .Values.clusterId }}",
    "mark-service": "{{ .Values.gateway.serviceType }}",
    "mark-injection": "{{ .Values.injectionFailurePolicy }}",
    "mark-validation": "{{ .Values.validationFailurePolicy }}",
    str(_REPLICAS): "{{ .Values.gateway.replicas }}",
}
_STORAGE: Final = "mark-storage"
#: A mark that is a value by itself, and would be read as another type if it looked like one.
_WHOLE: Final = re.compile(r"(?m)(: |- )(mark-(?!storage)[a-z]+)$")


def files() -> dict[str, str]:
    """Path in the chart -> text."""
    marked = Values(
        namespace="mark-namespace",
        image="mark-image",
        image_pull_policy="mark-pull",  # type: ignore[arg-type]
        trust_domain="mark-trust",
        cluster_id="mark-cluster",
        gateway_replicas=_REPLICAS,
        gateway_service_type="mark-service",  # type: ignore[arg-type]
        storage_class=_STORAGE,
        injection_failure_policy="mark-injection",  # type: ignore[arg-type]
        validation_failure_policy="mark-validation",  # type: ignore[arg-type]
    )
    defaults = Values()
    found = {
        "Chart.yaml": _dumped(
            {
                "apiVersion": "v2",
                "name": "pymesh",
                "description": "A service mesh: a Rust data plane, a Python control plane, filters in Python",
                "type": "application",
                "version": VERSION,
                "appVersion": VERSION,
            }
        ),
        "values.yaml": _dumped(
            {
                "image": defaults.image,
                "imagePullPolicy": defaults.image_pull_policy,
                "trustDomain": defaults.trust_domain,
                "clusterId": defaults.cluster_id,
                "storageClass": defaults.storage_class,
                "injectionFailurePolicy": defaults.injection_failure_policy,
                "validationFailurePolicy": defaults.validation_failure_policy,
                "gateway": {
                    "enabled": defaults.gateway,
                    "replicas": defaults.gateway_replicas,
                    "serviceType": defaults.gateway_service_type,
                },
            }
        ),
    }
    for one in crds.definitions():
        found[f"crds/{one['metadata']['name']}.yaml"] = _dumped(labelled(one))
    for one in objects(marked):
        if one["kind"] not in ("Namespace", "CustomResourceDefinition"):
            found[f"templates/{_file(one)}.yaml"] = _template(one)
    return found


def write(folder: Path) -> None:
    """All of them, in place of what was there."""
    for name, text in files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _template(one: Json) -> str:
    text = _WHOLE.sub(lambda found: f"{found[1]}{_MARKS[found[2]].replace(' }}', ' | quote }}')}", _dumped(one))
    for mark, reference in _MARKS.items():
        text = text.replace(mark, reference)
    lines = []
    for line in text.splitlines():
        if _STORAGE in line:
            lines += ["  {{- with .Values.storageClass }}", line.replace(_STORAGE, "{{ . | quote }}"), "  {{- end }}"]
        else:
            lines.append(line)
    if one["metadata"]["name"].startswith(GATEWAY):
        lines = ["{{- if .Values.gateway.enabled }}", *lines, "{{- end }}"]
    return "\n".join(lines) + "\n"


def _file(one: Json) -> str:
    name = one["metadata"]["name"].replace("-mark-namespace", "")
    return f"{name}-{one['kind'].lower()}"


def _dumped(document: Json) -> str:
    return yaml.safe_dump(document, sort_keys=False, width=4096)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
