"""The Helm chart: made from the objects of `pymesh install`, and rendered by Helm the same as they are."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner

from pymesh.cli.main import main
from pymesh.control.install import chart
from pymesh.control.install.objects import objects
from pymesh.control.install.values import Values
from tests.tools.peers import peer

CHART = Path(__file__).resolve().parents[2] / "deploy" / "chart" / "pymesh"
Json = dict[str, Any]


def rendered(folder: Path, namespace: str, values: Json) -> dict[tuple[str, str], Json]:
    """What Helm makes of the chart."""
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    argv = [peer("helm-template"), str(CHART), namespace, str(file)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return by_name([one for one in yaml.safe_load_all(done.stdout) if one])


def by_name(found: list[Json]) -> dict[tuple[str, str], Json]:
    return {(one["kind"], one["metadata"]["name"]): one for one in found}


def without_namespace(found: list[Json]) -> dict[tuple[str, str], Json]:
    """Helm makes the namespace itself (`--create-namespace`)."""
    return by_name([one for one in found if one["kind"] != "Namespace"])


def test_the_chart_is_the_one_that_the_objects_make() -> None:
    wanted = chart.files()
    found = {str(path.relative_to(CHART)): path.read_text() for path in CHART.rglob("*") if path.is_file()}
    assert found == wanted, "python -m pymesh.control.install.chart deploy/chart/pymesh makes it anew"


def test_its_defaults_are_what_install_applies(tmp_path: Path) -> None:
    assert rendered(tmp_path, "istio-system", {}) == without_namespace(objects(Values()))


def test_every_value_is_where_install_has_it(tmp_path: Path) -> None:
    values = Values(
        namespace="mesh",
        image="registry.example:5000/pymesh@sha256:0a",
        image_pull_policy="Always",
        trust_domain="corp.example",
        cluster_id="on",
        gateway_replicas=3,
        gateway_service_type="NodePort",
        storage_class="fast",
        injection_failure_policy="Ignore",
        validation_failure_policy="Fail",
    )
    given = {
        "image": values.image,
        "imagePullPolicy": "Always",
        "trustDomain": "corp.example",
        "clusterId": "on",
        "storageClass": "fast",
        "injectionFailurePolicy": "Ignore",
        "validationFailurePolicy": "Fail",
        "gateway": {"replicas": 3, "serviceType": "NodePort"},
    }
    found, wanted = rendered(tmp_path, "mesh", given), without_namespace(objects(values))
    # In a document within a document YAML's types are the reader's business: it is read as a whole.
    settings = ("ConfigMap", "pymesh-injection")
    told, said = (yaml.safe_load(one.pop(settings)["data"]["settings.yaml"]) for one in (found, wanted))
    assert {**told["spec"], "clusterId": "on"} == said["spec"]
    assert found == wanted


def test_without_a_gateway_there_is_none(tmp_path: Path) -> None:
    assert rendered(tmp_path, "istio-system", {"gateway": {"enabled": False}}) == without_namespace(
        objects(Values(gateway=False))
    )


def test_dry_run_prints_them_all() -> None:
    done = CliRunner().invoke(main, ["install", "--dry-run", "--image", "pymesh:9"])
    assert done.exit_code == 0
    assert list(yaml.safe_load_all(done.stdout)) == objects(Values(image="pymesh:9"))
