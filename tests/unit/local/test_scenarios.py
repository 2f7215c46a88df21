"""Scenarios: answers judged, resources laid over the mesh's, and README's table of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pymesh.local import judge, overlay, scenario
from pymesh.local.errors import LocalMeshError
from pymesh.local.http import Answer
from pymesh.local.judge import Received
from pymesh.local.scenario import Expectation

ROOT = Path(__file__).resolve().parents[3]
SHOP = ROOT / "examples" / "shop"


def test_readme_lists_every_scenario_with_what_it_shows() -> None:
    rows = [line.split("|") for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| ")]
    listed = {row[3].strip().strip("`"): row[1].strip() for row in rows if len(row) == 6}
    for file in sorted((SHOP / "scenarios").glob("*.yaml")):
        assert listed.get(file.stem) == scenario.read(file).spec.shows, file.stem


def answers(*values: str | None, status: int = 200) -> list[Received]:
    return [
        Received(None, failure="gone")
        if value is None
        else Received(Answer(status, {}, json.dumps({"v": value}).encode()))
        for value in values
    ]


def expectation(**fields: object) -> Expectation:
    names = {"equals": "is", "at_least": "atLeast", "at_most": "atMost"}
    return Expectation(**fields, where={names.get(name, name): Expectation().at for name in fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wanted", "received", "holds"),
    [
        (expectation(status=200), answers("a", "b"), True),
        (expectation(status=200), answers("a", None), False),
        (expectation(status=0), answers(None), True),
        (expectation(json="v", equals="a"), answers("a", "a"), True),
        (expectation(json="v", equals="a"), answers("a", "b"), False),
        (expectation(json="w", absent=True), answers("a"), True),
        (expectation(json="v", equals="a", share="50%"), answers(*"ab" * 50), True),
        (expectation(json="v", equals="a", share="90%"), answers(*"ab" * 50), False),
        (expectation(json="v", equals="a", share="100%"), answers(*"aaaaab"), False),
        (expectation(json="v", equals="a", at_least="50%"), answers(*"ab"), True),
        (expectation(json="v", equals="a", at_most="49%"), answers(*"ab"), False),
        (expectation(json="v", distinct=2), answers(*"aab"), True),
        (expectation(json="v", distinct=1), answers(*"aab"), False),
        (expectation(json="v", matches="^[ab]$"), answers(*"aab"), True),
    ],
)
def test_answers_are_judged(wanted: Expectation, received: list[Received], holds: bool) -> None:
    assert judge.of_answers(wanted, received).holds is holds


def test_counts_are_judged() -> None:
    assert judge.of_count(expectation(stat="x", of="web", equals=0), 0).holds
    assert not judge.of_count(expectation(stat="x", of="web", at_least=1), 0).holds
    assert not judge.of_count(expectation(stat="x", of="web", at_most=1), 2).holds


def test_a_resource_may_name_the_port_of_an_app(tmp_path: Path) -> None:
    folder = tmp_path / "config"
    folder.mkdir()
    laid = overlay.Overlay([folder], tmp_path / "kept", lambda port: port, {"partner.http": 20123})
    entry = {"kind": "ServiceEntry", "metadata": {"name": "a"}, "spec": {"ports": {"http": "$(partner.http)"}}}
    laid.apply([entry], "shop")
    assert "http: 20123" in (folder / "scenario.yaml").read_text()
    with pytest.raises(LocalMeshError, match=r"no app listens on '\$\(nobody.http\)'"):
        laid.apply([{"kind": "Service", "metadata": {"name": "b"}, "spec": "$(nobody.http)"}], "shop")


def test_an_overlay_takes_the_place_of_namesakes_and_goes_again(tmp_path: Path) -> None:
    folder = tmp_path / "config"
    folder.mkdir()
    original = "---\n".join(f"kind: Service\nmetadata: {{name: {name}, namespace: shop}}\n" for name in "ab")
    (folder / "services.yaml").write_text(original)
    laid = overlay.Overlay([folder], tmp_path / "kept", lambda port: port + 1)
    gateway = {"kind": "Gateway", "metadata": {"name": "g"}, "spec": {"servers": [{"port": {"number": 80}}]}}
    rules = [{"match": [{"port": 80}, {"uri": {"exact": "/"}}]}]
    at_gateway = {"kind": "VirtualService", "metadata": {"name": "v"}, "spec": {"gateways": ["g"], "tcp": rules}}
    inside = {"kind": "VirtualService", "metadata": {"name": "w"}, "spec": {"gateways": ["mesh"], "tls": rules}}
    laid.apply(
        [{"kind": "Service", "metadata": {"name": "a"}, "spec": {"new": True}}, gateway, at_gateway, inside], "shop"
    )
    assert "name: a" not in (folder / "services.yaml").read_text()
    added = (folder / "scenario.yaml").read_text()
    assert "new: true" in added
    assert "number: 81" in added
    assert re.findall(r"- port: (\d+)", added) == ["81", "80"]
    laid.remove(["Service/b"], "shop")
    assert "name: b" not in (folder / "services.yaml").read_text()
    laid.restore()
    assert (folder / "services.yaml").read_text() == original
    assert not (folder / "scenario.yaml").exists()
