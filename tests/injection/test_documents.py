"""`pymesh inject`: manifests in, manifests out."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from pymesh.cli.main import main
from pymesh.control.injection import manifest_yaml
from pymesh.control.injection.inject import Owner, inject
from tests.injection.pods import SETTINGS, pod

TEMPLATE = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": "web:1"}]}}


def workload(version: str, kind: str, spec: object) -> dict[str, object]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": "web", "namespace": "shop"}, "spec": spec}


def injected(text: str, *options: str) -> list[dict[str, object]]:
    done = CliRunner().invoke(main, ["inject", "-f", "-", *options], input=text)
    assert done.exit_code == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def settings(folder: Path) -> tuple[str, str]:
    file = folder / "settings.yaml"
    spec = {"image": SETTINGS.image}
    head = {"apiVersion": "install.pymesh.dev/v1alpha1", "kind": "InjectionSettings", "metadata": {"name": "x"}}
    file.write_text(yaml.safe_dump({**head, "spec": spec}))
    return "--settings", str(file)


@pytest.mark.parametrize(
    ("version", "kind"),
    [
        ("apps/v1", "Deployment"), ("apps/v1", "StatefulSet"), ("apps/v1", "DaemonSet"), ("apps/v1", "ReplicaSet"),
        ("batch/v1", "Job"), ("v1", "ReplicationController"),
    ],
)  # fmt: skip
def test_the_template_of_each_kind_of_workload(tmp_path: Path, version: str, kind: str) -> None:
    given = workload(version, kind, {"replicas": 2, "template": TEMPLATE})
    (made,) = injected(yaml.safe_dump(given), *settings(tmp_path))
    assert made["spec"] == {"replicas": 2, "template": inject(TEMPLATE, SETTINGS, Owner("web"))}


def test_a_cron_job(tmp_path: Path) -> None:
    given = workload("batch/v1", "CronJob", {"jobTemplate": {"spec": {"template": TEMPLATE}}})
    (made,) = injected(yaml.safe_dump(given), *settings(tmp_path))
    wanted = inject(TEMPLATE, SETTINGS, Owner("web"))
    assert made["spec"] == {"jobTemplate": {"spec": {"template": wanted}}}


def test_a_pod_and_what_is_none(tmp_path: Path) -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "creationTimestamp": "2026-01-01"}}
    job = {"apiVersion": "other.example/v1", "kind": "Job", "metadata": {"name": "no-pod"}, "spec": {"template": 1}}
    made = injected(yaml.safe_dump_all([service, pod(), job]), *settings(tmp_path))
    assert made == [service, inject(pod(), SETTINGS), job]


def test_a_list_and_its_members(tmp_path: Path) -> None:
    made = injected(yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": [pod(), pod()]}), *settings(tmp_path))
    assert made == [inject(pod(), SETTINGS)] * 2


def test_a_list_of_one_kind(tmp_path: Path) -> None:
    """Its members do not say what they are."""
    pods = {"apiVersion": "v1", "kind": "PodList", "items": [{k: v for k, v in pod().items() if k == "spec"}]}
    pods["items"][0]["metadata"] = pod()["metadata"]  # type: ignore[index]
    jobs = {"apiVersion": "other.example/v1", "kind": "JobList", "items": [{"spec": {"template": 1}}]}
    made = injected(yaml.safe_dump_all([pods, jobs]), *settings(tmp_path))
    assert made == [inject(pod(), SETTINGS), {"apiVersion": "other.example/v1", "kind": "Job", **jobs["items"][0]}]  # type: ignore[index]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("12:30", "12:30"), ("22:22", "22:22"), ("1:02:03.5", "1:02:03.5"), ("=", "="), ("2026-01-01", "2026-01-01"),
        ("12e4567", "12e4567"), ("0o", "0o"), ("1.2.3", "1.2.3"), ("yEs", "yEs"),
        ("y", True), ("N", False), ("on", True), ("1e3", 1000.0), (".5", 0.5), ("08", 8.0), ("0o17", 15), ("-017", -15),
        ("0x1F", 31), ("0b11", 3), ("1_000", 1000), ("~", None), (".inf", math.inf), ("0", 0),
        *((f'"{text}"', text) for text in ("y", "N", "yes", "1e3", "5E-3", "12e4567", "0o7", "08", "12:30", "=", "~")),
    ],
)  # fmt: skip
def test_words_mean_what_they_mean_to_kubectl(written: str, meant: object) -> None:
    done = CliRunner().invoke(main, ["inject", "-f", "-"], input=f"kind: X\r\nspec:\r\n  a:\r\n  - {written} # so\r\n")
    assert done.exit_code == 0, done.stderr
    assert yaml.load(done.stdout, manifest_yaml.Loader) == {"kind": "X", "spec": {"a": [meant]}}
    if isinstance(meant, str):
        # A word that another reader takes for something else is quoted.
        assert yaml.safe_load(done.stdout) == {"kind": "X", "spec": {"a": [meant]}}


def test_who_is_left_without_is_told() -> None:
    given = pod(hostNetwork=True)
    done = CliRunner().invoke(main, ["inject", "-f", "-"], input=yaml.safe_dump(given))
    assert yaml.safe_load(done.stdout) == given
    assert done.stderr.startswith("no sidecar for Pod shop/web-0: it is in the node's network")


def test_what_is_wrong_is_said_with_its_document_and_field() -> None:
    wrong = {**TEMPLATE, "metadata": {"annotations": {"sidecar.istio.io/proxyCPU": "x"}}}
    text = yaml.safe_dump_all([pod(), workload("apps/v1", "Deployment", {"template": wrong})])
    line = text.splitlines().index("---") + 2
    done = CliRunner().invoke(main, ["inject", "-f", "-"], input=text)
    where = "Deployment shop/web: spec.template.metadata.annotations[sidecar.istio.io/proxyCPU]"
    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr == f"error: -:{line}:1: error: {where}: 'x' is not a quantity, as in 500m or 128Mi\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "not YAML"),
        ("- a\n", "-:1:1: error: a document must be a mapping"),
        ("kind: Deployment\napiVersion: apps/v1\n", "Deployment default/(no name): spec: expected a mapping"),
        ("kind: List\napiVersion: v1\nitems: [1]\n", "items[0]: expected a mapping"),
    ],
)
def test_files_that_cannot_be_read(text: str, said: str) -> None:
    done = CliRunner().invoke(main, ["inject", "-f", "-"], input=text)
    assert (done.exit_code, said in done.stderr) == (1, True), done.stderr


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("{}", "spec: 'image' is missing"),
        ("{image: 'a b'}", "'a b' is not the name of an image"),
        ("{image: a, control: nowhere}", "'nowhere' is not HOST:PORT"),
        ("{image: a, interceptionMode: EBPF}", "'EBPF' is not supported"),
        ("{image: a, resources: {requests: {cpu: lots}}}", "cpu: 'lots' is not a quantity"),
        ("{image: a, imge: b}", "unknown field 'imge'"),
    ],
)
def test_settings_that_cannot_be_used(tmp_path: Path, spec: str, said: str) -> None:
    file = tmp_path / "s.yaml"
    head = "apiVersion: install.pymesh.dev/v1alpha1\nkind: InjectionSettings\nmetadata: {name: x}\n"
    file.write_text(f"{head}spec: {spec}\n")
    done = CliRunner().invoke(main, ["inject", "-f", "-", "--settings", str(file)], input="")
    assert (done.exit_code, said in done.stderr, f"{file}:4:" in done.stderr) == (1, True, True), done.stderr
