"""Our kinds as the API server knows them: it judges as the control plane does, object by object."""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.load import load_text
from tests.kubernetes.cluster import ApiRefused, Cluster
from tests.kubernetes.crds import OWN

Json = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]

#: Good ones, with most of what can be said.
GOOD: dict[str, list[Json]] = {
    "PythonFilter": [
        {"class": "greeter:Greeter", "selector": {"matchLabels": {"app": "web"}}, "config": {"a": [1, {"b": None}]}},
        {
            "class": "a.b:C",
            "targetRefs": [{"kind": "Gateway", "group": "gateway.networking.k8s.io", "name": "edge"}],
            "source": "class C: pass\n",
            "failurePolicy": "OPEN",
            "timeout": "1m30s",
            "phase": "AUTHN",
            "priority": -7,
            "match": [{"mode": "CLIENT", "ports": [{"number": 8080}]}],
        },
    ],
    "HealthCheckPolicy": [
        {
            "targetRefs": [{"kind": "Service", "name": "web", "sectionName": "http"}],
            "interval": "5s",
            "timeout": "500ms",
            "http": {"path": "/healthz", "method": "HEAD", "expectedStatuses": [200, 204], "headers": {"x-a": "b"}},
        },
        {
            "targetRefs": [{"kind": "Hostname", "group": "networking.istio.io", "name": "db.example.com"}],
            "tcp": {"send": "ping", "receive": ["pong"]},
            "intervalJitterPercent": 10,
            "unhealthyThreshold": 5,
        },
        {"targetRefs": [{"kind": "Service", "name": "web"}], "grpc": {"serviceName": "shop"}},
    ],
    "LocalRateLimit": [
        {"selector": {"matchLabels": {"app": "web"}}, "total": {"requests": 10, "per": "1s", "burst": 20}},
        {
            "targetRefs": [{"kind": "Service", "name": "web"}],
            "rules": [
                {"limit": {"requests": 3}, "each": "Header", "header": "x-user"},
                {"limit": {"requests": 1, "per": "1m"}, "headers": {"x-plan": {"exact": "free"}, "x-any": {}}},
            ],
            "status": 503,
            "enforce": False,
            "perConnection": True,
        },
    ],
}
#: What is put in place of something, or beside it.
_OTHERS: list[Any] = [
    "", "x", "web", "1us", "0", "10s", "5", "GET", "Header", "Service", "networking.istio.io", "/x", "CLOSED",
    0, 1, -1, 5, 99, 429, 600, 70_000, 2**33, True, False, 1.5, [], {}, ["a"], {"a": "b"}, {"a": {}}, [{}],
]  # fmt: skip


