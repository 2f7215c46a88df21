"""Who a workload is: flags over the workload file, and every error with what, where and how to mend it."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from pymesh.local.errors import LocalMeshError
from pymesh.local.plan import Workload
from pymesh.run import settings
from pymesh.run.settings import Given

FILE = """\
apiVersion: local.pymesh.dev/v1alpha1
kind: LocalWorkload
metadata: {name: reviews-2, namespace: shop}
spec:
  service: reviews
  version: v2
  locality: eu/eu-1
  ports: {http: 9080}
  calls: {ratings: 9081}
  control: {address: "127.0.0.1:15012", root: root.pem, token: token}
  register: config
"""


def workload(folder: Path, text: str, **given: object) -> Workload:
    for name in ("root.pem", "token"):
        (folder / name).write_text("")
    file = folder / "workload.yaml"
    file.write_text(text)
    ports = itertools.count(20000)
    return settings.workload(Given(**given), file, ("it",), lambda: next(ports))[0]  # type: ignore[arg-type]


def test_a_file_says_it_all(tmp_path: Path) -> None:
    made = workload(tmp_path, FILE)
    assert made.node_id == "sidecar~127.0.0.1~reviews-2.shop~shop.svc.cluster.local"
    assert made.spiffe_id == "spiffe://cluster.local/ns/shop/sa/reviews-2"
    assert made.labels == {"app": "reviews", "version": "v2", "workload": "reviews-2"}
    assert [(port.name, port.app) for port in made.inbound] == [("http", 9080)]
    assert made.whereabouts() == {"RATINGS_SERVICE_HOST": "127.0.0.1", "RATINGS_SERVICE_PORT": "9081"}


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    made = workload(tmp_path, FILE, name="other", version="v3", service_account="reviews", ports=("grpc=1", "tcp=2"))
    assert (made.name, made.labels["version"], made.service_account) == ("other", "v3", "reviews")
    assert [(port.name, port.app) for port in made.inbound] == [("grpc", 1), ("tcp", 2)]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("kind: LocalWorkload", "kind: Pod", "workload.yaml:2:7: error: "),
        ("  service: reviews", "  servize: reviews", "workload.yaml:5:3: error: spec: unknown field 'servize'"),
        ("http: 9080", "http: 90800", "workload.yaml:8:17: error: "),
        ("name: reviews-2", "name: Reviews", "'Reviews' is not a valid name"),
        ("namespace: shop", "labels: {a: b}", "labels are made of service and version; hint: set spec.service"),
        ("127.0.0.1:15012", "15012", "--control: '15012' is not HOST:PORT"),
        ("root: root.pem, ", "", "the roots that the control plane is trusted by is not known; hint: --root FILE"),
        ("root: root.pem", "root: rout.pem", "--root: there is no file"),
        ("token: token", "token: toucan", "--token: there is no file"),
        ("  register: config\n", "", "hint: --register DIR, a folder of its configuration"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in FILE
    with pytest.raises(LocalMeshError) as raised:
        workload(tmp_path, FILE.replace(old, new))
    text = str(raised.value).replace("\n  hint", "; hint")
    assert told in text


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"name": "a.b"}, "--name: 'a.b' is not a DNS label; hint: lower-case letters"),
        ({"ports": ("http",)}, "--port: 'http' is not NAME=PORT; hint: --port http=9080"),
        ({"ports": ("http=0",)}, "--port: 'http=0' is not NAME=PORT"),
        ({"ports": ("http=1", "http=2")}, "--port: 'http' is there twice"),
        ({"calls": ("ratings=65536",)}, "--call: 'ratings=65536' is not NAME=PORT"),
    ],
)
def test_what_is_wrong_with_a_flag_is_told(tmp_path: Path, given: dict[str, object], told: str) -> None:
    with pytest.raises(LocalMeshError) as raised:
        workload(tmp_path, FILE, **given)
    assert told in str(raised.value)


def test_nothing_is_known_without_a_name() -> None:
    with pytest.raises(LocalMeshError, match="the workload's name is not known; hint: --name, PYMESH_NAME, or a work"):
        settings.workload(Given(), None, ("it",), lambda: 1)
