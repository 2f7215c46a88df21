"""A mesh of few workloads, random resources for it, and random requests in it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from pymesh.explain.question import Question
from tests.tools.signing import Issuer

Document = dict[str, Any]
NAMESPACE = "shop"
#: Who calls whom. `reviews` has two versions, told apart by subsets.
CALLERS = ("web", "job", "reviews-v2")
CALLED = ("reviews", "ratings")
#: A service of connections, whose requests the proxies do not see.
RAW = "raw"
DOOR, DOOR_HOST = "door", "shop.example"
#: Who is asked about some requests, and lets all of them pass.
USHER = "usher"
SUBSETS = {"reviews": ("v1", "v2"), "ratings": ("v1", "v3")}  # no workload is ratings v3

_APP = """
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""

_METHODS = ("GET", "GET", "GET", "HEAD", "POST", "PUT", "DELETE")
_PATHS = ("/", "/a", "/a/b", "/a/b/c", "/admin", "/admin/x", "/Admin", "/items/42", "/items/x", "/old/y", "/round")
#: Other ways to write them, and ways that are refused.
_WRITTEN = ("/a//b", "/x/../admin", "/./admin/x", "/%61dmin", "/a%2fb", "/a/b?q=/admin", "/admin?x", "/a;b", "/%zz")
_HEADERS = ("x-a", "x-b")
_VALUES = ("a", "b", "ab", "canary")
_OWNERS = ("*", "https://issuer.test/*", "https://issuer.test/ann", "*/bob")
_ACCOUNTS = ("web", "job", "reviews", "ratings", "other")


def write_mesh(folder: Path) -> None:
    """The mesh file, its app, and the folder of its resources."""
    folder.mkdir()
    (folder / "app.py").write_text(_APP)
    (folder / "config").mkdir()

    def app(name: str, service: str, version: str, calls: Sequence[str], protocol: str = "http") -> Document:
        return {
            "name": name,
            "service": service,
            "version": version,
            "serviceAccount": service,
            "command": ["python3", "app.py"],
            "ports": {protocol: "PORT"},
            "calls": list(calls),
        }

    apps = [
        app("web", "web", "v1", [*CALLED, RAW]),
        app("job", "job", "v1", [*CALLED, RAW]),
        app("reviews-v1", "reviews", "v1", ()),
        app("reviews-v2", "reviews", "v2", ["ratings"]),
        app("ratings", "ratings", "v1", ()),
        app(RAW, RAW, "v1", (), "tcp"),
        app(USHER, USHER, "v1", ()),
    ]
    mesh = {
        "apiVersion": "local.pymesh.dev/v1alpha1",
        "kind": "LocalMesh",
        "metadata": {"name": "random", "namespace": NAMESPACE},
        "spec": {"config": ["config"], "apps": apps, "gateways": [{"name": DOOR, "labels": {"istio": DOOR}}]},
    }
    (folder / "mesh.yaml").write_text(yaml.safe_dump(mesh))