def document(kind: str, spec: Any) -> Json:
    metadata = {"name": "one", "namespace": "default"}
    return {"apiVersion": "extensions.pymesh.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


def server_says(cluster: Cluster, one: Json) -> str:
    """Why the API server does not take it; empty if it does."""
    try:
        cluster.apply([one], dry_run=True)
    except ApiRefused as error:
        if error.code not in (400, 422, 500):
            raise
        return error.message
    return ""


def we_say(one: Json) -> str:
    report = Report()
    load_text("one.json", json.dumps(one), report)
    return "\n".join(str(found) for found in report.diagnostics if found.severity == "error")


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in inner:
        yield from places(one, (*path, name))


def changed(spec: Json, chance: random.Random) -> Json:
    """The spec with one thing other than it was."""
    made = copy.deepcopy(spec)
    path = chance.choice([one for one in places(made) if "config" not in one[:1]])
    holder: Any = made
    for step in path[:-1]:
        holder = holder[step]
    match chance.choice(["drop", "replace", "replace", "rename"]):
        case "drop":
            del holder[path[-1]]
        case "rename" if isinstance(holder, dict):
            holder[f"{path[-1]}s"] = holder.pop(path[-1])
        case _:
            holder[path[-1]] = copy.deepcopy(chance.choice(_OTHERS))
    return made


def test_good_ones_are_taken_by_both(mesh_apis: Cluster) -> None:
    for kind, specs in GOOD.items():
        for spec in specs:
            assert (server_says(mesh_apis, document(kind, spec)), we_say(document(kind, spec))) == ("", "")


def test_both_judge_alike(mesh_apis: Cluster) -> None:
    rounds = 1500 if os.environ.get("PYMESH_KUBERNETES_WHOLE") else 150
    chance = random.Random(1)
    refused = 0
    for _ in range(rounds):
        kind = chance.choice(sorted(GOOD))
        one = document(kind, changed(chance.choice(GOOD[kind]), chance))
        server, ours = server_says(mesh_apis, one), we_say(one)
        if (
            ours
            and not server
            and all("the filter's source" in line for line in ours.splitlines() if ": error: " in line)
        ):
            continue  # no schema reads Python
        assert bool(server) == bool(ours), f"{one['spec']}\nserver: {server}\nwe: {ours}"
        refused += bool(ours)
    assert rounds / 4 < refused < rounds


@pytest.mark.parametrize(
    ("kind", "spec", "said"),
    [
        ("PythonFilter", {"class": "a:B"}, "exactly one of 'selector' and 'targetRefs' is needed"),
        ("PythonFilter", {"class": "a", "selector": {"matchLabels": {}}}, "spec.class"),
        (
            "PythonFilter",
            {"class": "a:B", "selector": {"matchLabels": {}}, "file": "a.py"},
            "files cannot be read here",
        ),
        ("HealthCheckPolicy", {"targetRefs": [{"kind": "Service", "name": "a"}]}, "exactly one of 'http', 'tcp'"),
        ("HealthCheckPolicy", {"targetRefs": [], "grpc": {}}, "spec.targetRefs"),
        (
            "HealthCheckPolicy",
            {"targetRefs": [{"kind": "Hostname", "name": "a"}], "grpc": {}},
            "a Hostname in group 'networking.istio.io'",
        ),
        ("LocalRateLimit", {"selector": {"matchLabels": {}}}, "a rate limit needs 'total' or 'rules'"),
        (
            "LocalRateLimit",
            {"selector": {"matchLabels": {}}, "total": {"requests": 1, "per": "10ms"}},
            "an interval is at least 50ms; hint: for the same rate raise 'requests' as well",
        ),
        (
            "LocalRateLimit",
            {"selector": {"matchLabels": {}}, "rules": [{"limit": {"requests": 1}, "each": "Header"}]},
            "'header' names the header of 'each: Header'; hint: set both or none",
        ),
    ],
)
def test_what_is_wrong_is_said_in_our_words(mesh_apis: Cluster, kind: str, spec: Json, said: str) -> None:
    assert said in server_says(mesh_apis, document(kind, spec))


def test_status_is_written_beside_the_spec(mesh_apis: Cluster, namespace: str) -> None:
    for kind, specs in GOOD.items():
        one = document(kind, specs[0])
        one["metadata"]["namespace"] = namespace
        (made,) = mesh_apis.apply([one])
        condition = {
            "type": "Accepted",
            "status": "True",
            "reason": "Accepted",
            "message": "",
            "observedGeneration": made["metadata"]["generation"],
            "lastTransitionTime": "2026-01-31T12:00:00Z",
        }
        status = {"observedGeneration": 1, "conditions": [condition]}
        told = mesh_apis.status(one["apiVersion"], kind, "one", namespace, status)
        assert told["status"] == status
        assert told["metadata"]["generation"] == made["metadata"]["generation"]


def test_the_definitions_are_all_ours_and_established(mesh_apis: Cluster) -> None:
    for name in OWN:
        mesh_apis.wait_established(name)
    assert len(OWN) == len(GOOD)


def test_the_examples_are_taken(mesh_apis: Cluster) -> None:
    found = 0
    for file in sorted((ROOT / "examples" / "shop").rglob("*.yaml")):
        for one in yaml.safe_load_all(file.read_text()):
            if isinstance(one, dict) and str(one.get("apiVersion", "")).startswith("extensions.pymesh.dev"):
                name = one["spec"].pop("file", "")
                if name:
                    one["spec"]["source"] = (file.parent / name).read_text()
                one["metadata"]["namespace"] = "default"
                assert server_says(mesh_apis, one) == "", file
                found += 1
    assert found > 2
