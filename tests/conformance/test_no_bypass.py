"""No way around an AuthorizationPolicy: 100,000 hostile targets, judged by what nginx behind us makes of them.

What is routed, judged, sent and logged is one path and one authority, over HTTP/1 and HTTP/2, for each of Envoy's ways
with escaped slashes. A second reading of the policies says the same of each as the proxy did; and of what nginx was
sent, nothing is denied, and all is allowed, as nginx itself decodes paths and reads hosts.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.load import load_text
from pymesh.control.store.store import MeshOptions, build
from pymesh.control.translate import translate
from pymesh.control.translate.proxy import Proxy as Node
from pymesh.control.xds import pb
from tests.conformance.corpus.run import file_log
from tests.conformance.targets import Target, generated, over_http1, over_http2
from tests.proxy.bootstrap import Json, bootstrap, cluster, http_listener, virtual_host
from tests.proxy.controlled import controlled, write
from tests.proxy.running import eventually, ours
from tests.tools.nginx import nginx
from tests.tools.ports import free_ports

#: Targets for each way with escaped slashes, of which each is sent over both versions.
EACH, THROUGH_CONTROL_PLANE, SEED = 12_500, 2_500, 7
ACTIONS = ["KEEP_UNCHANGED", "REJECT_REQUEST", "UNESCAPE_AND_REDIRECT", "UNESCAPE_AND_FORWARD"]
#: The control plane changes no host; these listeners do.
STRIPPING = {"UNESCAPE_AND_REDIRECT", "UNESCAPE_AND_FORWARD"}
_TOGETHER, _SIDE_BY_SIDE = 10, 8
_NODE, _LABELS = "router~127.0.0.1~edge-1.shop~shop.svc.cluster.local", {"istio": "ingressgateway"}

POLICIES = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: closed, namespace: shop}
spec:
  selector: {matchLabels: {istio: ingressgateway}}
  action: DENY
  rules:
    - to: [{operation: {paths: [/admin, "/admin/*", "*.key"]}}]
    - to: [{operation: {hosts: [private.test]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: open, namespace: shop}
spec:
  selector: {matchLabels: {istio: ingressgateway}}
  rules:
    - to:
        - operation:
            hosts: [a.test, "*.b.test", private.test, xn--bcher-kva.test]
            paths: [/, /a, "/a/*", "/admin*", "/t/{*}", "*.key", "/~*"]
        - operation: {paths: ["/public/*"]}
"""
MESH = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: edge, namespace: shop}}
spec:
  selector: {{istio: ingressgateway}}
  servers: [{{port: {{number: {port}, name: http, protocol: HTTP}}, bind: 127.0.0.1, hosts: ["*"]}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: all, namespace: shop}}
spec:
  hosts: ["*"]
  gateways: [edge]
  http: [{{route: [{{destination: {{host: origin.internal}}}}]}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: origin, namespace: shop}}
spec:
  hosts: [origin.internal]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {origin}}}]
  endpoints: [{{address: 127.0.0.1}}]
"""
_NGINX = """
log_format seen escape=json
    '{{"n":"$http_x_n","sent":"$request_uri","host":"$http_host","path":"$uri","name":"$host"}}';
server {{ listen 127.0.0.1:{port}; access_log {log} seen; location / {{ return 200 ""; }} }}
"""
_ROUTES: dict[str, Json] = {
    "admin": {"path": "/admin"},
    "below": {"prefix": "/admin/"},
    "regex": {"safe_regex": {"regex": "/[at]/[^/]*"}},
    "rest": {"prefix": "/"},
}


@dataclass(frozen=True)
class Told:
    """Both sides' logs of one listener: ours by the number of the request, and nginx's."""

    logged: dict[str, Json]
    arrived: dict[str, Json]


def is_denied(path: str, host: str) -> bool:
    """By the DENY policy, as its author means it: a host with any port, in any case, is that host."""
    return path == "/admin" or path.startswith("/admin/") or path.endswith(".key") or named(host) == "private.test"


def is_allowed(path: str, host: str) -> bool:
    """By the ALLOW policy."""
    name = named(host)
    is_host = name in ("a.test", "private.test", "xn--bcher-kva.test") or name.endswith(".b.test")
    exact = path in ("/", "/a") or path.endswith(".key") or re.fullmatch("/t/[^/]+", path) is not None
    return path.startswith("/public/") or (is_host and (exact or path.startswith(("/a/", "/admin", "/~"))))


def named(host: str) -> str:
    """The name alone, without case, port and the dot of the root."""
    return re.sub(r"\.*(:\d*)?$", "", host.lower())


def route_of(path: str) -> str:
    """The first route, by a matcher that is not the proxy's."""
    if path == "/admin":
        return "admin"
    if path.startswith("/admin/"):
        return "below"
    return "regex" if re.fullmatch("/[at]/[^/]*", path) else "rest"


