"""Edits of a mesh's files, one for each kind of resource and policy; every one of them takes another form each time.

None of them takes away what a request needs, so none may cost a request.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.lifecycle.mesh import GATEWAY, ISTIO, OWN, SECURITY, Json, Mesh, document, to

Edit = Callable[[Mesh], None]
BOTH = {"v1": "eu/a", "v2": "eu/b"}


def weights(mesh: Mesh) -> None:
    """Two versions, and more of one of them each time."""
    mesh.by_gateway_api = False
    mesh.versions, mesh.subsets = dict(BOTH), ("v1", "v2")
    share = 10 + mesh.turn * 7 % 80
    mesh.weights = {"v1": 100 - share, "v2": share}


def subset_removed(mesh: Mesh) -> None:
    """Nobody asks for one of the versions any more."""
    mesh.weights, mesh.subsets = {"v1": 100}, ("v1",)


def endpoints(mesh: Mesh) -> None:
    """Another endpoint in place of those that serve. Before they go, nobody asks for their version any more."""
    mesh.weights, mesh.subsets = {}, ()
    mesh.edit()
    mesh.versions = {"v2": "eu/b"} if "v1" in mesh.versions else {"v1": "eu/a"}
    mesh.edit()
    mesh.versions = dict(BOTH) if mesh.turn % 2 else mesh.versions


def balancing(mesh: Mesh) -> None:
    """By turns, by load, by chance; new endpoints warm up."""
    simple = ("ROUND_ROBIN", "LEAST_REQUEST", "RANDOM")[mesh.turn % 3]
    warmup = {} if simple == "RANDOM" else {"warmup": {"duration": "20s", "minimumPercent": 20}}
    mesh.policy["loadBalancer"] = {"simple": simple, **warmup}


def hashing(mesh: Mesh) -> None:
    """Rings and tables, by whatever tells clients apart."""
    by: Json = (
        {"httpHeaderName": "user-agent"},
        {"httpCookie": {"name": "user", "ttl": "10s"}},
        {"useSourceIp": True},
        {"httpQueryParameterName": "user"},
    )[mesh.turn % 4]
    table = ({"maglev": {"tableSize": 1009}}, {"ringHash": {"minimumRingSize": 512}})[mesh.turn // 4 % 2]
    mesh.policy["loadBalancer"] = {"consistentHash": {**by, **table}}


def localities(mesh: Mesh) -> None:
    """Nearest first, then shares by locality, then none of it."""
    outliers = {"consecutive5xxErrors": 10 + mesh.turn, "maxEjectionPercent": 50}
    shares = [{"from": "eu/a/*", "to": {"eu/a/*": 60, "eu/b/*": 40}}]
    setting: Json = ({"enabled": True}, {"distribute": shares}, {"enabled": False})[mesh.turn % 3]
    mesh.versions = dict(BOTH)
    mesh.policy |= {"outlierDetection": outliers, "loadBalancer": {"localityLbSetting": setting}}


def limits(mesh: Mesh) -> None:
    """Circuit breakers, retry budgets, what a connection carries; outliers."""
    mesh.policy |= {
        "connectionPool": {
            "tcp": {"maxConnections": 200 + mesh.turn, "connectTimeout": "5s"},
            "http": {
                "http1MaxPendingRequests": 500 + mesh.turn,
                "http2MaxRequests": 900 + mesh.turn,
                "maxRetries": 100 + mesh.turn,
                "maxRequestsPerConnection": 50 + mesh.turn,
                "idleTimeout": f"{20 + mesh.turn}s",
            },
        },
        "outlierDetection": {"consecutive5xxErrors": 5 + mesh.turn, "interval": "10s"},
    }


def health_checks(mesh: Mesh) -> None:
    """Endpoints are asked over HTTP, over TCP, or not at all."""
    probe: Json = ({"http": {"path": "/"}}, {"tcp": {}}, {})[mesh.turn % 3]
    pace = {"interval": "500ms", "noTrafficInterval": "500ms", "timeout": "5s"}
    target = {"targetRefs": [{"kind": "Service", "name": mesh.host}]}
    mesh.more_resources["checks"] = (
        [document(OWN, "HealthCheckPolicy", "http", **target, **pace, **probe)] if probe else []
    )


def rate_limits(mesh: Mesh) -> None:
    """More than anybody asks, by total and by identity; or none."""
    many: Json = {"requests": 100_000 + mesh.turn, "per": "1s"}
    spec: Json = ({"total": many}, {"rules": [{"limit": many, "each": "Identity"}]}, {})[mesh.turn % 3]
    target = {"targetRefs": [{"kind": "Service", "name": mesh.host}]}
    mesh.more_resources["limits"] = [document(OWN, "LocalRateLimit", "http", **target, **spec)] if spec else []


def retries(mesh: Mesh) -> None:
    """How long, and how often."""
    mesh.by_gateway_api = False
    mesh.rule |= {
        "timeout": f"{20 + mesh.turn}s",
        "retries": {"attempts": 1 + mesh.turn % 3, "retryOn": "connect-failure,refused-stream", "perTryTimeout": "15s"},
    }


def mirrors(mesh: Mesh) -> None:
    """Some requests are copied aside."""
    mesh.by_gateway_api = False
    mesh.rule["mirrors"] = [{**to("aside"), "percentage": {"value": 20 + mesh.turn % 50}}] if mesh.turn % 2 else []


def faults(mesh: Mesh) -> None:
    """Some requests are held back; those that ask for it are refused."""
    mesh.by_gateway_api = False
    mesh.rule["fault"] = {"delay": {"fixedDelay": "10ms", "percentage": {"value": 10 + mesh.turn % 40}}}
    refusal = {"fault": {"abort": {"httpStatus": 418, "percentage": {"value": 100}}}, "route": [to(mesh.host)]}
    mesh.before = [{"match": [{"headers": {"x-fail": {"exact": str(mesh.turn)}}}], **refusal}]


def rules(mesh: Mesh) -> None:
    """Redirects, direct responses, rewrites and headers."""
    mesh.by_gateway_api = False
    mesh.before = [
        {"match": [{"uri": {"exact": f"/moved/{mesh.turn}"}}], "redirect": {"uri": "/"}},
        {
            "match": [{"uri": {"prefix": "/told"}}],
            "directResponse": {"status": 200, "body": {"string": str(mesh.turn)}},
        },
    ]
    mesh.request_headers = {"set": {"x-way": str(mesh.turn)}, "remove": ["x-none"]}
    mesh.rule["rewrite"] = {"uri": "/", "authority": f"host-{mesh.turn}.test"}
    mesh.rule["corsPolicy"] = {"allowOrigins": [{"prefix": f"https://{mesh.turn}."}], "allowMethods": ["GET"]}


def gateway_api(mesh: Mesh) -> None:
    """HTTPRoute and GRPCRoute in place of VirtualServices, or back."""
    mesh.by_gateway_api = not mesh.by_gateway_api


def renamed(mesh: Mesh) -> None:
    """The service has another name, in every file."""
    mesh.more_resources.pop("checks", None)
    mesh.more_resources.pop("limits", None)
    mesh.before, mesh.host = [], f"http-{mesh.turn}"


def listeners(mesh: Mesh) -> None:
    """Another port of the gateway: HTTP, HTTPS, TCP, one of the Gateway API; or none."""
    port = mesh.ports.other
    aside = [to("aside")]
    mesh.servers, mesh.at_edge = [], []
    if mesh.turn % 5 == 0:
        mesh.servers = [{"port": {"number": port, "name": "http-2", "protocol": "HTTP"}, "hosts": ["*"]}]
    elif mesh.turn % 5 == 1:
        secret = mesh.authority.secret("other", [f"other-{mesh.turn}.test"])
        secret["metadata"]["namespace"] = "load"
        tls = {"mode": "SIMPLE", "credentialName": "other"}
        mesh.servers = [{"port": {"number": port, "name": "https", "protocol": "HTTPS"}, "hosts": ["*"], "tls": tls}]
        mesh.at_edge = [secret]
    elif mesh.turn % 5 == 2:
        mesh.servers = [{"port": {"number": port, "name": "tcp", "protocol": "TCP"}, "hosts": ["*"]}]
        tcp = [{"match": [{"port": port}], "route": aside}]
        mesh.at_edge = [document(ISTIO, "VirtualService", "tcp", hosts=["*"], gateways=["edge"], tcp=tcp)]
    elif mesh.turn % 5 == 3:
        one = {"name": "http", "port": port, "protocol": "HTTP"}
        rule = {"backendRefs": [{"name": "aside", "port": 80}]}
        mesh.at_edge = [
            document(GATEWAY, "Gateway", "kube", gatewayClassName="pymesh", listeners=[one]),
            document(GATEWAY, "HTTPRoute", "kube", parentRefs=[{"name": "kube"}], rules=[rule]),
        ]


def hosts(mesh: Mesh) -> None:
    """The gateway takes another host beside the one that is asked for."""
    mesh.hosts = ("load.test", f"host-{mesh.turn}.test")


def egress(mesh: Mesh) -> None:
    """The relay may call a partner, who is found by name or by address."""
    by_name = mesh.turn % 2 == 0
    found = {"address": "localhost" if by_name else "127.0.0.1", "ports": {"http": mesh.more}}
    entry = document(
        ISTIO,
        "ServiceEntry",
        "partner",
        hosts=[f"partner-{mesh.turn}.test"],
        ports=[{"number": 80, "name": "http", "protocol": "HTTP"}],
        resolution="DNS" if by_name else "STATIC",
        endpoints=[found],
    )
    mesh.more_resources["partner"] = [entry]
    port = {"number": mesh.ports.other, "protocol": "HTTP", "name": "partner"}
    mesh.egress = [{"port": port, "bind": "127.0.0.2", "captureMode": "NONE", "hosts": [f"*/partner-{mesh.turn}.test"]}]


def peers(mesh: Mesh) -> None:
    """Mutual TLS stays possible, whatever else is."""
    mode = {"mode": ("STRICT", "PERMISSIVE")[mesh.turn % 2]}
    own = {"selector": {"matchLabels": {"app": "server"}}, "mtls": mode}
    ported = {**own, "portLevelMtls": {mesh.ports.served["v1"]: {"mode": "STRICT"}}}
    spec: Json = ({"mtls": mode}, own, ported)[mesh.turn % 3]
    mesh.more_resources["peers"] = [document(SECURITY, "PeerAuthentication", "peers", **spec)]


def access(mesh: Mesh) -> None:
    """Whoever asks is allowed, by identity or because nothing is said; others are denied."""
    relay = {"from": [{"source": {"principals": ["cluster.local/ns/load/sa/relay"]}}]}
    to_read = {**relay, "to": [{"operation": {"methods": ["GET", "POST"]}}]}
    refused = {"when": [{"key": "request.headers[x-evil]", "values": [str(mesh.turn)]}]}
    selector = {"selector": {"matchLabels": {"app": "server"}}}
    found: list[Json] = (
        [document(SECURITY, "AuthorizationPolicy", "allow", **selector, rules=[to_read])],
        [
            document(SECURITY, "AuthorizationPolicy", "allow", **selector, rules=[relay]),
            document(SECURITY, "AuthorizationPolicy", "deny", action="DENY", rules=[refused]),
        ],
        [document(SECURITY, "AuthorizationPolicy", "audit", action="AUDIT", rules=[{}])],
        [],
    )[mesh.turn % 4]
    mesh.more_resources["access"] = found


#: Eight of them spread over the list are what `make test` has time for.
EDITS: list[Edit] = [
    weights, hosts, limits,
    health_checks, mirrors, rate_limits,
    peers, hashing,
    access, balancing, retries,
    localities, subset_removed, rules,
    gateway_api, egress,
    renamed, faults,
    listeners, endpoints,
]  # fmt: skip
