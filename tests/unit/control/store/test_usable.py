"""What is wrong is left out, and nothing else is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pymesh.control.resources.closed import closed
from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.locality import DISTRIBUTION_ANNOTATION
from pymesh.control.resources.metadata import Resource
from pymesh.control.resources.objects import load_object
from pymesh.control.store.store import MeshOptions, Store
from pymesh.control.store.usable import assemble_usable
from pymesh.control.translate import translate
from pymesh.control.translate.proxy import Proxy
from pymesh.control.xds import pb

ISTIO = "networking.istio.io/v1"


def one(version: str, kind: str, name: str, spec: Any, **metadata: Any) -> Resource:
    report = Report()
    meta = {"name": name, "namespace": "shop", **metadata}
    made = load_object({"apiVersion": version, "kind": kind, "metadata": meta, "spec": spec}, report)
    assert made is not None, report.diagnostics
    return made


def service(name: str) -> Resource:
    return one("v1", "Service", name, {"ports": [{"name": "http", "port": 80}]})


def virtual(name: str, host: str, subset: str = "") -> Resource:
    destination = {"host": host, **({"subset": subset} if subset else {})}
    return one(ISTIO, "VirtualService", name, {"hosts": [host], "http": [{"route": [{"destination": destination}]}]})


def usable(
    *resources: Resource, instead: dict[str, list[Resource]] | None = None
) -> tuple[Store, list[str], list[str]]:
    report = Report()
    others = {file: iter(found) for file, found in (instead or {}).items()}
    store, used = assemble_usable(resources, MeshOptions(), report, lambda file: next(others.get(file, iter(())), None))
    return store, sorted(each.title for each in used), [str(found) for found in report.diagnostics]


def test_a_wrong_reference_takes_its_own_resource_away() -> None:
    store, used, found = usable(service("a"), service("b"), virtual("to-a", "a"), virtual("to-c", "c"))
    assert used == ["Service shop/a", "Service shop/b", "VirtualService shop/to-a"]
    assert len(store.virtual_services) == 1
    assert {text.partition(": ")[0] for text in found} == {
        "VirtualService/shop/to-c:spec.hosts",
        "VirtualService/shop/to-c:spec.http[0].route[0].destination.host",
    }


def test_what_depends_on_what_is_left_out_is_left_out_too() -> None:
    rule = one(ISTIO, "DestinationRule", "r", {"host": "nobody", "subsets": [{"name": "v1"}]})
    policy = one(
        ISTIO, "VirtualService", "w", {"hosts": ["nobody"], "http": [{"route": [{"destination": {"host": "a"}}]}]}
    )
    _, used, found = usable(service("a"), rule, policy)
    assert used == ["Service shop/a"]
    assert len(found) == 2


def test_who_refers_to_what_is_not_there_stays_with_the_rest_of_what_it_says() -> None:
    """Whoever deletes one service, or one subset of it, takes nothing from those who name others beside it."""
    shares = [{"destination": {"host": name}, "weight": 50} for name in ("a", "gone")]
    split = one(ISTIO, "VirtualService", "v", {"hosts": ["a", "gone"], "http": [{"route": shares}]})
    subset = virtual("w", "b", "no-subset")
    egress = [{"hosts": ["shop/a.shop.svc.cluster.local", "shop/gone"]}]
    sidecar = one(ISTIO, "Sidecar", "s", {"egress": egress, "outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}})
    requests = route("HTTPRoute", "r", {"name": "edge"}, to="gone")
    store, used, found = usable(service("a"), service("b"), gateway("edge"), split, subset, sidecar, requests)
    assert {split.title, subset.title, sidecar.title, requests.title} < set(used)
    assert len(store.virtual_services) == 2
    assert [text.partition(": ")[0] for text in found] == [
        "HTTPRoute/shop/r:spec.rules[0].backendRefs[0].name",
        "Sidecar/shop/s:spec.egress[0].hosts",
        "VirtualService/shop/v:spec.hosts",
        "VirtualService/shop/v:spec.http[0].route[1].destination.host",
        "VirtualService/shop/w:spec.http[0].route[0].destination.subset",
    ]
    assert all(": error: " in text for text in found)


def delegating(name: str, spec: dict[str, Any], *rules: dict[str, Any]) -> Resource:
    return one(ISTIO, "VirtualService", name, {**spec, "http": [{"delegate": {"name": "rules"}}, *rules]})


def test_who_deletes_a_delegate_takes_no_more_than_its_own_requests() -> None:
    own = {"name": "own", "route": [{"destination": {"host": "a"}}]}
    root = delegating("root", {"hosts": ["a"]}, own)
    root_alone, used, (found,) = usable(service("a"), root)
    assert root.title in used
    assert "there is no VirtualService shop/rules" in found
    made = translate(root_alone, Proxy("sidecar", "10.0.0.1", "web", "shop", interception="REDIRECT")).messages
    lost, kept = made[pb.ROUTES]["80"].virtual_hosts[0].routes
    assert lost.direct_response.status == 503, "they are not for the rule behind"
    assert kept.route.cluster == "outbound|80||a.shop.svc.cluster.local"


@pytest.mark.parametrize(
    ("spec", "wrong"),
    [
        ({"hosts": ["a"], "gateways": ["none"]}, "there is no Gateway 'none'"),
        ({"hosts": ["b"], "gateways": ["edge", "mesh"]}, "sidecars of clients know no claims"),
    ],
)
def test_who_delegates_wrongly_takes_the_delegate_from_nobody_else(spec: dict[str, Any], wrong: str) -> None:
    claims = {"match": [{"headers": {"@request.auth.claims.sub": {"exact": "ann"}}}]}
    shares = [{"destination": {"host": each}, "weight": 50} for each in ("a", "gone")]
    rules = one(ISTIO, "VirtualService", "rules", {"http": [{**claims, "route": shares}]})
    server = {"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}
    edge = one(ISTIO, "Gateway", "edge", {"selector": {"app": "edge"}, "servers": [server]})
    good, bad = (
        delegating("good", {"hosts": ["a"], "gateways": ["edge"]}),
        delegating("bad", spec),
    )
    store, used, found = usable(service("a"), service("b"), edge, rules, good, bad)
    assert (good.title in used, rules.title in used, bad.title in used) == (True, True, False)
    assert len(store.virtual_services[0].spec.http[0].route) == 2
    assert any(wrong in text and text.startswith("VirtualService/shop/bad:") for text in found)


def test_what_is_said_of_references_is_said_of_what_is_in_force() -> None:
    """Of two services of one host the older one is wrong: what the other one has is there to be referred to."""
    old = {"creationTimestamp": "2026-01-01T00:00:00Z", "annotations": {DISTRIBUTION_ANNOTATION: "Wrong"}}
    ported = one("v1", "Service", "a", {"ports": [{"name": "http", "port": 80}]}, **old)
    port = {"name": "http", "number": 8080, "protocol": "HTTP"}
    entry = {"hosts": ["a.shop.svc.cluster.local"], "ports": [port], "resolution": "STATIC"}
    entry["endpoints"] = [{"address": "10.0.0.8"}]
    newer = one(ISTIO, "ServiceEntry", "a", entry)
    to = {"destination": {"host": "a", "port": {"number": 8080}}}
    referring = one(ISTIO, "VirtualService", "v", {"hosts": ["a"], "http": [{"route": [to]}]})
    _, used, (found,) = usable(ported, newer, referring)
    assert used == [newer.title, referring.title]
    assert found.startswith("Service/shop/a:metadata.annotations: error:")


def test_who_is_its_own_rival_keeps_the_place_from_nobody() -> None:
    port = {"name": "http", "number": 80, "protocol": "HTTP"}
    entry = {"ports": [port], "resolution": "DNS"}
    first = one(ISTIO, "ServiceEntry", "a", {**entry, "hosts": ["api.example", "api.example"]})
    second = one(ISTIO, "ServiceEntry", "b", {**entry, "hosts": ["api.example"]})
    _, used, found = usable(first, second)
    assert used == [second.title]
    assert all(text.startswith("ServiceEntry/shop/a:") for text in found)


def test_another_name_stays_for_the_ports_that_the_service_still_has() -> None:
    ports = [{"name": "http", "port": 80}, {"name": "admin", "port": 81}]
    spec = {"type": "ExternalName", "externalName": "a.shop.svc.cluster.local", "ports": ports}
    other = one("v1", "Service", "other", spec)
    store, used, (found,) = usable(service("a"), other)
    assert other.title in used
    assert "'a.shop.svc.cluster.local' has no port 81" in found
    made = store.services["other.shop.svc.cluster.local"]
    assert (made.resolution, dict(made.backends)) == ("EDS", {80: (), 81: ()})


def test_a_second_policy_for_a_target_is_for_its_others() -> None:
    def policy(name: str, *targets: str) -> Resource:
        spec = {"targetRefs": [{"kind": "Service", "name": each} for each in targets], "tcp": {}}
        return one("extensions.pymesh.dev/v1alpha1", "HealthCheckPolicy", name, spec)

    first, second, third = policy("1", "a"), policy("2", "a", "b"), policy("3", "a", "b")
    store, used, found = usable(service("a"), service("b"), first, second, third)
    assert first.title in used and second.title in used and third.title not in used
    assert {host.partition(".")[0]: each for (host, _), each in store.health_checks.items()} == {
        "a": first,
        "b": second,
    }
    assert [text.partition(": ")[0] for text in found] == [
        "HealthCheckPolicy/shop/2:spec.targetRefs[0].name",
        "HealthCheckPolicy/shop/3:spec.targetRefs[0].name",
        "HealthCheckPolicy/shop/3:spec.targetRefs[1].name",
    ]


def test_a_rule_whose_secret_is_gone_lets_nobody_speak_in_plain_text() -> None:
    tls = {"mode": "SIMPLE", "credentialName": "gone"}
    rule = one(ISTIO, "DestinationRule", "r", {"host": "a", "trafficPolicy": {"tls": tls}})
    store, used, (found,) = usable(service("a"), rule)
    assert rule.title in used
    assert "there is no Secret shop/gone" in found
    proxy = Proxy("sidecar", "10.0.0.1", "web", "shop", interception="REDIRECT")
    made = translate(store, proxy).messages
    cluster = made[pb.CLUSTER]["outbound|80||a.shop.svc.cluster.local"]
    assert (cluster.type, len(cluster.load_assignment.endpoints)) == (pb.Cluster.STATIC, 0), "nobody is reached"
    assert not made[pb.ENDPOINTS]


def test_a_secret_that_cannot_be_used_is_as_good_as_none() -> None:
    tls = {"mode": "MUTUAL", "credentialName": "s"}
    rule = one(ISTIO, "DestinationRule", "r", {"host": "a", "trafficPolicy": {"tls": tls}})
    report = Report()
    head = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "shop"}}
    secret = load_object({**head, "stringData": dict.fromkeys(("tls.crt", "tls.key", "ca.crt"), "no PEM")}, report)
    assert secret is not None, report.diagnostics
    store, used, found = usable(service("a"), rule, secret)
    assert rule.title in used
    assert all("Secret shop/s has a" in text for text in found)
    made = translate(store, Proxy("sidecar", "10.0.0.1", "web", "shop", interception="REDIRECT")).messages
    assert made[pb.CLUSTER]["outbound|80||a.shop.svc.cluster.local"].type == pb.Cluster.STATIC
    assert not made[pb.SECRET], "no proxy has to refuse it"


def test_the_last_good_version_comes_before_one_that_refers_to_nothing() -> None:
    newest, good = virtual("v", "a", "v2"), virtual("v", "a")
    store, used, _ = usable(service("a"), newest, instead={newest.at.file: [good]})
    assert (used, store.virtual_services) == (["Service shop/a", "VirtualService shop/v"], [good])


def test_who_refers_to_nothing_and_is_wrong_besides_is_left_out() -> None:
    claims = {"match": [{"headers": {"@request.auth.claims.sub": {"exact": "ann"}}}]}
    rules = [{**claims, "route": [{"destination": {"host": "gone"}}]}]
    wrong = one(ISTIO, "VirtualService", "v", {"hosts": ["a"], "http": rules})
    _, used, found = usable(service("a"), wrong)
    assert used == ["Service shop/a"]
    assert len(found) == 2


def test_the_second_of_two_is_left_out() -> None:
    first, second = virtual("first", "a"), virtual("second", "a")
    _, used, (found,) = usable(service("a"), second, first)
    assert used == ["Service shop/a", "VirtualService shop/first"]
    assert found.startswith("VirtualService/shop/second:spec.hosts: error: 'a.shop.svc.cluster.local' has two")


def test_what_stands_in_is_judged_as_well() -> None:
    wrong = virtual("v", "c")
    still_wrong, right = virtual("v", "b"), virtual("v", "a")
    _, used, _ = usable(service("a"), wrong, instead={wrong.at.file: [still_wrong, right]})
    assert used == ["Service shop/a", "VirtualService shop/v"]
    _, used, _ = usable(service("a"), wrong, instead={wrong.at.file: [still_wrong]})
    assert used == ["Service shop/a"]


SECURITY = "security.istio.io/v1"
TARGETS = [{"kind": "Service", "name": "a"}, {"kind": "Service", "name": "gone"}]


def test_what_is_gone_takes_no_policy_from_what_is_left() -> None:
    """A Service that is deleted, a Gateway that is left out: the policy is there for its other targets."""
    gateway = {
        "gatewayClassName": "pymesh",
        "listeners": [
            {"name": "h", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "no-secret"}]}}
        ],
    }
    group = "gateway.networking.k8s.io"
    targets = [{"kind": "Gateway", "group": group, "name": "left-out"}, *TARGETS]
    keys = [{"issuer": "i", "jwksUri": "https://keys.example"}]
    rules = {"targetRefs": targets, "action": "DENY", "rules": [{"to": [{"operation": {"paths": ["/admin*"]}}]}]}
    store, used, found = usable(
        service("a"),
        one(f"{group}/v1", "Gateway", "left-out", gateway),
        one(SECURITY, "AuthorizationPolicy", "p", rules),
        one(SECURITY, "RequestAuthentication", "r", {"targetRefs": targets, "jwtRules": keys}),
        one("extensions.pymesh.dev/v1alpha1", "PythonFilter", "f", {"class": "f:F", "targetRefs": TARGETS}),
        one("extensions.pymesh.dev/v1alpha1", "LocalRateLimit", "l", {"targetRefs": TARGETS, "total": {"requests": 1}}),
    )
    assert used == [
        "AuthorizationPolicy shop/p",
        "LocalRateLimit shop/l",
        "PythonFilter shop/f",
        "RequestAuthentication shop/r",
        "Service shop/a",
    ]
    assert [each.spec.action for each in store.policies] == ["DENY"]
    assert sum("nothing is selected by it" in text for text in found) == 6


#: Kind -> version and what is wrong in its spec, so that it cannot be read.
UNREADABLE: dict[str, tuple[str, dict[str, Any]]] = {
    "AuthorizationPolicy": (SECURITY, {"rules": [{"form": []}]}),
    "PeerAuthentication": (SECURITY, {"mtls": {"mode": "STRIKT"}}),
    "PythonFilter": ("extensions.pymesh.dev/v1alpha1", {"class": "f:F", "source": "class F(:"}),
    "RequestAuthentication": (SECURITY, {"jwtRules": [{"issuer": "i", "jwks": "{", "fromHeaders": "x-jwt"}]}),
}


@pytest.mark.parametrize("kind", UNREADABLE)
@pytest.mark.parametrize(
    "selecting",
    [
        {},
        {"selector": {"matchLabels": {"app": "gone"}}},
        {"selector": {"app": "gone"}},
        {"selector": None},
        {"targetRefs": TARGETS},
        {"targetRefs": [{"kind": "Service", "name": "gone"}]},
        {"targetRefs": [{"kind": "Gateway", "name": "gone", "group": "gateway.networking.k8s.io"}]},
        {"targetRefs": [{"kind": "Nobody"}]},
        {"targetRefs": "gone"},
        {"selector": {"matchLabels": {"app": "a"}}, "targetRefs": TARGETS},
    ],
)
def test_nothing_takes_away_what_closes(kind: str, selecting: dict[str, Any]) -> None:
    """Whatever else is wrong or missing: what stands in for a policy refers to nothing that would have to be there."""
    version, wrong = UNREADABLE[kind]
    written = {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": "p", "namespace": "shop"},
        "spec": {**wrong, **selecting},
    }
    assert load_object(written, Report()) is None
    shut = closed(written)
    assert shut is not None
    # The only one that stands in: were it dropped, nothing would be left.
    _, used, found = usable(shut)
    assert used == [f"{kind} shop/p"]
    assert all(": warning: " in text for text in found)


GROUP = "gateway.networking.k8s.io/v1"
HTTP = {"name": "http", "port": 80, "protocol": "HTTP"}


def gateway(name: str, *listeners: dict[str, Any]) -> Resource:
    return one(GROUP, "Gateway", name, {"gatewayClassName": "pymesh", "listeners": list(listeners or [HTTP])})


def route(kind: str, name: str, *parents: dict[str, Any], to: str = "a") -> Resource:
    return one(GROUP, kind, name, {"parentRefs": list(parents), "rules": [{"backendRefs": [{"name": to, "port": 80}]}]})


def bound(store: Store) -> list[str]:
    """Which routes are in force at which listener."""
    routes = [*store.http_routes, *store.grpc_routes, *store.tcp_routes]
    return [
        f"{each.name} at {gateway.name}/{listener.name}"
        for gateway in store.kube_gateways
        for listener in gateway.spec.listeners
        for each in routes
        if store.binds(each, gateway, listener)
    ]


def test_a_route_that_one_parent_refuses_is_in_force_at_the_others() -> None:
    here, gone, closed = {"name": "edge"}, {"name": "gone"}, {"name": "edge", "sectionName": "https"}
    nobody = {"group": "", "kind": "Service", "name": "nobody"}
    store, used, found = usable(
        service("a"),
        gateway("edge"),
        route("HTTPRoute", "r", here, gone, closed, nobody),
        route("HTTPRoute", "q", gone),
    )
    assert "HTTPRoute shop/r" in used
    assert "HTTPRoute shop/q" not in used, "nobody takes it"
    assert bound(store) == ["r at edge/http"]
    assert [text.partition("\n")[0] for text in found] == [
        "HTTPRoute/shop/q:spec.parentRefs[0].name: error: there is no Gateway shop/gone",
        "HTTPRoute/shop/r:spec.parentRefs[1].name: warning: there is no Gateway shop/gone",
        "HTTPRoute/shop/r:spec.parentRefs[2].sectionName: warning: Gateway shop/edge has no listener 'https'",
        "HTTPRoute/shop/r:spec.parentRefs[3].name: warning: there is no service 'nobody'",
    ]


def test_who_has_to_stand_back_at_one_listener_is_in_force_at_another() -> None:
    """And counts there: of calls and requests for one host the older has it, at each listener by itself."""
    both = ({"name": "first"}, {"name": "second"})
    store, used, found = usable(
        service("a"),
        gateway("first"),
        gateway("second"),
        route("HTTPRoute", "a-requests", both[0]),
        route("GRPCRoute", "b-calls", *both),
        route("HTTPRoute", "c-requests", both[1]),
    )
    assert [one for one in used if "Route" in one] == ["GRPCRoute shop/b-calls", "HTTPRoute shop/a-requests"]
    assert bound(store) == ["a-requests at first/http", "b-calls at second/http"]
    assert [text.partition(": ")[2].partition(" at ")[0] for text in found] == ["warning: '*'", "error: '*'"]


def test_who_refers_to_nothing_keeps_its_place() -> None:
    """Whose turn it is does not change with a service that somebody else deletes."""
    at = {"name": "edge"}
    store, used, found = usable(
        service("a"), gateway("edge"), route("HTTPRoute", "a", at, to="nobody"), route("GRPCRoute", "b", at)
    )
    assert bound(store) == ["a at edge/http"]
    assert "GRPCRoute shop/b" not in used
    assert len(found) == 2
    _, used, _ = usable(service("a"), virtual("second", "a"), virtual("first", "a", "no-subset"))
    assert used == ["Service shop/a", "VirtualService shop/first"]


def test_the_second_of_two_is_used_if_the_first_is_wrong_otherwise() -> None:
    claims = [{"match": [{"headers": {"@request.auth.claims.sub": {"exact": "ann"}}}], "redirect": {"uri": "/"}}]
    first = one(ISTIO, "VirtualService", "first", {"hosts": ["a"], "http": claims})
    _, used, (found,) = usable(service("a"), virtual("second", "a"), first)
    assert used == ["Service shop/a", "VirtualService shop/second"]
    assert "sidecars of clients know no claims" in found, "nothing is said of what does not matter in the end"


def test_the_second_route_for_connections_is_in_force_where_there_is_no_first() -> None:
    tcp = {"name": "tcp", "port": 90, "protocol": "TCP"}
    store, _, _ = usable(
        service("a"),
        gateway("first", tcp),
        gateway("second", tcp),
        route("TCPRoute", "a", {"name": "first"}),
        route("TCPRoute", "b", {"name": "first"}, {"name": "second"}),
    )
    assert bound(store) == ["a at first/tcp", "b at second/tcp"]


def test_a_route_beside_an_older_virtual_service_is_in_force_for_other_services() -> None:
    written = virtual("v", "a")
    older = replace(written, metadata=replace(written.metadata, creation_timestamp="2026-01-01T00:00:00Z"))
    parents = [{"group": "", "kind": "Service", "name": name} for name in ("a", "b")]
    store, used, (found,) = usable(service("a"), service("b"), older, route("HTTPRoute", "r", *parents))
    assert "HTTPRoute shop/r" in used
    of = {name: store.service(name, "shop") for name in ("a", "b")}
    heard = {name: store.mesh_routes(store.http_routes, each, 80, "shop") for name, each in of.items() if each}
    assert [len(each) for each in heard.values()] == [0, 1]
    assert "warning: 'a.shop.svc.cluster.local' has both a HTTPRoute and a VirtualService" in found
