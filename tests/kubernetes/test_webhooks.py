"""The webhooks, called by a real API server: pods get sidecars, bad resources stay out, and whatever breaks is seen."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from pymesh.cli.main import main
from pymesh.control.install import rights, webhooks
from pymesh.control.install.objects import CONTROL, injection_settings
from pymesh.control.install.values import Values
from tests.kubernetes.cluster import ApiRefused, Cluster
from tests.tools.certificates import Authority
from tests.tools.processes import Running, running

Json = dict[str, Any]
NAMESPACE = "istio-system"
VALUES = Values(image="registry.example/pymesh:1.0", validation_failure_policy="Fail")


class Control:
    """A control plane outside of the cluster, as its service account, and the webhooks that lead there."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self.state = folder / "state"
        self.settings = folder / "injection.yaml"
        self.settings.write_text(yaml.safe_dump(injection_settings(VALUES)))
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": CONTROL, "namespace": NAMESPACE}}
        cluster.apply([account, *rights.of_control(CONTROL, NAMESPACE)])
        token = cluster.account_token(NAMESPACE, CONTROL, seconds=3600)
        self._kubeconfig = cluster.kubeconfig_of(token=token, name="control")
        self.ports: Json = {}

    @contextmanager
    def running(self) -> Iterator[Running]:
        """For the length of a block, with the webhooks in force."""
        ports = self.folder / "ports.json"
        ports.unlink(missing_ok=True)
        port = self.ports.get("webhook", "127.0.0.1:0").rpartition(":")[2]
        argv = [sys.executable, "-m", "pymesh", "control", "--kubernetes", "--kubeconfig", str(self._kubeconfig)]
        argv += ["--state", str(self.state), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
        argv += ["--webhook", f"127.0.0.1:{port}", "--injection", str(self.settings)]
        argv += ["--namespace", NAMESPACE, "--ports-file", str(ports)]
        with running(argv, title="pymesh control", timeout=120) as process:
            until(ports.exists, process)
            self.ports = json.loads(ports.read_text())
            self.configure()
            until(self.is_trusted, process)
            yield process
            # What it asks for it may: nothing is missing in its rights. A namespace that ends takes nothing.
            told = [line for line in process.output().splitlines() if "because it is being terminated" not in line]
            assert "forbidden" not in "\n".join(told)

    def configure(self, **changes: str) -> None:
        """As `pymesh install` does, but by URL: no Service leads out of this cluster."""
        values = Values(**{"image": VALUES.image, "validation_failure_policy": "Fail", **changes})  # type: ignore[arg-type]
        for one in (webhooks.injecting(CONTROL, values), webhooks.validating(CONTROL, values)):
            for hook in one["webhooks"]:
                path = hook["clientConfig"].pop("service")["path"]
                hook["clientConfig"]["url"] = f"https://localhost:{self.ports['webhook'].rpartition(':')[2]}{path}"
            self.cluster.apply([one])

    def configurations(self) -> list[Json]:
        """Both, as they are in the cluster."""
        kinds = (
            ("MutatingWebhookConfiguration", webhooks.injector_name(NAMESPACE)),
            (
                "ValidatingWebhookConfiguration",
                webhooks.validator_name(NAMESPACE),
            ),
        )
        found = [self.cluster.get("admissionregistration.k8s.io/v1", kind, name) for kind, name in kinds]
        return [one for one in found if one is not None]

    def is_trusted(self) -> bool:
        """Whether the API server trusts the control plane, and calls it."""
        hooks = [hook for one in self.configurations() for hook in one["webhooks"]]
        return len(hooks) == 3 and all(hook["clientConfig"].get("caBundle") for hook in hooks)

    def remove(self) -> None:
        """The webhooks are gone: nothing waits for somebody who has gone."""
        for kind, name in (
            ("MutatingWebhookConfiguration", webhooks.injector_name(NAMESPACE)),
            ("ValidatingWebhookConfiguration", webhooks.validator_name(NAMESPACE)),
        ):
            self.cluster.delete("admissionregistration.k8s.io/v1", kind, name)


def until(what: Callable[[], Any], process: Running | None = None, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert process is None or process.alive(), process.tail()
        assert time.monotonic() < deadline, process.tail() if process else "in vain"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def control(mesh_apis: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Control]:
    with mesh_apis.namespace(NAMESPACE):
        made = Control(mesh_apis, tmp_path_factory.mktemp("control"))
        try:
            with made.running():
                yield made
        finally:
            made.remove()


@pytest.fixture
def shop(control: Control) -> Iterator[str]:
    with control.cluster.namespace(labels={"istio-injection": "enabled"}) as name:
        yield name


def pod(namespace: str, **metadata: Any) -> Json:
    container = {
        "name": "web", "image": "web:1", "ports": [{"containerPort": 8080, "name": "http"}],
        "readinessProbe": {"httpGet": {"port": "http"}}, "livenessProbe": {"tcpSocket": {"port": 8080}},
        "startupProbe": {"grpc": {"port": 9000}}, "lifecycle": {"preStop": {"httpGet": {"port": 8080}}},
    }  # fmt: skip
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web", "namespace": namespace, "labels": {"app": "web"}, **metadata},
        "spec": {"containers": [container], "automountServiceAccountToken": False},
    }


def created(cluster: Cluster, one: Json) -> Json:
    """By POST, as a controller does."""
    path = cluster.path(one["apiVersion"], one["kind"], "", one["metadata"]["namespace"])
    made: Json = cluster.request("POST", path, one)
    return made


def has_sidecar(one: Json) -> bool:
    return any(each["name"] == "istio-proxy" for each in one["spec"].get("initContainers", ()))


def test_a_pod_gets_the_sidecar_that_pymesh_inject_writes(control: Control, shop: str) -> None:
    by_webhook = created(control.cluster, pod(shop))
    file = control.folder / "pod.yaml"
    with control.cluster.namespace() as plain:
        file.write_text(yaml.safe_dump(pod(plain)))
        done = CliRunner().invoke(main, ["inject", "-f", str(file), "--settings", str(control.settings)])
        offline = created(control.cluster, yaml.safe_load(done.stdout))
    for field in ("labels", "annotations"):
        assert by_webhook["metadata"][field] == offline["metadata"][field]
    assert by_webhook["spec"] == offline["spec"]
    assert has_sidecar(by_webhook)
    assert by_webhook["spec"]["containers"][0]["readinessProbe"]["httpGet"]["port"] == 15020


@pytest.mark.parametrize(
    ("of_namespace", "of_pod", "wanted"),
    [
        ("enabled", None, True), ("enabled", "false", False), ("enabled", "true", True),
        (None, None, False), (None, "true", True), ("disabled", "true", False), ("disabled", None, False),
    ],
)  # fmt: skip
def test_labels_decide(control: Control, of_namespace: str | None, of_pod: str | None, wanted: bool) -> None:
    labels = {"istio-injection": of_namespace} if of_namespace else {}
    with control.cluster.namespace(labels=labels) as name:
        own = {"app": "web", **({"sidecar.istio.io/inject": of_pod} if of_pod else {})}
        assert has_sidecar(created(control.cluster, pod(name, labels=own))) == wanted


def test_a_wish_that_cannot_be_fulfilled_keeps_the_pod_out(control: Control, shop: str) -> None:
    with pytest.raises(ApiRefused) as caught:
        created(control.cluster, pod(shop, annotations={"sidecar.istio.io/interceptionMod": "NONE"}))
    said = caught.value.message
    assert said.startswith('admission webhook "namespace.sidecar-injector.istio.io" denied the request: Pod ')
    assert "metadata.annotations[sidecar.istio.io/interceptionMod]: there is no such annotation" in said
    assert "did you mean 'sidecar.istio.io/interceptionMode'?" in said
    assert control.cluster.get("v1", "Pod", "web", shop) is None


def virtual_service(namespace: str, spec: Json) -> Json:
    head = {"apiVersion": "networking.istio.io/v1", "kind": "VirtualService"}
    return {**head, "metadata": {"name": "web", "namespace": namespace}, "spec": spec}


#: What the API server itself takes, and the control plane does not: kind, spec, what is said.
BAD: list[tuple[Json, str]] = [
    (
        virtual_service("", {"hosts": ["web"], "http": [{"route": [{"destination": {"host": "web"}}], "fault": {}}]}),
        "spec.http[0].fault",
    ),
    (
        virtual_service("", {"hosts": ["web"], "http": [{"match": [{"uri": {"regex": "["}}]}]}),
        "spec.http[0].match[0].uri",
    ),
    (
        {
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": "p"},
            "spec": {"rules": [{"from": [{"source": {"ipBlocks": ["10.0.0.300"]}}]}]},
        },
        "'10.0.0.300' is no address and no network; hint: ",
    ),
    (
        {
            "apiVersion": "extensions.pymesh.dev/v1alpha1",
            "kind": "PythonFilter",
            "metadata": {"name": "f"},
            "spec": {"class": "f:F", "source": "class F:\n  def", "selector": {"matchLabels": {"app": "web"}}},
        },
        "the filter's source is not Python",
    ),
    (
        {
            "apiVersion": "networking.istio.io/v1alpha3",
            "kind": "EnvoyFilter",
            "metadata": {"name": "e"},
            "spec": {},
        },
        "kind EnvoyFilter is not supported yet; hint: write a PythonFilter",
    ),
]


@pytest.mark.parametrize(("one", "said"), BAD, ids=lambda one: one["kind"] if isinstance(one, dict) else "")
def test_a_bad_resource_stays_out(control: Control, shop: str, one: Json, said: str) -> None:
    one = {**one, "metadata": {**one["metadata"], "namespace": shop}}
    with pytest.raises(ApiRefused) as caught:
        control.cluster.apply([one])
    assert caught.value.code == 422
    assert caught.value.message.startswith('admission webhook "validation.pymesh.dev" denied the request: ')
    assert f"{one['kind']}" in caught.value.message
    assert said in caught.value.message
    # A dry run is judged alike.
    with pytest.raises(ApiRefused):
        control.cluster.apply([one], dry_run=True)


def test_what_may_come_right_is_taken_with_a_warning(control: Control, shop: str) -> None:
    one = virtual_service(shop, {"hosts": ["web"], "http": [{"route": [{"destination": {"host": "web"}}]}]})
    argv = ["curl", "-sS", "-D", "-", "-o", "/dev/null", "--cacert", str(control.cluster.ca), "-X", "POST"]
    argv += ["-H", f"Authorization: Bearer {control.cluster.token}", "-H", "Content-Type: application/json"]
    argv += [
        "-d",
        json.dumps(one),
        control.cluster.url + control.cluster.path(one["apiVersion"], one["kind"], "", shop),
    ]
    head = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert " 201" in head.splitlines()[0]
    assert "[IST0101] there is no service 'web'" in head


def test_roots_are_replaced_while_pods_come(control: Control, shop: str) -> None:
    def ca(*words: str) -> None:
        done = CliRunner().invoke(main, ["ca", *words, "--state", str(control.state)])
        assert done.exit_code == 0, done.output

    def bundles() -> set[str]:
        return {hook["clientConfig"]["caBundle"] for one in control.configurations() for hook in one["webhooks"]}

    before = bundles()
    assert len(before) == 1
    for phase in ("prepare", "activate", "revoke"):
        known = bundles()
        ca(phase)
        if phase != "activate" or bundles() != known:
            until(lambda known=known: bundles() != known and len(bundles()) == 1)  # type: ignore[misc]
        for number in range(3):
            name = f"{phase}-{number}"
            assert has_sidecar(created(control.cluster, pod(shop, name=name)))
    assert bundles() != before


def test_a_control_plane_that_is_away_is_what_the_failure_policy_says(control: Control, mesh_apis: Cluster) -> None:
    other = Control(mesh_apis, control.folder)
    other.state = control.folder / "other-state"
    port = control.ports["webhook"]
    other.ports = {"webhook": "127.0.0.1:1"}
    with mesh_apis.namespace(labels={"istio-injection": "enabled"}) as name:
        try:
            other.configure()
            until(lambda: _refused(mesh_apis, pod(name)))
            said = _refused(mesh_apis, pod(name))
            assert 'failed calling webhook "namespace.sidecar-injector.istio.io"' in said
            assert "connection refused" in said
            other.configure(injection_failure_policy="Ignore")
            until(lambda: not _refused(mesh_apis, pod(name)))
            assert not has_sidecar(created(mesh_apis, pod(name)))
        finally:
            other.ports = {"webhook": port}
            other.configure()
            until(lambda: _is_injected(mesh_apis, name))


def test_a_certificate_that_has_run_out_is_seen(control: Control, mesh_apis: Cluster, tmp_path: Path) -> None:
    def trust(bundle: str) -> None:
        for one in other.configurations():
            for hook in one["webhooks"]:
                hook["clientConfig"]["caBundle"] = bundle
            mesh_apis.request("PUT", mesh_apis.path(one["apiVersion"], one["kind"], one["metadata"]["name"]), one)

    def is_seen() -> bool:
        said.append(_refused(mesh_apis, pod(name)))
        return "x509: certificate has expired" in said[-1]

    said: list[str] = []
    port, good = control.ports["webhook"], control.configurations()[0]["webhooks"][0]["clientConfig"]["caBundle"]
    with expired(tmp_path) as (its_port, root), mesh_apis.namespace(labels={"istio-injection": "enabled"}) as name:
        other = Control(mesh_apis, control.folder)
        other.ports = {"webhook": f"127.0.0.1:{its_port}"}
        try:
            other.configure()
            trust(base64.b64encode(root.read_bytes()).decode())
            until(is_seen)
            assert 'failed calling webhook "namespace.sidecar-injector.istio.io"' in said[-1]
        finally:
            other.ports = {"webhook": port}
            other.configure()
            trust(good)
            until(lambda: _is_injected(mesh_apis, name))


def _refused(cluster: Cluster, one: Json) -> str:
    try:
        path = cluster.path(one["apiVersion"], one["kind"], "", one["metadata"]["namespace"])
        cluster.request("POST", path, one, query={"dryRun": "All"})
    except ApiRefused as error:
        return error.message
    return ""


def _is_injected(cluster: Cluster, namespace: str) -> bool:
    path = cluster.path("v1", "Pod", "", namespace)
    try:
        return has_sidecar(cluster.request("POST", path, pod(namespace, name="probe"), query={"dryRun": "All"}))
    except ApiRefused:
        return False


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """That nobody trusts it is what it is for."""


@contextmanager
def expired(folder: Path) -> Iterator[tuple[int, Path]]:
    """A server whose certificate was good until a moment ago; its port, and the root that vouches for it."""
    authority = Authority(folder)
    issued = authority.issue("expired", dns=["localhost"], lifetime=timedelta(seconds=-1))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.chain, issued.key)
    server = _Quiet(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_address[1], authority.root
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
