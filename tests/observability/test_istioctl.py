"""Istio's own `istioctl proxy-config` on what our proxies' admin pages say: saved dumps, read with `-f`.

The columns of `pymesh proxy-config` follow istioctl's, so the two are held against each other row by row.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from pymesh.operate import dump
from tests.tools.peers import peer
from tests.tools.shop import Shop

#: A cluster that istioctl never asks, but wants to know of.
KUBECONFIG = """apiVersion: v1
kind: Config
clusters: [{name: none, cluster: {server: "http://127.0.0.1:9"}}]
contexts: [{name: none, context: {cluster: none}}]
current-context: none
"""
PROXIES = ("ingress.shop", "web.shop")


@pytest.fixture(scope="module", params=PROXIES)
def saved(request: pytest.FixtureRequest, shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages of a proxy, in files."""
    folder = tmp_path_factory.mktemp("dump")
    (folder / "dump.json").write_text(shop.page("/config_dump?include_eds", request.param))
    (folder / "clusters.json").write_text(shop.page("/clusters?format=json", request.param))
    (folder / "kubeconfig").write_text(KUBECONFIG)
    return folder


def istioctl(folder: Path, what: str, *words: str, file: str = "dump.json") -> str:
    argv = [peer("istioctl"), "proxy-config", what, "--file", str(folder / file), *words]
    env = {**os.environ, "KUBECONFIG": str(folder / "kubeconfig"), "HOME": str(folder)}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env=env, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def table(text: str, *columns: str) -> list[tuple[str, ...]]:
    """The rows of a table with these columns, which begin where their headings do."""
    heading, *lines = text.splitlines()
    begins = [heading.index(name) for name in columns]
    assert [one.strip() for one in _cut(heading, begins)] == list(columns), heading
    return [_cut(line, begins) for line in lines if line.strip()]


def _cut(line: str, begins: list[int]) -> tuple[str, ...]:
    return tuple(line[at:end].strip() for at, end in zip(begins, [*begins[1:], None], strict=True))


def ours(folder: Path) -> dump.Dump:
    return dump.parse((folder / "dump.json").read_bytes())


def test_clusters(saved: Path) -> None:
    columns = ("SERVICE FQDN", "PORT", "SUBSET", "DIRECTION", "TYPE", "DESTINATION RULE")
    rows = table(istioctl(saved, "clusters"), *columns)
    mine = [row for _, one in ours(saved).clusters for row in dump.cluster_rows(one)]
    assert len(rows) == len(mine) > 0
    assert {row[:5] for row in rows if row[3] == "outbound"} == {row for row in mine if row[3] == "outbound"}


def test_listeners(saved: Path) -> None:
    rows = table(istioctl(saved, "listeners"), "ADDRESSES", "PORT", "MATCH", "DESTINATION")
    mine = {row for _, one in ours(saved).listeners for row in dump.listener_rows(one)}
    assert {row[:2] for row in rows} == {row[:2] for row in mine}
    routes = {row[3] for row in rows if row[3].startswith("Route: ")}
    assert routes
    assert routes <= {row[3] for row in mine}


def test_routes(saved: Path) -> None:
    text = istioctl(saved, "routes")
    assert text.split("\n")[0].split()[:2] == ["NAME", "VHOST"]
    for _, one in ours(saved).routes:
        assert one["name"] in text
        for host in one["virtual_hosts"]:
            assert host["name"] in text


def test_endpoints(saved: Path) -> None:
    rows = table(istioctl(saved, "endpoints", file="clusters.json"), *dump.ENDPOINT_COLUMNS)
    statuses = json.loads((saved / "clusters.json").read_text())["cluster_statuses"]
    hosts = [
        (host["address"]["socket_address"]["address"], one["name"]) for one in statuses for host in one["host_statuses"]
    ]
    assert len(rows) == len(hosts) > 0
    assert {(row[1], row[2]) for row in rows} == {("HEALTHY", "OK")}
    assert {row[3] for row in rows} == {name for _, name in hosts}


def test_secrets(saved: Path) -> None:
    columns = ("RESOURCE NAME", "TYPE", "STATUS", "VALID CERT", "SERIAL NUMBER", "NOT AFTER", "NOT BEFORE")
    rows = table(istioctl(saved, "secrets"), *columns)
    found = {row[0]: row for row in rows}
    assert found["default"][1:4] == ("Cert Chain", "ACTIVE", "true")
    assert found["ROOTCA"][1:4] == ("CA", "ACTIVE", "true")


def test_bootstrap(saved: Path) -> None:
    # As JSON it would have to write a message of ours, which it reads as one that it does not know.
    shown = istioctl(saved, "bootstrap", "-o", "short")
    assert "Version" in shown
    assert "[redacted]" not in shown


def test_everything(saved: Path) -> None:
    text = istioctl(saved, "all")
    for part in ("SERVICE FQDN", "ADDRESSES", "VHOST NAME", "RESOURCE NAME"):
        assert part in text
    # A listener with a Python filter has a message of ours, which istioctl reads, and cannot write.
    has_own = "pymesh.filters" in json.dumps([one for _, one in ours(saved).listeners])
    for kind in ("clusters", *(() if has_own else ("listeners",)), "routes", "secrets"):
        messages = json.loads(istioctl(saved, kind, "-o", "json"))
        assert messages
        assert yaml.safe_load(istioctl(saved, kind, "-o", "yaml")) == messages
    assert "PRIVATE KEY" not in istioctl(saved, "all", "-o", "json")