def policies() -> list[Json]:
    """The filters that the control plane makes of the policies for a gateway."""
    report = Report()
    resources = load_text("mesh.yaml", POLICIES + "---" + MESH.format(port=8080, origin=80), report)
    assert not report.diagnostics, report.diagnostics
    store, _ = build(resources, MeshOptions())
    made = translate(store, Node.parse(_NODE, {"NAMESPACE": "shop", "LABELS": _LABELS}, ""))
    (listener,) = made.messages[pb.type_url(pb.Listener)].values()
    (chain,) = pb.to_json(listener)["filter_chains"]
    manager = chain["filters"][-1]["typed_config"]
    found = [one for one in manager["http_filters"] if "rbac" in one["name"]]
    assert len(found) == 2, found
    return found


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Told]:
    """Send everything to a listener for each of the ways."""
    folder = tmp_path_factory.mktemp("bypass")
    origin, admin, *ports = free_ports(2 + len(ACTIONS))
    targets = generated(EACH, SEED)
    listeners = [_listener(port, action, folder / f"{action}.log") for port, action in zip(ports, ACTIONS, strict=True)]
    clusters = [cluster(action, [origin]) for action in ACTIONS]
    seen = folder / "nginx.log"
    result = {}
    with nginx(_NGINX.format(port=origin, log=seen), [origin]), ours(bootstrap(listeners, clusters, admin)) as proxy:
        for port, action in zip(ports, ACTIONS, strict=True):
            before = seen.stat().st_size
            asyncio.run(asyncio.wait_for(_send(port, targets), 600))
            log, wanted = folder / f"{action}.log", proxy.stats()[f"http.{action}.downstream_rq_total"]
            assert eventually(lambda log=log, wanted=wanted: log.read_bytes().count(b"\n") == wanted), wanted
            arrived = seen.read_bytes()[before:]
            result[action] = Told(_by_number(log.read_bytes()), _by_number(arrived))
    return result


def _listener(port: int, action: str, log: Path) -> Json:
    names = {"n": "X-N", "path": ":PATH", "authority": ":AUTHORITY"}
    operators = {"status": "RESPONSE_CODE", "details": "RESPONSE_CODE_DETAILS", "route": "ROUTE_NAME"}
    line = {key: f"%REQ({name})%" for key, name in names.items()}
    line |= {key: f"%{name}%" for key, name in operators.items()}
    routes = [{"name": name, "match": match, "route": {"cluster": action}} for name, match in _ROUTES.items()]
    router = {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}
    manager: Json = {
        "use_remote_address": True,
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": action,
        "http_filters": [*policies(), {"name": "router", "typed_config": router}],
        "access_log": [file_log(log, line)],
    }
    if action in STRIPPING:
        manager |= {"strip_any_host_port": True, "strip_trailing_host_dot": True}
    return http_listener(port, [virtual_host("all", routes)], name=action, **manager)


async def _send(port: int, targets: Sequence[Target]) -> None:
    """Everything, over both versions."""
    groups = [range(at, min(at + _TOGETHER, len(targets))) for at in range(0, len(targets), _TOGETHER)]
    waiting = iter([(send, group) for group in groups for send in (over_http1, over_http2)])

    async def work() -> None:
        for send, group in waiting:
            await send(port, group, targets)

    await asyncio.gather(*(work() for _ in range(_SIDE_BY_SIDE)))


