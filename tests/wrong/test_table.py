"""Every kind of resource, wrong in every way: what is said of it, in the same words by everybody, and that nothing else
suffers. In a cluster: tests/kubernetes/test_wrong_table.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import pytest
import yaml

from pymesh.control.admission import among, validating
from pymesh.control.admission.review import Asked
from pymesh.control.install import webhooks
from pymesh.control.install.values import Values
from pymesh.control.resources.closed import closed
from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.gateway_api import KubeGateway
from pymesh.control.resources.metadata import Resource
from pymesh.control.resources.objects import load_object, place
from pymesh.control.sources.kubernetes import status as statuses
from pymesh.control.sources.kubernetes.kinds import plural
from pymesh.control.sources.stored import StoredMesh
from pymesh.control.status import events
from pymesh.control.status.objects import Object as Told
from pymesh.control.store.store import MeshOptions
from pymesh.control.store.usable import assemble_usable
from pymesh.operate.findings import findings
from tests.kubernetes.meshes import Configuration, Described, configuration
from tests.wrong.rows import CLOSING, FAULTS, MESH, NAMESPACE, ROUTES, Row, kinds, mesh, rows

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
ROWS = rows()
#: What cannot be wrong, and why.
CANNOT_BE = {
    ("Pod", "unknown field"): "it is for the kubelet: the few fields that say where it is are read",
    ("Pod", "missing reference"): "a Pod may be there before its Node is seen",
    ("Node", "unknown field"): "it is for others: its labels are read",
    ("Node", "missing reference"): "it names nothing",
    ("Namespace", "unknown field"): "it is for others: its labels are read",
    ("Namespace", "missing reference"): "it names nothing",
    ("Secret", "missing reference"): "it names nothing",
    ("WorkloadEntry", "missing reference"): "a service account is nobody's object but Kubernetes'",
    ("ReferenceGrant", "missing reference"): "it may come before those to whom it grants something",
}


def _title(row: Row) -> str:
    return f"{row.kind}-{row.fault}-{row.at or 'whole'}"


def _captured(app: str) -> Described:
    metadata = {"INTERCEPTION_MODE": "REDIRECT", "LABELS": {"app": app}, "NAMESPACE": NAMESPACE}
    return Described(f"sidecar~10.1.0.9~{app}-1.{NAMESPACE}~x", metadata)


CART, GUARDED = _captured("cart"), _captured("guarded")
EDGE = Described(
    f"router~10.1.0.8~edge-1.{NAMESPACE}~x",
    {"LABELS": {KubeGateway.PROXY_LABEL: "edge", "app": "edge"}, "NAMESPACE": NAMESPACE},
)
PROXIES = (CART, GUARDED, EDGE)


class _Mesh(StoredMesh):
    """What a cluster with these resources puts in force."""

    def __init__(self, resources: Sequence[Resource], instead: Resource | None) -> None:
        super().__init__()
        report, others = Report(), iter([instead] if instead is not None else [])
        store, used = assemble_usable(resources, MeshOptions(), report, lambda _: next(others, None))
        self.found = report.diagnostics
        self.in_force = {one.at.file: one for one in used}
        self._use(store, used)


@cache
def _alone() -> Configuration:
    return configuration(_Mesh(mesh(), None), PROXIES)


@cache
def _in_a_cluster(row: Row) -> tuple[_Mesh, Told]:
    """The mesh with the wrong object in it, and that object with what was found about it."""
    document, report = row.document(), Report()
    made, instead = load_object(document, report), closed(document)
    used = made or instead
    found = _Mesh([*mesh(), *([used] if used is not None else [])], instead)
    own = {*report.diagnostics, *(one for one in found.found if one.at.file == place(document))}
    return found, Told(row.version, row.name, document, made, tuple(sorted(own)), found.in_force.get(place(document)))


@pytest.mark.parametrize("row", ROWS, ids=_title)
def test_the_control_plane_finds_it_and_nothing_else(row: Row) -> None:
    found, told = _in_a_cluster(row)
    shown = [
        f"{one.severity}: {one.at}: {one.message}" + f"; hint: {one.hint}" * bool(one.hint) for one in told.findings
    ]
    if row.by != "analysis":
        assert shown == [f"{row.severity}: {row.line}"]
    else:
        assert shown == []
    assert [one for one in found.found if one.at.file != place(told.document)] == []


@pytest.mark.parametrize("row", [one for one in ROWS if one.severity == "error" and not one.partial], ids=_title)
def test_the_rest_of_the_mesh_is_as_it_was(row: Row) -> None:
    found, _ = _in_a_cluster(row)
    now = configuration(found, PROXIES)
    for proxy in (CART, EDGE):
        assert now[proxy.id] == _alone()[proxy.id]
    # For whom it was, a door that cannot be read is shut.
    assert (now[GUARDED.id] == _alone()[GUARDED.id]) is (row.name not in CLOSING)


@pytest.mark.parametrize("row", [one for one in ROWS if one.partial], ids=_title)
def test_who_refers_to_what_is_not_there_is_in_force(row: Row) -> None:
    found, _ = _in_a_cluster(row)
    now = configuration(found, PROXIES)
    assert any(now[proxy.id] != _alone()[proxy.id] for proxy in PROXIES)


@pytest.mark.parametrize("row", [one for one in ROWS if one.is_found_in_a_cluster], ids=_title)
def test_its_status_and_an_event_say_so(row: Row) -> None:
    found, told = _in_a_cluster(row)
    parents = [Told(one.version, one.kind, one.document, one.resource) for one in _gateways()]
    state = statuses.State(found.store, [*parents, told])
    status = next((status for one, status in statuses.wanted(state, {}, NOW) if one is told), {})
    said = status.get("conditions") or [c for parent in status.get("parents", ()) for c in parent["conditions"]]
    assert [(f"{c['type']}={c['status']} {c['reason']}", c["message"]) for c in said] == row.expected_conditions()
    event = events.refusal(told, "control-1", NOW)
    if row.severity == "error":
        assert event is not None
        assert (event["type"], event["reason"], event["note"]) == ("Warning", row.event, row.line)
        assert event["regarding"]["kind"] == row.name
    else:
        assert event is None, "it is in force"


def _gateways() -> list[Told]:
    documents = [one for one in yaml.safe_load_all(MESH) if one["kind"] == "Gateway"]
    return [Told(one["apiVersion"], one["kind"], one, load_object(one, Report())) for one in documents]


def _is_shown_to_the_webhook(row: Row) -> bool:
    (webhook,) = webhooks.validating("pymesh", Values(image="pymesh"))["webhooks"]
    return any(
        row.group in rule["apiGroups"] and ("*" in rule["resources"] or plural(row.name) in rule["resources"])
        for rule in webhook["rules"]
    )


def test_the_webhook_is_shown_whatever_configures_the_mesh() -> None:
    unseen = {row.name for row in ROWS if not _is_shown_to_the_webhook(row)}
    # Kubernetes' own have no say in it: nobody's Pod waits for us.
    assert unseen == {"ConfigMap", "EndpointSlice", "Namespace", "Node", "Pod", "Secret", "Service"}


@pytest.mark.parametrize("row", [one for one in ROWS if _is_shown_to_the_webhook(one)], ids=_title)
def test_the_webhook_says_it(row: Row) -> None:
    document, resources = row.document(), mesh()
    asked = Asked("1", row.name, row.group, "CREATE", NAMESPACE, "wrong", document)
    answer = validating.answer(asked, lambda new: among.findings(new, resources, MeshOptions()))
    hint = row.hint if row.webhook_hint is None else row.webhook_hint
    # A finding of analysis is about the mesh, and its field is the analysis' to choose.
    place = row.place if row.by == "store" else row.place + row.at
    text = f"[{row.told_code}] {row.message}" + (f"; hint: {hint}" if hint else "")
    by_itself = load_object(document, Report()) is None
    said = answer.refusal if by_itself else "\n".join(answer.warnings)
    assert said.startswith(place)
    assert said.endswith(f": {text}")
    assert said.count("\n") == 0
    assert bool(answer.refusal) is by_itself


@pytest.mark.parametrize("row", ROWS, ids=_title)
def test_analyze_says_it_at_its_line(row: Row, tmp_path: Path) -> None:
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "good.yaml").write_text(MESH)
    (folder / "wrong.yaml").write_text(yaml.safe_dump(row.document()))
    (found,) = findings([folder])
    assert (found.severity, found.code, found.message, found.hint) == (
        row.severity,
        row.told_code,
        row.message,
        row.hint,
    )
    assert found.at.file == str(folder / "wrong.yaml")
    assert found.at.line > 0


@pytest.mark.parametrize("kind", kinds())
def test_every_kind_is_here_with_every_fault(kind: str) -> None:
    """A kind that is added to the mesh, or refused by name, has its rows."""
    faults = [row.fault for row in ROWS if row.kind == kind]
    if all(fault == "not supported" for fault in faults):
        assert faults, "refused by name"
        return
    for fault in FAULTS:
        assert (fault in faults) is not ((kind, fault) in CANNOT_BE), fault


def test_no_row_is_for_a_kind_that_there_is_not() -> None:
    assert {row.kind for row in ROWS} == set(kinds())
    assert {row.fault for row in ROWS} == {*FAULTS, "not supported"}
    assert {kind for kind, _ in CANNOT_BE} <= set(kinds())
    assert set(ROUTES) <= {row.kind for row in ROWS}
