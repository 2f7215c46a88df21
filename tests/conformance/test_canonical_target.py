"""One path and one authority for everybody: what is routed, what a filter sees, what is sent and what is logged.

Five thousand generated targets, over HTTP/1 and over HTTP/2. Each request that reaches the origin carries what the
filter and the route saw; the route that was taken is compared with that which a second matcher takes for what was sent.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conformance.corpus.run import HARDENED, file_log
from tests.conformance.targets import Target, over_http1, over_http2
from tests.proxy.bootstrap import Json, bootstrap, cluster, http_listener, virtual_host
from tests.proxy.running import eventually, ours
from tests.tools.ports import free_ports

SEED, PAIRS = 20_240, 5_000
_TOGETHER = 50
# Separated by spaces; what is meant to be seen more often stands more often.
_PIECES = (
    "a admin Admin b ~ . .. ... %2e %2E%2e .%2e ..;x .; ;x %3b %61dmin adm%69n %7e %7E %25 %252e % %zz %%32e "
    "%2f %2F %5c \\ %00 %23 %3f %20 < > { } | ^ ` \" ' ( ! $ & * + , : = @ #x %c3%a4"
)
_JOINTS = "/ / / / / / // \\ /./ /../"
_QUERIES = ["", "", "", "", "?", "?a=b", "?/../x", "?//", "?a?b", "?%2f", "?<"]
_HOSTS = (
    "a.test a.test a.test x.b.test x.b.test x.b.test c.test c.test c.test A.TEST a.test. a.test:80 a.test:8080 a.test: "
    "a.test.:80 A.Test.: X.B.TEST:81 x.y.b.test b.test xb.test [::1] [::1]:80 127.0.0.1 a..test a.test,b.test %61.test "
    "a_b . a.test:80:80 [::1 u@a.test a.test:99999 a.test/x a.test\\x a.test:b"
)
_DOMAINS = {"exact": ["a.test"], "suffix": ["*.b.test"], "any": ["*"]}
_ROUTES: dict[str, Json] = {
    "admin": {"path": "/admin"},
    "below": {"prefix": "/admin/"},
    "regex": {"safe_regex": {"regex": "/[ab]/[^/]*"}},
    "tilde": {"prefix": "/~"},
    "rest": {"prefix": "/"},
}
_FILTER = """
from pymesh.filters import HttpFilter

class Probe(HttpFilter):
    def on_request_headers(self, request, ctx):
        request.headers["x-filter-path"] = request.path
        request.headers["x-filter-authority"] = request.authority
