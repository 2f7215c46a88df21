"""What `pymesh analyze` finds: for each code resources that have it, and the same with it mended."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from pymesh.cli.analyze import FOUND, command
from pymesh.control.analysis import CODES
from pymesh.operate.findings import findings

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {selector: {app: reviews}, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: reviews-1}
spec: {address: 10.0.0.1, labels: {app: reviews, version: v1}}
---
"""


def virtual(rules: str, more: str = "") -> str:
    return f"""{SERVICE}
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: reviews}}
spec:
  hosts: [reviews]
  {more}
  http: [{rules}]
---
"""


def istio(kind: str, name: str, spec: str, group: str = "networking") -> str:
    return f"apiVersion: {group}.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n"


TO = "route: [{destination: {host: reviews}}]"
GATEWAY = istio(
    "Gateway",
    "edge",
    "{selector: {istio: edge}, servers: [{port: {number: 80, name: a, protocol: HTTP}, hosts: [a.x]}]}",
)
TLS = "{host: reviews, trafficPolicy: {tls: {mode: SIMPLE%s}}}"
PORT_TLS = "{host: reviews, trafficPolicy: {portLevelSettings: [{port: {number: 80}, tls: {mode: SIMPLE%s}}]}}"
TCP = "{hosts: [db.x], resolution: DNS, ports: [{number: 5432, name: tcp, protocol: TCP}]%s}"

#: Code, severity, what has it, what has not.
CASES: tuple[tuple[str, str, str, str], ...] = (
    ("IST0101", "error", virtual("{route: [{destination: {host: rewievs}}]}"), virtual(f"{{{TO}}}")),
    ("IST0101", "error", virtual("{route: [{destination: {host: reviews, subset: v9}}]}"), virtual(f"{{{TO}}}")),
    ("IST0101", "error", virtual(f"{{{TO}}}", "gateways: [edje]"), GATEWAY + virtual(f"{{{TO}}}")),
    ("IST0101", "warning", SERVICE + istio("DestinationRule", "a", '{host: "*.nowhere.x"}'), SERVICE),
    ("IST0106", "error", virtual(f"{{{TO}, timeout: soon}}"), virtual(f"{{{TO}, timeout: 1s}}")),
    ("IST0109", "error", virtual(f"{{{TO}}}") + istio("VirtualService", "b", f"{{hosts: [reviews], http: [{{{TO}}}]}}"),
     virtual(f"{{{TO}}}")),
    ("IST0110", "error",
     SERVICE + istio("Sidecar", "a", "{workloadSelector: {labels: {app: reviews}}, egress: [{hosts: [./*]}]}")
     + istio("Sidecar", "b", "{workloadSelector: {labels: {version: v1}}, egress: [{hosts: [./*]}]}"),
     SERVICE + istio("Sidecar", "a", "{workloadSelector: {labels: {app: reviews}}, egress: [{hosts: [./*]}]}")),
    ("IST0111", "error",
     istio("Sidecar", "a", "{egress: [{hosts: [./*]}]}") + istio("Sidecar", "b", "{egress: [{hosts: [./*]}]}"),
     istio("Sidecar", "a", "{egress: [{hosts: [./*]}]}")),
    ("IST0118", "info", SERVICE.replace("name: http,", "name: web,"), SERVICE),
    ("IST0118", "info", SERVICE.replace("name: http, ", ""), SERVICE.replace("name: http,", "appProtocol: http,")),
    ("IST0127", "warning",
     SERVICE + istio("AuthorizationPolicy", "a", "{selector: {matchLabels: {app: rewievs}}}", "security"),
     SERVICE + istio("AuthorizationPolicy", "a", "{selector: {matchLabels: {app: reviews}}}", "security")),
    ("IST0127", "warning",
     SERVICE + SERVICE.partition("---")[0].replace("name: reviews", "name: x").replace("app: reviews", "app: none"),
     SERVICE),
    ("IST0128", "warning", SERVICE + istio("DestinationRule", "a", TLS % ", insecureSkipVerify: true"),
     SERVICE + istio("DestinationRule", "a", TLS % "")),
    ("IST0129", "warning", SERVICE + istio("DestinationRule", "a", PORT_TLS % ", insecureSkipVerify: true"),
     SERVICE + istio("DestinationRule", "a", PORT_TLS % "")),
    ("IST0130", "warning", virtual(f"{{{TO}}}, {{match: [{{uri: {{prefix: /a}}}}], {TO}}}"),
     virtual(f"{{match: [{{uri: {{prefix: /a}}}}], {TO}}}, {{{TO}}}")),
    ("IST0130", "warning", virtual(f"{{match: [{{uri: {{prefix: /}}}}], {TO}}}, {{{TO}}}"),
     # What is for some clients only takes nothing from the others.
     virtual(f"{{match: [{{uri: {{prefix: /}}, sourceLabels: {{app: web}}}}], {TO}}}, {{{TO}}}")),
    ("IST0131", "warning",
     virtual(f"{{match: [{{uri: {{exact: /a}}}}], {TO}}}, {{match: [{{uri: {{exact: /a}}}}], {TO}}}"),
     virtual(f"{{match: [{{uri: {{exact: /a}}}}], {TO}}}, {{match: [{{uri: {{exact: /b}}}}], {TO}}}")),
    ("IST0132", "warning",
     GATEWAY + SERVICE + istio("VirtualService", "a", f"{{hosts: [b.x], gateways: [edge], http: [{{{TO}}}]}}"),
     GATEWAY + SERVICE + istio("VirtualService", "a", f"{{hosts: [a.x], gateways: [edge], http: [{{{TO}}}]}}")),
    ("IST0134", "warning", istio("ServiceEntry", "db", TCP % ""),
     istio("ServiceEntry", "db", TCP % ", addresses: [10.9.9.9]")),
    ("IST0145", "warning", GATEWAY + GATEWAY.replace("name: edge", "name: edge-2"),
     GATEWAY + GATEWAY.replace("name: edge", "name: edge-2").replace("a.x", "b.x")),
    ("IST0173", "error",
     SERVICE + istio("DestinationRule", "a", "{host: reviews, subsets: [{name: v4, labels: {version: v4}}]}"),
     SERVICE + istio("DestinationRule", "a", "{host: reviews, subsets: [{name: v1, labels: {version: v1}}]}")),
)  # fmt: skip


