"""The webhooks' pages over TLS, asked as an API server asks."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from pymesh.control.admin.serving import AdminServer
from pymesh.control.admission import among
from pymesh.control.admission.serving import LARGEST_REVIEW, SettingsFile, Webhooks
from pymesh.control.identity.authority import self_signed
from pymesh.control.identity.ledger import Ledger
from pymesh.control.identity.rotation import Rotation
from pymesh.control.identity.serving import ServerCertificate
from pymesh.control.identity.trust import Trust
from pymesh.control.injection.inject import inject
from pymesh.control.resources.diagnostics import Diagnostic, Report
from pymesh.control.resources.metadata import Resource
from pymesh.control.resources.objects import load_object
from pymesh.control.store.store import MeshOptions
from tests.injection.pods import SETTINGS, Json, patched, pod

HOST = "pymesh-control.istio-system.svc"


class Served:
    """The webhooks on a thread, with the mesh's authority."""

    def __init__(self, folder: Path, in_force: Sequence[Resource]) -> None:
        self.settings = folder / "settings.yaml"
        self.write(SETTINGS.image)
        now = datetime.now(UTC)
        folder.joinpath("ca").mkdir()
        trust = Trust(self_signed("cluster.local", now))
        rotation = Rotation(trust, Ledger.open(folder / "ca", now), lambda _: None, lambda: now, None)
        self.roots = trust.bundle
        certificate = ServerCertificate(rotation, (HOST,), folder, now, protocols=("http/1.1",))
        webhooks = Webhooks(SettingsFile(self.settings), self._among(in_force), CollectorRegistry())
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._ready, self._stop = threading.Event(), threading.Event()
        server = (webhooks.application(lambda: True), self._socket, certificate.context)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(*server)))
        self._thread.start()
        assert self._ready.wait(20)

    def write(self, image: str) -> None:
        head = {"apiVersion": "install.pymesh.dev/v1alpha1", "kind": "InjectionSettings", "metadata": {"name": "x"}}
        staged = self.settings.with_suffix(".new")
        staged.write_text(yaml.safe_dump({**head, "spec": {"image": image}}))
        staged.replace(self.settings)

    def ask(self, path: str, body: bytes, method: str = "POST") -> tuple[int, Any]:
        context = ssl.create_default_context(cadata=self.roots)
        context.set_alpn_protocols(["h2", "http/1.1"])  # as an API server offers
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=context, timeout=30)
        raw = socket.create_connection(("127.0.0.1", self.port), 30)
        connection.sock = context.wrap_socket(raw, server_hostname=HOST)
        try:
            connection.request(method, path, body, {"content-type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        return answer.status, json.loads(text) if text.startswith(b"{") else text.decode()

    def review(self, path: str, one: Json, operation: str = "CREATE") -> Json:
        group, _, version = one["apiVersion"].rpartition("/")
        request = {
            "uid": "u-1",
            "kind": {"group": group, "version": version, "kind": one["kind"]},
            "resource": {"group": group, "version": version, "resource": "any"},
            "operation": operation,
            "namespace": one["metadata"].get("namespace", ""),
            "name": one["metadata"].get("name", ""),
            "userInfo": {"username": "somebody"},
            "object": one,
            "oldObject": None,
            "dryRun": False,
        }
        asked = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
        status, told = self.ask(path, json.dumps(asked).encode())
        assert status == 200, told
        assert (told["apiVersion"], told["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
        response: Json = told["response"]
        assert response["uid"] == "u-1"
        return response

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(20)
        assert not self._thread.is_alive()

    @staticmethod
    def _among(in_force: Sequence[Resource]) -> Any:
        def found(new: Resource) -> Sequence[Diagnostic]:
            return among.findings(new, in_force, MeshOptions())

        return found

    async def _run(self, *server: Any) -> None:
        serving = AdminServer(*server)
        await serving.start()
        self._ready.set()
        await asyncio.to_thread(self._stop.wait)
        await serving.stop()


SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "reviews", "namespace": "shop"},
    "spec": {"ports": [{"port": 80, "name": "http"}], "clusterIP": "10.96.0.9"},
}


@contextmanager
def serving(folder: Path, *objects: Json) -> Iterator[Served]:
    report = Report()
    made = [load_object(one, report) for one in objects]
    assert not report.diagnostics
    served = Served(folder, [one for one in made if one is not None])
    try:
        yield served
    finally:
        served.stop()


def virtual_service(spec: Json) -> Json:
    head = {"apiVersion": "networking.istio.io/v1", "kind": "VirtualService"}
    return {**head, "metadata": {"name": "v", "namespace": "shop"}, "spec": spec}


def test_a_pod_becomes_what_injection_makes_of_it(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        told = served.review("/inject", pod())
        assert told["allowed"] is True
        assert told["patchType"] == "JSONPatch"
        assert patched(pod(), json.loads(base64.b64decode(told["patch"]))) == inject(pod(), SETTINGS)
        assert told["auditAnnotations"] == {"injection": "injected"}


def test_who_wants_none_gets_none(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        told = served.review("/inject", pod(hostNetwork=True))
        assert (told["allowed"], "patch" in told) == (True, False)
        assert told["auditAnnotations"]["injection"].startswith("none: it is in the node's network")
        assert "patch" not in served.review("/inject", pod(), operation="UPDATE")


def test_a_wish_that_cannot_be_fulfilled_keeps_the_pod_out(tmp_path: Path) -> None:
    wrong = pod(metadata={"annotations": {"sidecar.istio.io/proxyCPU": "much", "sidecar.istio.io/logLevel": "debug"}})
    with serving(tmp_path) as served:
        told = served.review("/inject", wrong)
    assert told["allowed"] is False
    assert told["status"]["code"] == 422
    first, second = told["status"]["message"].splitlines()
    where = "metadata.annotations[sidecar.istio.io/proxyCPU]"
    assert first == f"Pod shop/web-0: {where}: 'much' is not a quantity, as in 500m or 128Mi"
    assert "logLevel]: not supported yet; hint: " in second


def test_other_settings_are_used_from_the_next_pod_on_and_bad_ones_never(tmp_path: Path) -> None:
    def image() -> str:
        told = served.review("/inject", pod())
        made = patched(pod(), json.loads(base64.b64decode(told["patch"])))
        return str(made["spec"]["initContainers"][0]["image"])

    with serving(tmp_path) as served:
        assert image() == SETTINGS.image
        served.write("other:2")
        assert image() == "other:2"
        served.write("not an image")
        assert image() == "other:2"


def test_what_is_wrong_with_an_object_by_itself_keeps_it_out(tmp_path: Path) -> None:
    with serving(tmp_path, SERVICE) as served:
        told = served.review("/validate", virtual_service({"hosts": ["reviews"], "http": [{"rote": []}]}))
    assert (told["allowed"], told["status"]["code"], told["status"]["reason"]) == (False, 422, "Invalid")
    where = "VirtualService/shop/v:spec.http[0].rote"
    assert told["status"]["message"].startswith(f"{where}: [IST0106] ")
    assert "unknown field 'rote'; hint: did you mean 'route'?" in told["status"]["message"]


def test_what_is_wrong_among_others_is_a_warning(tmp_path: Path) -> None:
    def to(host: str) -> Json:
        return virtual_service({"hosts": ["reviews"], "http": [{"route": [{"destination": {"host": host}}]}]})

    with serving(tmp_path, SERVICE) as served:
        assert "warnings" not in served.review("/validate", to("reviews"))
        told = served.review("/validate", to("reviws"))
        deleted = to("x")
        deleted["spec"]["nothing"] = 1
        assert served.review("/validate", deleted, operation="DELETE") == {"uid": "u-1", "allowed": True}
        deleted["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        assert served.review("/validate", deleted, operation="UPDATE") == {"uid": "u-1", "allowed": True}
    assert told["allowed"] is True
    (warning,) = told["warnings"]
    assert warning.endswith("[IST0101] there is no service 'reviws'"), "names of others are not told"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "this is no AdmissionReview"),
        (b"[]", "this is no AdmissionReview"),
        (b"{", "this is no AdmissionReview"),
        (b"[" * 100_000, "this is no AdmissionReview"),
        (
            b'{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview"}',
            "expected a request of admission.k8s.io/v1",
        ),
        (b'{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":1}}', "no AdmissionReview"),
        (b" " * (LARGEST_REVIEW + 1), "larger than"),
    ],
    ids=["empty", "list", "broken", "deep", "version", "types", "large"],
)
def test_what_is_no_review_is_refused(tmp_path: Path, body: bytes, said: str) -> None:
    with serving(tmp_path) as served:
        for path in ("/inject", "/validate"):
            status, told = served.ask(path, body)
            assert (status, said in told) == (400, True), told
        assert served.ask("/ready", b"", "GET") == (200, "ready\n")


def test_objects_without_what_every_object_has(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        gateway = {"apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": {}}
        for path, one in (("/inject", {"apiVersion": "v1", "kind": "Pod", "metadata": {}}), ("/validate", gateway)):
            assert served.review(path, one)["allowed"] is False