"""


@dataclass(frozen=True)
class Arrived:
    """A request as its octets have it at the origin."""

    target: str
    host: str
    fields: dict[str, str]


class _Origin(asyncio.Protocol):
    """Takes requests without a body from the wire as they are, and answers each."""

    def __init__(self, arrived: dict[str, Arrived], open_: set[asyncio.Transport]) -> None:
        self._arrived, self._open, self._octets = arrived, open_, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._open.add(transport)

    def data_received(self, data: bytes) -> None:
        *heads, self._octets = (self._octets + data).split(b"\r\n\r\n")
        for head in heads:
            line, *rest = head.decode("latin-1").split("\r\n")
            fields = dict(one.split(": ", 1) for one in rest)
            assert fields["x-n"] not in self._arrived
            self._arrived[fields["x-n"]] = Arrived(line.split(" ")[1], fields["host"], fields)
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


@dataclass
class Played:
    """All requests by their number, `1-7` over HTTP/1.1 and `2-7` over HTTP/2; refused ones are in the log only."""

    targets: list[Target]
    arrived: dict[str, Arrived] = field(default_factory=dict)
    logged: dict[str, Json] = field(default_factory=dict)


def generated() -> list[Target]:
    """Paths and authorities, the same in every run."""
    rng = random.Random(SEED)
    pieces, joints, hosts = _PIECES.split(), [*_JOINTS.split(), ""], _HOSTS.split()
    targets = [Target("/admin", host, absolute=False) for host in hosts]
    while len(targets) < PAIRS:
        path = "/" if rng.random() < 0.97 else ""
        for _ in range(rng.randrange(6)):
            path += rng.choice(pieces) + rng.choice(joints)
        targets.append(Target(path + rng.choice(_QUERIES), rng.choice(hosts), absolute=False))
    return targets


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    """Send everything, over both versions."""
    log = tmp_path_factory.mktemp("canonical") / "access.log"
    port, origin, admin = free_ports(3)
    played = Played(generated())

    async def run() -> None:
        loop = asyncio.get_running_loop()
        open_: set[asyncio.Transport] = set()
        async with await loop.create_server(lambda: _Origin(played.arrived, open_), "127.0.0.1", origin):
            for start in range(0, PAIRS, _TOGETHER):
                group = range(start, start + _TOGETHER)
                await asyncio.gather(over_http1(port, group, played.targets), over_http2(port, group, played.targets))
            for transport in open_:
                transport.abort()

    with ours(_bootstrap(port, origin, admin, log)) as proxy:
        asyncio.run(asyncio.wait_for(run(), 300))
        wanted = proxy.stats()["http.ingress.downstream_rq_total"]
        assert eventually(lambda: log.read_bytes().count(b"\n") == wanted), wanted
    entries = [json.loads(line) for line in log.read_text().split("\n")[:-1]]
    played.logged = {entry["n"]: entry for entry in entries if entry["n"]}
    return played


def _bootstrap(port: int, origin: int, admin: int, log: Path) -> Json:
    hosts = [virtual_host(name, _routes(name), domains) for name, domains in _DOMAINS.items()]
    python = {"@type": "type.googleapis.com/pymesh.filters.v1.PythonFilter", "class": "probe:Probe", "source": _FILTER}
    router = {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}
    filters = [{"name": "probe", "typed_config": python}, {"name": "router", "typed_config": router}]
    line = {"n": "%REQ(X-N)%", "path": "%REQ(:PATH)%", "authority": "%REQ(:AUTHORITY)%", "status": "%RESPONSE_CODE%"}
    listener = http_listener(port, hosts, http_filters=filters, access_log=[file_log(log, line)], **HARDENED)
    return bootstrap([listener], [cluster("origin", [origin])], admin)


def _routes(virtual_host: str) -> list[Json]:
    """Routes that tell what they saw, and which they are."""

    def told(name: str) -> list[Json]:
        values = {
            "route": f"{virtual_host}/{name}",
            "routed-path": "%REQ(:PATH)%",
            "routed-authority": "%REQ(:AUTHORITY)%",
        }
        return [{"header": {"key": f"x-{key}", "value": value}} for key, value in values.items()]

    return [
        {"match": match, "route": {"cluster": "origin"}, "request_headers_to_add": told(name)}
        for name, match in _ROUTES.items()
    ]


def test_all_see_what_was_sent(played: Played) -> None:
    assert len(played.arrived) > PAIRS
    wrong = []
    for number, one in played.arrived.items():
        entry, fields = played.logged[number], one.fields
        views = {
            "sent": (one.target, one.host),
            "filter": (fields["x-filter-path"], fields["x-filter-authority"]),
            "route": (fields["x-routed-path"], fields["x-routed-authority"]),
            "log": (entry["path"], entry["authority"]),
        }
        if len(set(views.values())) > 1:
            wrong.append(views)
    assert wrong == []


def test_the_route_is_that_of_what_was_sent(played: Played) -> None:
    taken = {one.fields["x-route"] for one in played.arrived.values()}
    assert len(taken) == len(_DOMAINS) * len(_ROUTES), taken
    wrong = [one for one in played.arrived.values() if one.fields["x-route"] != _route_of(one.target, one.host)]
    assert wrong == []


def test_what_was_sent_needs_no_more_normalizing(played: Played) -> None:
    """Whoever decodes what need not be encoded, resolves dots or merges slashes behind us finds nothing to do."""
    loose = re.compile(
        r"//|/\.{1,2}(;[^/]*)?(/|$)|[\\\\<>\"^`{|}#]|%(2f|5c|00)|%(2[de]|3\d|[46][1-9a-f]|5[0-9af]|7[0-9ae])", re.I
    )
    paths = {one.target.partition("?")[0] for one in played.arrived.values()}
    assert [path for path in paths if not path.startswith("/") or loose.search(path)] == []
    hosts = {one.host for one in played.arrived.values()}
    assert [host for host in hosts if re.search(r":\d*$", host) or (host.endswith(".") and host != ".")] == []


def test_both_versions_are_taken_alike(played: Played) -> None:
    for number, target in enumerate(played.targets):
        one, two = (played.arrived.get(f"{version}-{number}") for version in (1, 2))
        assert (one and (one.target, one.host)) == (two and (two.target, two.host)), target


def test_what_was_refused_did_not_arrive(played: Played) -> None:
    passed = {number for number, entry in played.logged.items() if entry["status"] == 200}
    assert passed == played.arrived.keys()


def _route_of(target: str, host: str) -> str:
    """The first route, by a matcher that is not the proxy's."""
    path, host = target.partition("?")[0], host.lower()
    of_host = "exact" if host == "a.test" else "suffix" if re.fullmatch(r".+\.b\.test", host) else "any"
    if path == "/admin":
        return f"{of_host}/admin"
    if path.startswith("/admin/"):
        return f"{of_host}/below"
    if re.fullmatch("/[ab]/[^/]*", path):
        return f"{of_host}/regex"
    return f"{of_host}/tilde" if path.startswith("/~") else f"{of_host}/rest"