class Maker:
    """Makes resources and requests from a seed."""

    def __init__(self, seed: int, door_port: int) -> None:
        self._rng = random.Random(seed)
        self._door_port = door_port
        self._issuer, self._stranger = Issuer("https://issuer.test"), Issuer("https://issuer.test", "2")
        self._other = Issuer("https://other.test")

    def documents(self, number: int) -> list[Document]:
        """Everything for one round. A route, and a policy that only looks, tell in each proxy which round it has."""
        found = [_PROVIDERS, *(self._service(name) for name in ("web", "job", USHER, *CALLED))]
        found += [self._service(RAW, "tcp"), self._gateway(), self._virtual_of_gateway(number)]
        for name in CALLED:
            found += [self._destination(name), self._virtual(name, number)]
            versions = SUBSETS[name]
            found += [self._authorization(name, one, versions) for one in range(self._rng.choice((0, 1, 1, 2, 3)))]
        for name in (*CALLED, DOOR):
            found += [self._request_authentication(name)] if self._chance(0.5) else []
            found += [self._custom(name)] if self._chance(0.4) else []
        found += [self._authorization(RAW, one) for one in range(self._rng.choice((0, 1, 2)))]
        found += [self._authorization(DOOR, 0)] if self._chance(0.4) else []
        look = {"action": "AUDIT", "rules": [{}]}
        found.append(_document("security.istio.io/v1", "AuthorizationPolicy", f"round-{number}", look))
        if self._chance(0.5):
            mtls = {"mtls": {"mode": self._rng.choice(("STRICT", "PERMISSIVE", "DISABLE"))}}
            found.append(_document("security.istio.io/v1", "PeerAuthentication", "general", mtls))
        for name in (*CALLED, RAW):
            if self._chance(0.4):
                spec = {
                    "selector": {"matchLabels": {"app": name}},
                    "mtls": {"mode": self._rng.choice(("STRICT", "PERMISSIVE", "DISABLE", "UNSET"))},
                }
                found.append(_document("security.istio.io/v1", "PeerAuthentication", name, spec))
        return found

    def question(self) -> Question:
        """A request."""
        rng = self._rng
        sender = rng.choice((*CALLERS, *CALLERS, DOOR, "none"))
        service = "ratings" if sender == "reviews-v2" else rng.choice((*CALLED, *CALLED, *CALLED, RAW))
        target = rng.choice(_PATHS) if self._chance(0.75) else rng.choice(_WRITTEN)
        headers = tuple((rng.choice(_HEADERS), rng.choice(_VALUES)) for _ in range(rng.choice((0, 0, 1, 2))))
        if self._chance(0.4):
            headers = (*headers, ("authorization", f"Bearer {self._token()}"))
        at_door = {}
        if sender == DOOR:
            service = rng.choice(CALLED)
            at_door = {"host": rng.choice((DOOR_HOST, DOOR_HOST, "other.example")), "port": self._door_port}
        # A client outside is one on this machine.
        return Question(sender, service, rng.choice(_METHODS), target, headers, source_ip="127.0.0.1", **at_door)

    # --- resources ------------------------------------------------------------------------------------------------

    def _service(self, name: str, protocol: str = "http") -> Document:
        ports = [{"name": protocol, "port": 80, "targetPort": protocol}]
        return _document("v1", "Service", name, {"selector": {"app": name}, "ports": ports})

    def _destination(self, name: str) -> Document:
        subsets = [{"name": one, "labels": {"version": one}} for one in SUBSETS[name]]
        # A connection that is kept is served by the configuration with which it began.
        pool = {"http": {"maxRequestsPerConnection": 1}}
        spec = {"host": name, "subsets": subsets, "trafficPolicy": {"connectionPool": pool}}
        return _document("networking.istio.io/v1", "DestinationRule", name, spec)

    def _request_authentication(self, name: str) -> Document:
        issuers = self._rng.choice(([self._issuer], [self._issuer], [self._other], [self._issuer, self._other]))
        rules: list[Document] = [{"issuer": one.name, "jwks": one.jwks} for one in issuers]
        for rule in rules:
            if self._chance(0.3):
                rule["audiences"] = ["shop"]
        labels = {"istio": DOOR} if name == DOOR else {"app": name}
        spec = {"selector": {"matchLabels": labels}, "jwtRules": rules}
        return _document("security.istio.io/v1", "RequestAuthentication", name, spec)

    def _token(self) -> str:
        rng = self._rng
        claims: Document = {"aud": "shop"} if self._chance(0.5) else {}
        if self._chance(0.5):
            claims["groups"] = rng.choice((["staff"], ["guests", "staff"], "guests"))
        kind = rng.choice(("good", "good", "good", "other", "expired", "stranger", "nonsense"))
        if kind == "nonsense":
            return rng.choice(("x", "a.b.c", ""))
        if kind == "expired":
            claims["exp"] = 1_000_000_000
        issuer = {"other": self._other, "stranger": self._stranger}.get(kind, self._issuer)
        return issuer.token(rng.choice(("ann", "bob")), **claims)

    def _virtual(self, name: str, number: int) -> Document:
        rules = [self._route(name, f"r{number}-{index}") for index in range(self._rng.randint(1, 4))]
        last = {"name": f"r{number}-last", "route": [self._leads_to(name)]}
        return _document("networking.istio.io/v1", "VirtualService", name, {"hosts": [name], "http": [*rules, last]})

    def _gateway(self) -> Document:
        port = {"number": self._door_port, "name": "http", "protocol": "HTTP"}
        server = {"port": port, "bind": "127.0.0.1", "hosts": [DOOR_HOST]}
        spec = {"selector": {"istio": DOOR}, "servers": [server]}
        return _document("networking.istio.io/v1", "Gateway", DOOR, spec)

    def _virtual_of_gateway(self, number: int) -> Document:
        names = [self._rng.choice(CALLED) for _ in range(self._rng.randint(1, 3))]
        rules = [self._route(name, f"r{number}-door-{index}") for index, name in enumerate(names)]
        rules += [{"name": f"r{number}-last", "route": [self._leads_to("reviews")]}] if self._chance(0.7) else []
        spec = {"hosts": [DOOR_HOST], "gateways": [DOOR], "http": rules}
        return _document("networking.istio.io/v1", "VirtualService", DOOR, spec)

    def _leads_to(self, name: str) -> Document:
        shares = SUBSETS[name] if self._chance(0.1) else SUBSETS[name][:1] if name == "ratings" else SUBSETS[name]
        return {"destination": {"host": name, "subset": self._rng.choice(shares), "port": {"number": 80}}}

    def _route(self, name: str, title: str) -> Document:
        rng = self._rng
        rule: Document = {"name": title, "match": [self._match() for _ in range(rng.choice((1, 1, 2)))]}
        kind = rng.random()
        if kind < 0.12:
            rule["directResponse"] = {"status": rng.choice((200, 403, 404, 503))}
            return rule
        if kind < 0.24:
            rule["redirect"] = rng.choice(({"uri": "/new"}, {"authority": "other.test"}, {"scheme": "https"}))
            return rule
        rule["route"] = [self._leads_to(name)]
        if self._chance(0.3):
            rule["rewrite"] = {"uri": rng.choice(("/", "/admin", "/new"))}
        if self._chance(0.15):
            rule["fault"] = {"abort": {"percentage": {"value": 100}, "httpStatus": rng.choice((418, 503))}}
        if self._chance(0.2):
            rule["headers"] = {"request": {"set": {rng.choice(_HEADERS): rng.choice(_VALUES)}}}
        if self._chance(0.2):
            rule["retries"] = {"attempts": rng.choice((0, 1))}
        return rule

    def _match(self) -> Document:
        rng = self._rng
        match: Document = {}
        if self._chance(0.7):
            path = rng.choice(_PATHS)
            kinds = ({"exact": path}, {"prefix": path}, {"regex": rng.choice(("/a/.*", "/items/[0-9]+"))})
            match["uri"] = rng.choice(kinds)
        if self._chance(0.25):
            match["method"] = {"exact": rng.choice(_METHODS)}
        if self._chance(0.25) or not match:
            match["headers"] = {rng.choice(_HEADERS): {"exact": rng.choice(_VALUES)}}
        return match

    def _authorization(self, name: str, number: int, versions: Sequence[str] = ()) -> Document:
        rng = self._rng
        labels = {"istio": DOOR} if name == DOOR else {"app": name}
        if versions and self._chance(0.3):
            labels["version"] = rng.choice(versions)
        action = rng.choice(("ALLOW", "ALLOW", "ALLOW", "DENY", "DENY", "AUDIT"))
        rules = [self._rule(with_tokens=True) for _ in range(rng.randint(1, 3))]
        spec: Document = {"selector": {"matchLabels": labels}, "action": action, "rules": rules}
        if spec["action"] == "ALLOW" and self._chance(0.05):
            del spec["rules"]
        made = _document("security.istio.io/v1", "AuthorizationPolicy", f"{name}-{number}", spec)
        if self._chance(0.1):
            made["metadata"]["annotations"] = {"istio.io/dry-run": "true"}
        return made

    def _custom(self, name: str) -> Document:
        """Requests about which somebody is asked, before tokens are looked at."""
        labels = {"istio": DOOR} if name == DOOR else {"app": name}
        rules = [self._rule(with_tokens=False) for _ in range(self._rng.randint(1, 2))]
        spec = {"selector": {"matchLabels": labels}, "action": "CUSTOM", "provider": {"name": USHER}, "rules": rules}
        return _document("security.istio.io/v1", "AuthorizationPolicy", f"{name}-custom", spec)

    def _rule(self, *, with_tokens: bool) -> Document:
        rng = self._rng
        rule: Document = {}
        if self._chance(0.7):
            sources = [self._some(lambda: self._source(with_tokens=with_tokens)) for _ in range(rng.choice((1, 1, 2)))]
            rule["from"] = [{"source": one} for one in sources]
        if self._chance(0.7):
            rule["to"] = [{"operation": self._some(self._operation)} for _ in range(rng.choice((1, 1, 2)))]
        if self._chance(0.25) or not rule:
            values = {rng.choice(("values", "notValues")): [rng.choice((*_VALUES, "a*", "*"))]}
            rule["when"] = [{"key": f"request.headers[{rng.choice(_HEADERS)}]", **values}]
        elif with_tokens and self._chance(0.2):
            rule["when"] = [{"key": "request.auth.claims[groups]", "values": [rng.choice(("staff", "guests", "*"))]}]
        return rule

    def _some(self, one: Callable[[], tuple[str, list[str]]]) -> Document:
        return dict(one() for _ in range(self._rng.choice((1, 1, 2))))

    def _source(self, *, with_tokens: bool) -> tuple[str, list[str]]:
        rng = self._rng
        account = rng.choice(_ACCOUNTS)
        if with_tokens and self._chance(0.2):
            return rng.choice(("requestPrincipals", "notRequestPrincipals")), [rng.choice(_OWNERS)]
        return rng.choice(
            (
                ("principals", [f"cluster.local/ns/{NAMESPACE}/sa/{account}"]),
                ("principals", [rng.choice(("*", "cluster.local/*", f"*/sa/{account}"))]),
                ("notPrincipals", [f"cluster.local/ns/{NAMESPACE}/sa/{account}"]),
                ("serviceAccounts", [account, "other"]),
                ("notServiceAccounts", [account]),
                ("namespaces", [rng.choice((NAMESPACE, "other", "sh*"))]),
                ("notNamespaces", ["other"]),
                ("ipBlocks", [rng.choice(("127.0.0.0/8", "10.0.0.0/8"))]),
                ("trustDomains", [rng.choice(("cluster.local", "other.test"))]),
            )
        )

    def _operation(self) -> tuple[str, list[str]]:
        rng = self._rng
        path = rng.choice((*_PATHS, "/a/*", "/admin*", "*/x", "/items/{*}", "/a/{**}"))
        return rng.choice(
            (
                ("paths", [path]),
                ("paths", [path, rng.choice(_PATHS)]),
                ("notPaths", [path]),
                ("methods", [rng.choice(_METHODS), "GET"]),
                ("notMethods", [rng.choice(_METHODS)]),
                ("hosts", [rng.choice(("*", "other.test", "*.cluster.local"))]),
                ("ports", [rng.choice(("80", "8080"))]),
                ("notPorts", ["8080"]),
            )
        )

    def _chance(self, share: float) -> bool:
        return self._rng.random() < share


_USHER_HOST = f"{USHER}.{NAMESPACE}.svc.cluster.local"
_CHECK = {"service": _USHER_HOST, "port": 80, "includeRequestHeadersInCheck": ["user-agent"]}
_PROVIDERS: Document = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "istio", "namespace": "istio-system"},
    "data": {"mesh": yaml.safe_dump({"extensionProviders": [{"name": USHER, "envoyExtAuthzHttp": _CHECK}]})},
}


def _document(version: str, kind: str, name: str, spec: Document) -> Document:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}
