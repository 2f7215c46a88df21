"""The containers that injection writes, run as a kubelet would run them: in a network namespace, by their own command
lines, environment and users, beside a real control plane that is known by its name."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from pymesh.control.injection.inject import LABELS_PATH, ROOTS_PATH, SCRATCH_PATH, TOKEN_PATH, inject
from pymesh.control.injection.settings import InjectionSettings
from tests.capture.world import POD, PROXY, Namespace, namespaces, url
from tests.injection.pods import Json, named, pod
from tests.proxy.running import eventually, pymesh
from tests.tools.nginx import nginx
from tests.tools.processes import running

SETTINGS = InjectionSettings(image="pymesh", control="localhost:15012")
_APPLICATION = """
    server { listen 8080; location = /well { return 204; } location / { return 200 "application\\n"; } }
"""
TOKEN = "of-the-pod"
MESH = f"""
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: shop}}
spec: {{selector: {{app: web}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: web-0, namespace: shop}}
spec: {{address: {POD[4]}, serviceAccount: web, labels: {{app: web}}, ports: {{http: 8080}}}}
"""


def environment(container: Json) -> dict[str, str]:
    """The downward API's."""
    told = {
        "metadata.name": "web-0", "metadata.namespace": "shop", "status.podIP": POD[4],
        "spec.serviceAccountName": "web", "spec.nodeName": "node-1",
    }  # fmt: skip
    return {
        one["name"]: one["value"] if "value" in one else told[one["valueFrom"]["fieldRef"]["fieldPath"]]
        for one in container["env"]
    }


def mounted(folder: Path, made: Json) -> list[str]:
    """The options by which the sidecar finds what a kubelet would mount."""
    (folder / "scratch").mkdir()
    shutil.chown(folder / "scratch", PROXY, PROXY)
    (folder / "token").write_text(TOKEN)
    labels = made["metadata"]["labels"].items()
    (folder / "labels").write_text("\n".join(f"{key}={json.dumps(value)}" for key, value in labels))
    (folder / "root.pem").write_bytes((folder / "state" / "ca" / "root-cert.pem").read_bytes())
    paths = {
        "--root": (ROOTS_PATH, "root.pem"),
        "--token": (TOKEN_PATH, "token"),
        "--labels": (LABELS_PATH, "labels"),
        "--scratch": (SCRATCH_PATH, "scratch"),
    }
    mounts = [mount["mountPath"] for mount in named(made, "istio-proxy")["volumeMounts"]]
    assert all(any(inside.startswith(mount) for mount in mounts) for inside, _ in paths.values())
    for _, name in paths.values():
        (folder / name).chmod(0o755)
    return [word for option, (_, name) in paths.items() for word in (option, str(folder / name))]


@pytest.fixture(scope="module")
def running_pod() -> Iterator[Namespace]:
    """The pod; the world's namespace, where the kubelet and others are."""
    # Not below a folder of pytest's, which is root's alone.
    with tempfile.TemporaryDirectory(prefix="pod-") as folder, started(Path(folder)) as world:
        yield world


@contextmanager
def started(folder: Path) -> Iterator[Namespace]:
    folder.chmod(0o755)
    probes = {
        "readinessProbe": {"httpGet": {"path": "/well", "port": "http"}},
        "livenessProbe": {"tcpSocket": {"port": 8080}},
        "startupProbe": {"tcpSocket": {"port": 8081}},
    }
    made = inject(pod(container=probes), SETTINGS)
    capture, sidecar = named(made, "istio-init"), named(made, "istio-proxy")
    tokens = folder / "tokens.json"
    hashed = hashlib.sha256(TOKEN.encode()).hexdigest()
    tokens.write_text(json.dumps({hashed: {"namespace": "shop", "serviceAccount": "web"}}))
    tokens.chmod(0o600)
    (folder / "config").mkdir()
    (folder / "config" / "web.yaml").write_text(MESH)
    control = [*pymesh(), "control", "--config", str(folder / "config"), "--state", str(folder / "state")]
    control += ["--tokens", str(tokens)]
    with ExitStack() as stack:
        worlds = stack.enter_context(namespaces("inj"))
        here = worlds.pod
        stack.enter_context(nginx(_APPLICATION, [], prefix=here.argv([])))
        stack.enter_context(running(here.argv(control), title="control"))
        roots = folder / "state" / "ca" / "root-cert.pem"
        assert eventually(lambda: roots.exists() and here.listens(15012), 120)
        here.run(*pymesh(), *capture["args"])
        argv = here.argv([*pymesh(), *sidecar["args"], *mounted(folder, made)], sidecar["securityContext"]["runAsUser"])
        proxy = stack.enter_context(running(argv, title="sidecar", env={**os.environ, **environment(sidecar)}))
        ready = url(POD[4], 15021, sidecar["startupProbe"]["httpGet"]["path"])
        assert eventually(lambda: not proxy.alive() or " 200 " in worlds.world.curl(ready).stdout, 120), proxy.tail()
        assert proxy.alive(), proxy.tail()
        yield worlds.world


def test_the_kubelet_finds_the_application_well_though_nobody_else_reaches_it(running_pod: Namespace) -> None:
    def probe(action: str) -> str:
        return running_pod.curl(url(POD[4], 15020, f"/app-health/web/{action}")).stdout.partition("\n")[0].strip()

    assert probe("readyz") == "HTTP/1.1 204 No Content"
    assert probe("livez") == "HTTP/1.1 200 OK"
    assert probe("startupz") == "HTTP/1.1 503 Service Unavailable"
    assert probe("other") == "HTTP/1.1 404 Not Found"
    plain = running_pod.curl(url(POD[4], 8080))
    assert (plain.returncode != 0, "application" in plain.stdout) == (True, False)


def test_its_metrics_are_there_for_prometheus_and_its_admin_pages_are_not(running_pod: Namespace) -> None:
    metrics = running_pod.curl(url(POD[4], 15090, "/stats/prometheus")).stdout
    assert "HTTP/1.1 200 OK" in metrics
    assert "\nenvoy_server_live" in metrics or "# TYPE envoy_" in metrics
    for port, path in ((15090, "/config_dump"), (15021, "/config_dump"), (15021, "/quitquitquit")):
        assert " 404 " in running_pod.curl(url(POD[4], port, path)).stdout
    assert running_pod.curl(url(POD[4], 15000, "/config_dump")).returncode != 0