@pytest.mark.parametrize(("code", "severity", "wrong", "right"), CASES)
def test_a_finding_and_its_remedy(code: str, severity: str, wrong: str, right: str, tmp_path: Path) -> None:
    file = tmp_path / "mesh-resources.yaml"
    file.write_text(wrong)
    found = [one for one in findings([tmp_path]) if one.code == code]
    assert [one.severity for one in found] == [severity], findings([tmp_path])
    assert found[0].at.file == str(file)
    assert found[0].at.line > 0
    assert found[0].hint
    file.write_text(right)
    assert not [one for one in findings([tmp_path]) if one.code == code]


def test_every_code_is_one_that_is_listed(tmp_path: Path) -> None:
    for number, (_, _, wrong, right) in enumerate(CASES):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "a.yaml").write_text(wrong)
        (folder / "b.yaml").write_text(right.replace("default", "other"))
        assert {one.code for one in findings([folder])} <= set(CODES)


def test_the_exit_code_is_istioctls(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    for text, words, code in (
        (SERVICE, (), 0),
        (CASES[0][2], (), FOUND),
        (GATEWAY + GATEWAY.replace("name: edge", "name: edge-2"), (), 0),
        (GATEWAY + GATEWAY.replace("name: edge", "name: edge-2"), ("--failure-threshold", "warning"), FOUND),
        (CASES[0][2], ("-S", "ist0101"), 0),
        (CASES[0][2], ("-S", "IST9999"), 1),
    ):
        file.write_text(text)
        done = CliRunner().invoke(command, [str(tmp_path), *words])
        assert done.exit_code == code, (words, done.output)
    done = CliRunner().invoke(command, [str(tmp_path), "-o", "json"])
    assert '"code": "IST0101"' in done.output
    assert '"line":' in done.output
