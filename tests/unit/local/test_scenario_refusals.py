"""Wrong scenarios: the exact text, with place and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from pymesh.local import meshfile, scenario, scenario_names
from pymesh.local.meshfile import LocalMesh
from pymesh.local.scenario import ScenarioError

HEAD = "apiVersion: local.pymesh.dev/v1alpha1\nkind: Scenario\nmetadata: {name: one}\nspec:\n  shows: x\n  steps:\n"
RESOURCE = "  hint: a resource has a kind and metadata with a name"
SHARE = "  hint: a share of the answers is written as in 80%"
NUMBER = "  hint: what a proxy counts is a number"
PROXY = "'stat', 'metric' and 'log' need the proxy that is meant, other subjects have none\n  hint: of: web"
PATTERN = "is not a regular expression: missing ), unterminated subpattern at position 0\n  hint: a backslash takes"


def step(*lines: str, head: str = HEAD) -> str:
    """A scenario of one step, whose lines begin in line 8."""
    return f"{head}    - title: a\n" + "".join(f"      {line}\n" for line in lines)


def spec(line: str) -> str:
    """A scenario with a line in its spec, which is line 6."""
    return step(head=HEAD.replace("  steps:\n", f"  {line}\n  steps:\n"))


CASES = {
    "nothing": ("", "one.yaml: error: is empty\n  hint: its first document is of kind Scenario"),
    "a comment": ("# later\n", "one.yaml: error: is empty\n  hint: its first document is of kind Scenario"),
    "no YAML": ("a: [", "one.yaml:2:1: error: is not YAML: did not find expected node content"),
    "no YAML further on": (
        f"{step()}---\nb: [\n",
        "one.yaml:10:1: error: is not YAML: did not find expected node content",
    ),
    "a list": ("- a\n", "one.yaml:1:1: error: Scenario: expected a mapping, found a list"),
    "another kind": (
        step().replace("Scenario", "Scene"),
        "one.yaml:2:7: error: kind: 'Scene' is not supported\n  hint: did you mean 'Scenario'?",
    ),
    "another version": (
        step().replace("v1alpha1", "v1"),
        "one.yaml:1:13: error: apiVersion: 'local.pymesh.dev/v1' is not supported\n"
        "  hint: did you mean 'local.pymesh.dev/v1alpha1'?",
    ),
    "no name": (
        step().replace("metadata: {name: one}\n", ""),
        "one.yaml:1:1: error: Scenario: 'metadata' is missing",
    ),
    "the name of another file": (
        step().replace("one", "two"),
        "one.yaml:3:18: error: 'two' is not the name of its file\n  hint: write one",
    ),
    "nothing that it shows": (
        step().replace("  shows: x\n", ""),
        "one.yaml:5:3: error: spec: 'shows' is missing",
    ),
    "no step": (
        HEAD.replace("steps:", "steps: []"),
        "one.yaml:6:10: error: spec: nothing is done\n  hint: a step has a title, and what to send and to expect",
    ),
    "steps that are no list": (
        HEAD.replace("steps:", "steps: {title: a}"),
        "one.yaml:6:10: error: steps: expected a list, found a mapping",
    ),
    "no title": (f"{HEAD}    - send: {{}}\n", "one.yaml:7:7: error: steps[0]: 'title' is missing"),
    "a misspelt part": (
        step("sned: {}"),
        "one.yaml:8:7: error: steps[0]: unknown field 'sned'\n  hint: did you mean 'send'?",
    ),
    "an app": (
        spec("apps: [{name: web, command: [], ports: {http: PORT}}]"),
        "one.yaml:6:31: error: apps[0]: the command is empty\n  hint: write it as in [python3, apps/web.py]",
    ),
    "a certificate for no list": (
        spec("certificates: {cert: shop.example}"),
        "one.yaml:6:24: error: cert: expected a list, found a string (shop.example)",
    ),
    "a document that is a list": (
        f"{step()}---\n- a\n",
        f"one.yaml:9:1: error: this document is no resource\n{RESOURCE}",
    ),
    "a document without a name": (
        f"{step()}---\nkind: Service\n",
        f"one.yaml:9:1: error: this document is no resource\n{RESOURCE}",
    ),
    "a resource that is text": (
        step("apply: [reviews]"),
        f"one.yaml:8:14: error: steps[0]: apply[0] is no resource\n{RESOURCE}",
    ),
    "a resource without a kind": (
        step("apply: [{metadata: {name: a}}]"),
        f"one.yaml:8:14: error: steps[0]: apply[0] is no resource\n{RESOURCE}",
    ),
    "what goes has no kind": (
        step("remove: [reviews]"),
        "one.yaml:8:15: error: steps[0]: 'reviews' is not KIND/NAME\n  hint: write it as in VirtualService/reviews",
    ),
    "a phase": (
        step("authority: rotate"),
        "one.yaml:8:18: error: authority: 'rotate' is not supported\n  hint: known: activate, prepare, revoke",
    ),
    "what a process cannot do": (
        step("processes: {web: burn}"),
        "one.yaml:8:24: error: web: 'burn' is not supported\n  hint: known: kill, pause, resume, start",
    ),
    "within a number": (
        step("within: 5"),
        "one.yaml:8:15: error: within: expected a string, found an integer (5)\n  hint: quote it",
    ),
    "within no time": (
        step("within: soon"),
        "one.yaml:8:15: error: within: 'soon' is not a duration\n  hint: write it as in 250ms, 10s or 1h30m",
    ),
    "no request": (step("send: {count: 0}"), "one.yaml:8:21: error: count: 0 is out of range\n  hint: 1 to 20000"),
    "too many connections": (
        step("send: {connections: 257}"),
        "one.yaml:8:27: error: connections: 257 is out of range\n  hint: 1 to 256",
    ),
    "a port": (step("send: {port: 0}"), "one.yaml:8:20: error: port: 0 is out of range\n  hint: 1 to 65535"),
    "a method": (
        step("send: {method: GE T}"),
        "one.yaml:8:22: error: send: 'GE T' is not a method\n  hint: write it as in GET",
    ),
    "a path": (step("send: {path: x}"), "one.yaml:8:20: error: send: 'x' is not a path\n  hint: it starts with '/'"),
    "to without from": (
        step("send: {to: reviews}"),
        "one.yaml:8:18: error: send: 'from' and 'to' go together\n  hint: from: web, to: reviews",
    ),
    "two ways": (
        step("send: {direct: web, from: web, to: reviews}"),
        "one.yaml:8:22: error: send: 'direct' says where requests go\n  hint: leave out 'from', 'to' and 'port'",
    ),
    "a port of a service": (
        step("send: {from: web, to: reviews, port: 80}"),
        "one.yaml:8:44: error: send: a port belongs to the gateway\n  hint: leave out 'from' and 'to', or the port",
    ),
    "to nowhere": (
        step("send: {from: web, to: '*'}"),
        "one.yaml:8:29: error: send: nothing says which host is meant\n"
        "  hint: add it: headers: {host: partner.example}",
    ),
    "a protocol": (
        step("send: {protocol: SMTP}"),
        "one.yaml:8:24: error: protocol: 'SMTP' is not supported\n  hint: known: GRPC, HTTP, HTTP2, TCP, WebSocket",
    ),
    "a path for TCP": (
        step("send: {protocol: TCP, path: /a}"),
        "one.yaml:8:35: error: send: 'path' has no meaning for TCP\n  hint: leave it out",
    ),
    "a method for gRPC": (
        step("send: {protocol: GRPC, path: /a.B/C, method: PUT}"),
        "one.yaml:8:52: error: send: 'method' has no meaning for GRPC\n  hint: leave it out",
    ),
    "a method of gRPC": (
        step("send: {protocol: GRPC, path: /a}"),
        "one.yaml:8:36: error: send: '/a' is no method of gRPC\n  hint: write it as in /shop.Cart/Get",
    ),
    "cookies for a WebSocket": (
        step("send: {protocol: WebSocket, cookies: true}"),
        "one.yaml:8:44: error: send: 'cookies' has no meaning for WebSocket\n  hint: leave it out",
    ),
    "TLS": (
        step("send: {tls: {servername: a}}"),
        "one.yaml:8:20: error: tls: unknown field 'servername'\n  hint: did you mean 'serverName'?",
    ),
    "answers to nothing": (
        step("expect: [{status: 200}]"),
        "one.yaml:8:15: error: steps[0]: answers are expected, but nothing is sent\n  hint: add 'send'",
    ),
    "no subject": (
        step("send: {}", "expect: [{is: a}]"),
        "one.yaml:9:16: error: expect[0]: one of 'status', 'header', 'json', 'body', 'certificate', 'seconds', 'stat', "
        "'metric', 'log' is needed",
    ),
    "two subjects": (
        step("send: {}", "expect: [{header: x, body: y}]"),
        "one.yaml:9:34: error: expect[0]: 'header' and 'body' exclude each other\n  hint: keep one of them",
    ),
    "a status": (
        step("send: {}", "expect: [{status: 600}]"),
        "one.yaml:9:25: error: status: 600 is out of range\n  hint: 0 to 599",
    ),
    "seconds": (
        step("send: {}", "expect: [{seconds: long}]"),
        "one.yaml:9:26: error: seconds: expected a number, found a string (long)",
    ),
    "a count of no proxy": (step("expect: [{stat: x, is: 1}]"), f"one.yaml:8:16: error: expect[0]: {PROXY}"),
    "an answer of a proxy": (
        step("send: {}", "expect: [{status: 200, of: web}]"),
        f"one.yaml:9:34: error: expect[0]: {PROXY}",
    ),
    "a count of nothing": (
        step("expect: [{stat: x, of: web}]"),
        "one.yaml:8:16: error: expect[0]: a number is missing\n  hint: is: 1, atLeast: 1 or atMost: 1",
    ),
    "a count that is text": (
        step("expect: [{log: x, of: web, is: many}]"),
        f"one.yaml:8:38: error: expect[0]: 'many' is no number\n{NUMBER}",
    ),
    "a count that is a share": (
        step("expect: [{stat: x, of: web, atLeast: 80%}]"),
        f"one.yaml:8:44: error: expect[0]: '80%' is no number\n{NUMBER}",
    ),
    "labels of a stat": (
        step("expect: [{stat: x, labels: {a: b}, of: web, is: 1}]"),
        "one.yaml:8:34: error: expect[0]: 'labels' are those of a 'metric'\n  hint: leave them out",
    ),
    "a share that is a number": (
        step("send: {}", "expect: [{json: x, share: 0.8}]"),
        "one.yaml:9:33: error: share: expected a string, found a number (0.8)\n  hint: quote it",
    ),
    "a share without %": (
        step("send: {}", "expect: [{json: x, share: '0.8'}]"),
        f"one.yaml:9:33: error: expect[0]: '0.8' is no share\n{SHARE}",
    ),
    "more than all": (
        step("send: {}", "expect: [{json: x, atLeast: 180%}]"),
        f"one.yaml:9:35: error: expect[0]: '180%' is no share\n{SHARE}",
    ),
    "answers as a count": (
        step("send: {}", "expect: [{json: x, atMost: 3}]"),
        f"one.yaml:9:34: error: expect[0]: 3 is no share\n{SHARE}",
    ),
    "two shares": (
        step("send: {}", "expect: [{json: x, share: 80%, atMost: 90%}]"),
        "one.yaml:9:46: error: expect[0]: 'share' and 'atMost' exclude each other\n  hint: keep one of them",
    ),
    "a share of what differs": (
        step("send: {}", "expect: [{json: x, distinct: 2, share: 80%}]"),
        "one.yaml:9:46: error: expect[0]: 'distinct' and 'share' exclude each other\n  hint: keep one of them",
    ),
    "a status that is compared": (
        step("send: {}", "expect: [{status: 200, is: 200}]"),
        "one.yaml:9:34: error: expect[0]: 'is' is for 'header', 'json' and what proxies count\n  hint: leave it out",
    ),
    "a body that is absent": (
        step("send: {}", "expect: [{body: x, absent: true}]"),
        "one.yaml:9:34: error: expect[0]: 'absent' is for 'header' and 'json'\n  hint: leave it out",
    ),
    "none of them": (
        step("send: {}", "expect: [{header: x, distinct: 0}]"),
        "one.yaml:9:38: error: distinct: 0 is out of range\n  hint: 1 to 10000",
    ),
    "a pattern": (
        step("send: {}", "expect: [{header: x, matches: (}]"),
        f"one.yaml:9:37: error: expect[0]: '(' {PATTERN} a character as it is: '\\('",
    ),
    "a pattern of a log": (
        step("expect: [{log: (, of: web, is: 1}]"),
        f"one.yaml:8:22: error: expect[0]: '(' {PATTERN} a character as it is: '\\('",
    ),
}

MESH = """\
apiVersion: local.pymesh.dev/v1alpha1
kind: LocalMesh
metadata: {name: mine}
spec:
  config: []
  gateways: [{name: ingress, labels: {a: b}}]
  apps:
    - {name: web, command: [a], ports: {http: PORT}, calls: [cart]}
    - {name: cart, command: [a], ports: {http: PORT}, replicas: 2}
