"""Scenario files: read or refused with every error; answers judged; and README's table of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pymesh.local import judge, overlay, scenario
from pymesh.local.errors import LocalMeshError
from pymesh.local.http import Answer
from pymesh.local.judge import Received
from pymesh.local.scenario import Expectation, ScenarioError

ROOT = Path(__file__).resolve().parents[3]
SHOP = ROOT / "examples" / "shop"

HEAD = "apiVersion: local.pymesh.dev/v1alpha1\nkind: Scenario\nmetadata: {name: one}\nspec:\n  shows: x\n  steps:\n"


def test_readme_lists_every_scenario_with_what_it_shows() -> None:
    rows = [line.split("|") for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| ")]
    listed = {row[3].strip().strip("`"): row[1].strip() for row in rows if len(row) == 6}
    for file in sorted((SHOP / "scenarios").glob("*.yaml")):
        assert listed.get(file.stem) == scenario.read(file).spec.shows, file.stem


@pytest.mark.parametrize(
    ("step", "place", "message"),
    [
        ("title: a\n      sned: {}", "8:7", "unknown field 'sned' (did you mean 'send'?)"),
        ("title: a\n      send: {to: reviews}", "8:18", "'from' and 'to' go together (from: web, to: reviews)"),
        ("title: a\n      send: {from: web, to: '*'}", "8:29", "nothing says which host is meant (add it: headers:"),
        ("title: a\n      send: {protocol: SMTP}", "8:24", "'SMTP' is not supported"),
        ("title: a\n      send: {protocol: TCP, path: /a}", "8:35", "'path' has no meaning for TCP (leave it out)"),
        (
            "title: a\n      send: {protocol: GRPC, method: PUT, path: /a.B/C}",
            "8:38",
            "'method' has no meaning for GRPC",
        ),
        ("title: a\n      send: {protocol: GRPC, path: /a}", "8:36", "'/a' is no method of gRPC (write it as in"),
        (
            "title: a\n      send: {protocol: WebSocket, cookies: true}",
            "8:44",
            "'cookies' has no meaning for WebSocket",
        ),
        ("title: a\n      send: {path: x}", "8:20", "'x' is not a path (it starts with '/')"),
        ("title: a\n      expect: [{status: 200}]", "8:15", "answers are expected, but nothing is sent (add 'send')"),
        (
            "title: a\n      expect: [{stat: x, is: 1}]",
            "8:16",
            "'stat', 'metric' and 'log' need the proxy that is meant",
        ),
        ("title: a\n      expect: [{stat: x, of: web}]", "8:16", "a number is missing"),
        ("title: a\n      send: {}\n      expect: [{json: x, share: 0.8}]", "9:33", "share: expected a string"),
        ("title: a\n      send: {}\n      expect: [{json: x, share: '0.8'}]", "9:33", "'0.8' is no share"),
        ("title: a\n      send: {}\n      expect: [{header: x, matches: '('}]", "9:37", "is not a regular expression"),
        ("title: a\n      send: {}\n      expect: [{header: x, body: y}]", "9:34", "exclude each other"),
        ("title: a\n      processes: {web: burn}", "8:24", "web: 'burn' is not supported"),
    ],
)
def test_every_error_is_told_with_its_place(tmp_path: Path, step: str, place: str, message: str) -> None:
    file = tmp_path / "one.yaml"
    file.write_text(f"{HEAD}    - {step}\n")
    with pytest.raises(ScenarioError) as caught:
        scenario.read(file)
    text = str(caught.value).replace("; hint: ", " (").replace("hint: ", "(")
    assert f"{file}:{place}:" in text, text
    assert message.split(" (")[0] in text, text


def test_a_scenario_has_the_name_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "two.yaml"
    file.write_text(f"{HEAD}    - title: a\n")
    with pytest.raises(ScenarioError, match="'one' is not the name of its file"):
        scenario.read(file)


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
