"""A mesh whose files are broken while it runs: what was good stays in force and everything wrong is told."""

from __future__ import annotations

import json
import re
import signal
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.proxy import bootstrap
from tests.proxy.running import eventually, ours, pymesh
from tests.tools.ports import free_ports
from tests.tools.processes import Running, running
from tests.tools.traffic import get, traffic
from tests.tools.wire.origin import Origin, origin

PATIENCE = 20.0
SERVICES = """\
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec:
  selector: {{app: {name}}}
  ports: [{{name: http, port: 80, targetPort: http}}]
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: {name}-1, namespace: shop}}
spec: {{address: 127.0.0.1, ports: {{http: {port}}}, labels: {{app: {name}}}}}
"""
GATEWAY = """\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: ingress, namespace: shop}}
spec:
  selector: {{istio: ingressgateway}}
  servers: [{{port: {{number: {port}, name: http, protocol: HTTP}}, bind: 127.0.0.1, hosts: ["*"]}}]
"""
ROUTES = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: web, namespace: shop}}
spec:
  hosts: ["*"]
  gateways: [ingress]
  http:
    - timeout: 10s
      route: [{{destination: {{host: {host}}}}}]
"""


class Control:
    """A control plane as a process; `kill` and `start` as often as needed, always on the same ports."""

    def __init__(self, folder: Path) -> None:
        self.config, self._state = folder / "config", folder / "state"
        self.config.mkdir()
        self.port, self.admin = free_ports(2)

    @contextmanager
    def running(self) -> Iterator[Running]:
        words = [*pymesh(), "control", "--config", str(self.config), "--state", str(self._state), "--insecure-xds"]
        words += ["--listen", f"127.0.0.1:{self.port}", "--admin", f"127.0.0.1:{self.admin}"]
        with running(words, title="control", ports=[self.port, self.admin]) as process:
            yield process

    def page(self, name: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/debug/{name}", timeout=10) as answer:
            return json.load(answer)

    def told(self) -> list[str]:
        """Everything wrong with the newest files, one line each."""
        return [f"{one['at']}: {one['message']} | {one['hint']}" for one in self.page("configz")["diagnostics"]]

    def write(self, name: str, text: str) -> Path:
        path = self.config / name
        path.write_text(text)
        return path


@pytest.fixture
def origins() -> Iterator[tuple[Origin, Origin]]:
    with origin("web") as web, origin("other") as other:
        yield web, other


@pytest.fixture
def control(tmp_path: Path, origins: tuple[Origin, Origin]) -> Control:
    """Not running yet, with files that are good."""
    made = Control(tmp_path)
    for one in origins:
        made.write(f"{one.name}.yaml", SERVICES.format(name=one.name, port=one.port))
    made.write("routes.yaml", ROUTES.format(host="web"))
    return made


def gateway(control: Control, admin: int) -> bootstrap.Json:
    """The bootstrap of the gateway's proxy."""
    made = bootstrap.dynamic("DELTA_GRPC", bootstrap.cluster("control", [control.port], http2=True), admin)
    made["node"] = {
        "id": "router~127.0.0.1~ingress.shop~shop.svc.cluster.local",
        "cluster": "ingress",
        "metadata": {"NAMESPACE": "shop", "CLUSTER_ID": "local", "LABELS": {"istio": "ingressgateway"}},
    }
    return made


def test_broken_files_change_nothing_and_are_told(control: Control) -> None:
    port, admin = free_ports(2)
    control.write("gateway.yaml", GATEWAY.format(port=port))
    routes, web = control.config / "routes.yaml", control.config / "web.yaml"
    good = routes.read_text()
    mistakes = good.replace("timeout", "timeuot").replace("gateways: [ingress]", "gateways: [ingres]")
    mistakes = mistakes.replace("host: web", "host: wbe")
    with control.running() as process, ours(gateway(control, admin)), traffic(port) as seen:
        assert eventually(lambda: get(port) == (200, "web"), PATIENCE)
        for path, text, expected in (
            (routes, good + "---\nkind: [\n", [rf"{routes}:\d+:\d+: .*"]),
            (
                routes,
                mistakes,
                [
                    rf"{routes}:6:\d+: there is no Gateway 'ingres' .*\| did you mean .*ingress.*",
                    rf"{routes}:8:7: http\[0\]: unknown field 'timeuot' \| did you mean 'timeout'\?",
                    rf"{routes}:9:\d+: there is no service 'wbe' \| did you mean .*web.*",
                ],
            ),
            (web, None, [rf"{routes}:9:\d+: there is no service 'web' \| .+"]),
        ):
            before = path.read_text()
            # A good change beside the bad one waits for it: the files are in force together or not at all.
            control.write("gateway.yaml", GATEWAY.format(port=port) + "# touched\n")
            if text is None:
                path.unlink()
            else:
                path.write_text(text)
            assert eventually(lambda expected=expected: matches(control.told(), expected), PATIENCE), control.told()
            refusals = [json.loads(line) for line in process.output().splitlines() if "configuration refused" in line]
            logged = refusals[-1]["msg"]
            assert refusals[-1]["level"] == "error" and "the last good one stays in use" in logged
            for line in control.told():
                place, _, rest = line.partition(": ")
                message, _, hint = rest.partition(" | ")
                assert f"{place}: error: {message}" in logged and hint in logged
            assert get(port) == (200, "web")
            assert {one["name"] for one in control.page("configz")["resources"]} >= {"web", "other", "ingress"}

            path.write_text(before)
            assert eventually(lambda: control.told() == [], PATIENCE), control.told()
        routes.write_text(ROUTES.format(host="other"))
        assert eventually(lambda: get(port) == (200, "other"), PATIENCE), process.tail()
    assert {status for status, _ in seen} == {200}


def test_the_control_plane_is_killed_and_comes_back(control: Control) -> None:
    port, admin = free_ports(2)
    control.write("gateway.yaml", GATEWAY.format(port=port))
    with control.running() as first:
        proxy = ours(gateway(control, admin))
        started = proxy.__enter__()
        try:
            assert eventually(lambda: get(port) == (200, "web"), PATIENCE)
            with traffic(port) as seen:
                first.signal(signal.SIGKILL)
                first.wait(10)
                assert get(port) == (200, "web")
                control.write("routes.yaml", ROUTES.format(host="other"))
                with control.running():
                    assert eventually(lambda: seen[-1:] == [(200, "other")], PATIENCE), started.process.tail()
                    (synced,) = control.page("syncz")
                    assert all(one["synced"] and "rejected" not in one for one in synced["types"].values())
            assert {status for status, _ in seen} == {200}
        finally:
            proxy.__exit__(None, None, None)


def matches(told: list[str], expected: list[str]) -> bool:
    """Whether everything expected was told, in this order, and nothing else."""
    return len(told) == len(expected) and all(re.fullmatch(one, line) for one, line in zip(expected, told, strict=True))