"""
#: A scenario that can be read, and is not of the mesh.
NAMES = {
    "who asks": (
        step("send: {from: wbe, to: cart}"),
        "one.yaml:8:20: error: there is no workload 'wbe'\n  hint: did you mean 'web'?",
    ),
    "one of several": (
        step("send: {from: cart, to: web}"),
        "one.yaml:8:20: error: there is no workload 'cart'\n  hint: did you mean 'cart-1'?",
    ),
    "whom it does not call": (
        step("send: {from: web, to: crat}"),
        "one.yaml:8:29: error: web does not call 'crat'\n  hint: did you mean 'cart'?",
    ),
    "who calls nobody": (
        step("send: {from: cart-0, to: web}"),
        "one.yaml:8:32: error: cart-0 does not call 'web'\n  hint: add it to 'calls' of the app 'cart-0'",
    ),
    "who is asked": (
        step("send: {direct: cart-2}"),
        "one.yaml:8:22: error: there is no workload 'cart-2'\n  hint: did you mean 'cart-1'?",
    ),
    "a gateway is asked": (
        step("send: {direct: ingress}"),
        "one.yaml:8:22: error: 'ingress' is a gateway, which has no sidecar\n"
        "  hint: leave out 'direct': the gateway is asked then",
    ),
    "who counts": (
        step("expect: [{stat: x, is: 1, of: ingres}]"),
        "one.yaml:8:37: error: there is no workload 'ingres'\n  hint: did you mean 'ingress'?",
    ),
    "which process": (
        step("processes: {cart.proxy: kill}"),
        "one.yaml:8:18: error: there is no process 'cart.proxy'\n  hint: did you mean 'cart-1.proxy'?",
    ),
    "which app": (
        step("behave: {ingress: status=503}"),
        "one.yaml:8:15: error: there is no app 'ingress'\n  hint: known: cart, cart-0, cart-1, web",
    ),
    "an app of another kind": (
        spec("apps: [{name: web, command: [b], ports: {http: PORT}}]"),
        "one.yaml:6:17: error: the mesh has another app 'web'\n  hint: choose another name",
    ),
    "an app that calls": (
        spec("apps: [{name: job, command: [b], ports: {http: PORT}, calls: [crt]}]"),
        "one.yaml:6:64: error: job calls 'crt', which no app offers\n  hint: did you mean 'cart'?",
    ),
    "two things": (
        step("behave: {x: ''}", "processes: {y: kill}"),
        "one.yaml:8:15: error: there is no app 'x'\n  hint: known: cart, cart-0, cart-1, web\n"
        "one.yaml:9:18: error: there is no process 'y'\n"
        "  hint: known: cart-0, cart-0.proxy, cart-1, cart-1.proxy, ingress, web, web.proxy",
    ),
}


@pytest.fixture
def mesh(tmp_path: Path) -> LocalMesh:
    (tmp_path / "mesh.yaml").write_text(MESH)
    (tmp_path / "scenarios").mkdir()
    return meshfile.read(tmp_path)


def play(mesh: LocalMesh) -> None:
    plays = scenario.chosen(mesh, ("one",))
    scenario_names.check(scenario.with_apps(mesh, plays), plays)


@pytest.mark.parametrize("name", CASES)
def test_wrong_document(name: str, tmp_path: Path) -> None:
    text, expected = CASES[name]
    file = tmp_path / "one.yaml"
    file.write_text(text)
    with pytest.raises(ScenarioError) as caught:
        scenario.read(file)
    assert str(caught.value).replace(str(file), "one.yaml") == expected


@pytest.mark.parametrize("name", NAMES)
def test_what_the_mesh_does_not_have(name: str, mesh: LocalMesh) -> None:
    text, expected = NAMES[name]
    file = mesh.folder / "scenarios" / "one.yaml"
    file.write_text(text)
    with pytest.raises(ScenarioError) as caught:
        play(mesh)
    assert str(caught.value).replace(str(file), "one.yaml") == expected


def test_without_a_gateway_somebody_must_be_named(mesh: LocalMesh) -> None:
    (mesh.folder / "mesh.yaml").write_text(MESH.replace("  gateways: [{name: ingress, labels: {a: b}}]\n", ""))
    file = mesh.folder / "scenarios" / "one.yaml"
    file.write_text(step("send: {}"))
    alone = meshfile.read(mesh.folder)
    with pytest.raises(ScenarioError) as caught:
        scenario_names.check(alone, scenario.chosen(alone, ("all",)))
    assert (
        str(caught.value)
        == f"{file}:8:13: error: the mesh has no gateway\n  hint: name the sender with 'from' and 'to'"
    )


def test_octets_that_are_no_text(tmp_path: Path) -> None:
    file = tmp_path / "one.yaml"
    file.write_bytes(b"\xff")
    said = "is not YAML: unacceptable character #x00ff: invalid leading UTF-8 octet"
    with pytest.raises(ScenarioError) as caught:
        scenario.read(file)
    assert str(caught.value) == f"{file}: error: {said}"


def test_all_errors_are_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "one.yaml"
    file.write_text(step("sned: {}", "send: {path: x, count: 0}") + "---\n- a\n")
    with pytest.raises(ScenarioError) as caught:
        scenario.read(file)
    assert str(caught.value).count("error: ") == 3, caught.value


def test_an_unknown_name(mesh: LocalMesh) -> None:
    (mesh.folder / "scenarios" / "canary.yaml").write_text(step())
    with pytest.raises(ScenarioError, match=r"there is no scenario 'cannary'; hint: did you mean 'canary'\?"):
        scenario.chosen(mesh, ("cannary",))
