"""What the injected sidecar makes of its environment: who it says it is, and a bootstrap that both proxies take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pymesh import _bridge
from pymesh.cli.main import main
from pymesh.control.injection.inject import inject
from pymesh.control.translate.proxy import Proxy
from pymesh.pod import bootstrap, environment
from pymesh.pod.bootstrap import ControlAddress
from pymesh.pod.environment import Pod, PodError
from tests.injection.pods import SETTINGS, named, pod
from tests.tools.certificates import Authority

OF_POD = {
    "metadata.name": "web-0", "metadata.namespace": "shop", "status.podIP": "10.1.2.3",
    "spec.serviceAccountName": "web", "spec.nodeName": "node-1",
}  # fmt: skip


def kubelet(container: dict[str, Any]) -> dict[str, str]:
    """The environment that a kubelet would give the container."""
    found = {}
    for one in container["env"]:
        found[one["name"]] = one["value"] if "value" in one else OF_POD[one["valueFrom"]["fieldRef"]["fieldPath"]]
    return found


def read(folder: Path, **changes: str) -> Pod:
    labels = folder / "labels"
    labels.write_text('app="web"\nsecurity.istio.io/tlsMode="istio"\n')
    made = inject(pod(container={"livenessProbe": {"httpGet": {"port": 8080}}}), SETTINGS)
    return environment.read("sidecar", {**kubelet(named(made, "istio-proxy")), **changes}, labels)


def test_an_injected_sidecar_knows_who_it_is(tmp_path: Path) -> None:
    found = read(tmp_path)
    assert found.node_id == "sidecar~10.1.2.3~web-0.shop~shop.svc.cluster.local"
    assert (found.namespace, found.service_account) == ("shop", "web")
    assert found.labels["security.istio.io/tlsMode"] == "istio"
    assert list(found.probes) == ["/app-health/web/livez"]


def test_the_control_plane_understands_it(tmp_path: Path) -> None:
    made = bootstrap.for_pod(read(tmp_path), ControlAddress(15012, tmp_path / "r"), tmp_path / "t", "cluster.local")
    proxy = Proxy.parse(made["node"]["id"], made["node"]["metadata"])
    assert (proxy.kind, proxy.name, proxy.namespace, proxy.address) == ("sidecar", "web-0", "shop", "10.1.2.3")
    assert (proxy.interception, proxy.service_account, proxy.cluster_id) == ("REDIRECT", "web", "Kubernetes")
    assert proxy.ports == {"http": 8080}, "named by the pod's container"
    assert proxy.labels == {"app": "web", "security.istio.io/tlsMode": "istio", "kubernetes.io/hostname": "node-1"}


@pytest.mark.parametrize("host", ["pymesh-control.istio-system.svc", "10.9.8.7", "fd00::1"])
@pytest.mark.parametrize("address", ["10.1.2.3", "fd00::2"])
def test_the_proxy_takes_the_bootstrap(tmp_path: Path, authority: Authority, host: str, address: str) -> None:
    control = ControlAddress(15012, authority.root, host, host)
    found = read(tmp_path, INSTANCE_IP=address)
    file = tmp_path / "bootstrap.json"
    file.write_text(json.dumps(bootstrap.for_pod(found, control, tmp_path / "token", "cluster.local")))
    assert _bridge.validate(file) == []


@pytest.mark.parametrize(
    ("changes", "labels", "said"),
    [
        ({"POD_NAME": "", "INSTANCE_IP": ""}, "", "POD_NAME, INSTANCE_IP are not set in the environment; hint: "),
        ({}, "app=web\n", ":1: 'app=web' is not LABEL=\"VALUE\""),
        ({"ISTIO_KUBE_APP_PROBERS": "{"}, "", "ISTIO_KUBE_APP_PROBERS is not JSON"),
        ({"ISTIO_KUBE_APP_PROBERS": "[]"}, "", "expected an object of probes by path"),
    ],
)
def test_a_pod_that_tells_too_little(tmp_path: Path, changes: dict[str, str], labels: str, said: str) -> None:
    file = tmp_path / "labels"
    file.write_text(labels)
    known = {"POD_NAME": "a", "POD_NAMESPACE": "b", "INSTANCE_IP": "10.0.0.1", "SERVICE_ACCOUNT": "c"}
    with pytest.raises(PodError) as caught:
        environment.read("sidecar", {**known, **changes}, file)
    assert said in str(caught.value)


def test_a_control_plane_that_is_no_address_is_refused() -> None:
    done = CliRunner().invoke(main, ["pod", "sidecar", "--control", "control"])
    assert (done.exit_code, "'control' is not HOST:PORT; hint: " in done.stderr) == (1, True)
