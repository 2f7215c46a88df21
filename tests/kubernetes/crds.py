"""The definitions of all kinds that describe a mesh: Istio's and the Gateway API's, from the modules that
tests/tools/apiserver names, and our own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from pymesh.control.install import crds
from tests.kubernetes.cluster import Cluster

#: Names of our own.
OWN = [one["metadata"]["name"] for one in crds.definitions()]

_MODULE = Path(__file__).resolve().parents[1] / "tools" / "apiserver"
_ISTIO = ("istio.io/api", "kubernetes/customresourcedefinitions.gen.yaml")
_GATEWAY_API = "sigs.k8s.io/gateway-api"
#: Of the Gateway API's definitions; what is served in which version differs.
CHANNELS = ("standard", "experimental")


def install(cluster: Cluster, channel: str = "standard") -> None:
    """Have the cluster serve all kinds that a mesh is described with."""
    names = [one["metadata"]["name"] for one in cluster.apply([*definitions(channel), *crds.definitions()])]
    for name in names:
        cluster.wait_established(name)


def definitions(channel: str) -> Iterator[dict[str, Any]]:
    """Istio's definitions, and the Gateway API's of a channel."""
    for module, inside in (_ISTIO, (_GATEWAY_API, f"config/crd/{channel}")):
        path = _folder(module) / inside
        for file in [path] if path.is_file() else sorted(path.glob("*.yaml")):
            for one in yaml.load_all(file.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
                if one and one.get("kind") == "CustomResourceDefinition":
                    yield one


def _folder(module: str) -> Path:
    """Where a module's files are; `go` downloads it if it has to."""
    subprocess.run(["go", "mod", "download", module], cwd=_MODULE, check=True, capture_output=True)
    argv = ["go", "list", "-m", "-f", "{{.Dir}}", module]
    found = subprocess.run(argv, cwd=_MODULE, check=True, capture_output=True, text=True)
    return Path(found.stdout.strip())
