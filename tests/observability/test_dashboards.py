"""Our dashboards and alerts: out of the package, in Grafana's form, answered by Prometheus, firing when they should."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from pymesh import dashboards
from pymesh.cli.main import main
from tests.observability import grafana
from tests.observability.prometheus import Prometheus
from tests.observability.shop import CHOSEN
from tests.proxy.running import eventually
from tests.tools.peers import peer

OURS = [name for name in dashboards.names() if name != dashboards.ALERTS]

#: What a mesh without failures and collectors has no series of: panels that show trouble.
QUIET = re.compile(
    r'response_flags!="-"|_spans_|_open_telemetry_|pilot_total_xds_rejects|pilot_xds_refused_streams|convergence_time|"5\.\.|_bytes_bucket'
)
_METRIC = re.compile(r"\b(?:istio|envoy|pymesh|pilot|citadel|process)_[a-z0-9_]+")
#: Labels that look like metrics.
_LABELS = {"envoy_cluster_name", "envoy_tls_certificate", "pymesh_filter_name"}


def _dashboard(name: str) -> grafana.Json:
    found: grafana.Json = json.loads(dashboards.text(name))
    return found


@pytest.mark.parametrize("name", OURS)
def test_every_query_is_answered(name: str, prometheus: Prometheus) -> None:
    ours = _dashboard(name)
    known = {protocol: grafana.values(ours, prometheus, chosen) for protocol, chosen in CHOSEN.items()}
    silent = []
    for panel in grafana.panels(ours):
        protocol = "tcp" if "istio_tcp_" in panel.expression else "http"
        found = prometheus.query(grafana.filled(panel.expression, known[protocol]))
        if not found and not QUIET.search(panel.expression):
            silent.append(str(panel))
        for labels, value in found:
            assert grafana.labels_of(panel.legend) <= labels.keys(), panel
            assert value >= 0, panel
    assert not silent, "\n".join(silent)


@pytest.mark.parametrize("name", OURS)
def test_a_dashboard_is_one_for_grafana(name: str) -> None:
    ours = _dashboard(name)
    assert ours["uid"] == f"pymesh-{name.removesuffix('.json')}"
    ids = [panel["id"] for panel in ours["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in ours["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, f"{panel['title']} lies on another"
        assert place["x"] + place["w"] <= 24
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert panel["title"]
            assert panel["targets"]


def test_promtool_takes_the_alert_rules(rules: Path) -> None:
    done = subprocess.run(
        [peer("promtool"), "check", "rules", "--lint=all", "--lint-fatal", str(rules)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_fire_when_they_should(rules: Path) -> None:
    """Series that are written down, by Prometheus's own test of rules: for each alert when it fires and when not."""
    text = (Path(__file__).parent / "alerts_test.yaml").read_text()
    tests = yaml.safe_load(text)
    alerts = {rule["alert"] for group in yaml.safe_load(rules.read_text())["groups"] for rule in group["rules"]}
    assert set(re.findall(r'alertname="(\w+)"', text)) == alerts
    file = rules.parent / "alerts_test.yaml"
    file.write_text(yaml.safe_dump({**tests, "rule_files": [str(rules)]}))
    done = subprocess.run([peer("promtool"), "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_are_about_metrics_that_a_mesh_has(prometheus: Prometheus) -> None:
    def judged() -> list[str]:
        groups = prometheus.api("rules")["groups"]
        return [rule["health"] for group in groups for rule in group["rules"]]

    assert eventually(lambda: set(judged()) == {"ok"}, 20), prometheus.api("rules")
    there = prometheus.names()
    for group in prometheus.api("rules")["groups"]:
        for rule in group["rules"]:
            # Of what has not happened yet there is no series; one of its kind has to be there.
            asked = {name for name in _METRIC.findall(rule["query"]) if name not in _LABELS and not QUIET.search(name)}
            assert asked <= there, f"{rule['name']}: {asked - there}"
            assert rule["state"] == "inactive", rule


def test_they_come_out_of_the_package(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["dashboards", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == dashboards.names()
    for name in dashboards.names():
        shown = CliRunner().invoke(main, ["dashboards", "--show", name])
        assert shown.output == (tmp_path / "out" / name).read_text() == dashboards.text(name)
    assert CliRunner().invoke(main, ["dashboards"]).output.split() == dashboards.names()
    unknown = CliRunner().invoke(main, ["dashboards", "--show", "servise.json"])
    assert unknown.exit_code == 1
    assert "hint: did you mean 'service.json'?" in unknown.output
    (tmp_path / "file").write_text("")
    refused = CliRunner().invoke(main, ["dashboards", str(tmp_path / "file" / "x")])
    assert (refused.exit_code, "Not a directory" in refused.output) == (1, True), refused.output