def _by_number(log: bytes) -> dict[str, Json]:
    entries = [json.loads(line) for line in log.decode(errors="surrogateescape").split("\n") if line]
    return {entry["n"]: entry for entry in entries if entry["n"]}


def test_each_is_judged_by_what_is_logged(told: dict[str, Told]) -> None:
    outcomes: dict[str, int] = {}
    wrong = []
    for action, one in told.items():
        for entry in one.logged.values():
            outcome = entry["details"].partition("_matched")[0]
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
            path, host = entry["path"].partition("?")[0], entry["authority"]
            is_in = is_allowed(path, host) and not is_denied(path, host)
            passed = outcome == "via_upstream"
            if (passed or outcome == "rbac_access_denied") and passed != is_in:
                wrong.append((action, entry))
            if passed and entry["route"] != route_of(path):
                wrong.append((action, entry))
    assert wrong[:20] == []
    # A table that lets all pass, or none, would prove little.
    total = sum(outcomes.values())
    assert min(outcomes["via_upstream"], outcomes["rbac_access_denied"]) > total / 10, outcomes


def test_what_arrives_is_what_was_judged(told: dict[str, Told]) -> None:
    for action, one in told.items():
        passed = {number for number, entry in one.logged.items() if entry["details"] == "via_upstream"}
        # nginx logs no number of what it refuses at its first line.
        assert one.arrived.keys() <= passed, action
        assert len(one.arrived) > len(passed) * 0.8, action
        differ = [
            (entry, one.logged[number])
            for number, entry in one.arrived.items()
            if (entry["sent"], entry["host"]) != (one.logged[number]["path"], one.logged[number]["authority"])
        ]
        assert differ[:20] == [], action


def test_there_is_no_way_around(told: dict[str, Told]) -> None:
    """As nginx reads it. Where escaped slashes are kept, nginx takes them for slashes, which is why we never do."""
    for action, one in told.items():
        around = [
            entry
            for entry in one.arrived.values()
            if is_denied(entry["path"], entry["name"]) or not is_allowed(entry["path"], entry["name"])
        ]
        if action == "KEEP_UNCHANGED":
            assert around, "the danger is real"
            around = [entry for entry in around if not re.search("%(2f|5c)", entry["sent"], re.I)]
        assert around[:20] == [], action


def test_both_versions_are_taken_alike(told: dict[str, Told]) -> None:
    targets = generated(EACH, SEED)
    for action, one in told.items():
        for number, target in enumerate(targets):
            # In an absolute target a host ends where a path, a query or a fragment begins.
            if target.absolute and (not target.path.startswith("/") or re.search(r"[/?#\\@]", target.host)):
                continue
            first, second = (one.arrived.get(f"{version}-{number}") for version in (1, 2))
            alike = {key: value for key, value in (first or {}).items() if key != "n"}
            assert alike == {key: value for key, value in (second or {}).items() if key != "n"}, (action, target)


def test_through_the_control_plane(tmp_path: Path) -> None:
    """A gateway that has the policies from the control plane, and how it takes paths, too."""
    origin, port = free_ports(2)
    write(tmp_path, "mesh.yaml", POLICIES + "---" + MESH.format(port=port, origin=origin))
    seen = tmp_path / "nginx.log"
    ready = [Target("/public/ready", "a.test", False)]
    with (
        nginx(_NGINX.format(port=origin, log=seen), [origin]),
        controlled("pymesh", tmp_path, _NODE, _LABELS),
    ):

        def answers() -> bool:
            try:
                asyncio.run(over_http1(port, [0], ready))
            except (OSError, AssertionError):
                return False
            return seen.stat().st_size > 0

        assert eventually(answers, 90)
        asyncio.run(asyncio.wait_for(_send(port, generated(THROUGH_CONTROL_PLANE, SEED + 1)), 600))
        arrived = _by_number(seen.read_bytes())
    assert len(arrived) > THROUGH_CONTROL_PLANE / 5
    around = [
        entry
        for entry in arrived.values()
        if is_denied(entry["path"], entry["name"]) or not is_allowed(entry["path"], entry["name"])
    ]
    assert around[:20] == []
