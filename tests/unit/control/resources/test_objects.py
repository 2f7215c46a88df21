"""Objects of an API server become the resources that YAML would have made of them."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from pymesh.control.resources.closed import closed
from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.load import load_text
from pymesh.control.resources.objects import is_for_mesh, load_object, place
from pymesh.testing import FilterHarness

#: What a server adds to a Service of a user who has written but its name, selector and port.
SERVICE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {
        "name": "web",
        "namespace": "shop",
        "uid": "7ac0",
        "resourceVersion": "712",
        "creationTimestamp": "2026-11-26T17:00:00Z",
        "managedFields": [{"manager": "kubectl", "operation": "Apply"}],
        "finalizers": ["service.kubernetes.io/load-balancer-cleanup"],
        "ownerReferences": [{"kind": "App", "name": "web"}],
    },
    "spec": {
        "clusterIP": "10.96.3.7",
        "clusterIPs": ["10.96.3.7"],
        "internalTrafficPolicy": "Cluster",
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
        "ports": [
            {"name": "http", "port": 80, "protocol": "TCP", "targetPort": "web", "nodePort": 31234},
            {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
        ],
        "selector": {"app": "web"},
        "sessionAffinity": "None",
        "type": "LoadBalancer",
        "externalTrafficPolicy": "Cluster",
        "allocateLoadBalancerNodePorts": True,
    },
    "status": {"loadBalancer": {}},
}
BARE = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, uid: 7ac0, resourceVersion: "712", creationTimestamp: "2026-11-26T17:00:00Z"}
spec:
  clusterIP: 10.96.3.7
  clusterIPs: [10.96.3.7]
  ipFamilies: [IPv4]
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: web}]
"""


def errors(one: Any) -> list[str]:
    report = Report()
    load_object(one, report)
    return [str(found) for found in report.diagnostics]


def test_what_the_server_adds_makes_no_difference() -> None:
    report = Report()
    made = load_object(SERVICE, report)
    assert [made] == load_text("f.yaml", BARE, report)
    assert not report.diagnostics


def test_places_are_kind_namespace_name_and_field() -> None:
    routes = {"http": [{"name": "a", "route": [{"destination": {"host": "web", "subsets": "v1"}}]}]}
    virtual = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "web", "namespace": "shop", "annotations": {"a.b/c": 1}},
        "spec": {"hosts": ["web"], **routes},
    }
    assert errors(virtual) == [
        "VirtualService/shop/web:metadata.annotations['a.b/c']: error: a.b/c: expected a string, found an integer (1)\n"
        "  hint: quote it",
        "VirtualService/shop/web:spec.http[0].route[0].destination.subsets: "
        "error: destination: unknown field 'subsets'\n  hint: did you mean 'subset'?",
    ]


def test_two_kinds_of_one_name_have_two_places() -> None:
    head = {"kind": "Gateway", "metadata": {"name": "x", "namespace": "y"}}
    assert place({**head, "apiVersion": "networking.istio.io/v1"}) == "Gateway.networking.istio.io/y/x"
    assert place({**head, "apiVersion": "gateway.networking.k8s.io/v1"}) == "Gateway.gateway.networking.k8s.io/y/x"
    assert place({"kind": "Node", "metadata": {"name": "n"}, "apiVersion": "v1"}) == "Node/n"


def test_documents_within_are_read_and_placed() -> None:
    mesh = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "istio", "namespace": "istio-system"},
        "data": {"mesh": "nonsense: true\n"},
    }
    (wrong,) = errors(mesh)
    assert wrong.startswith("ConfigMap/istio-system/istio:data.mesh: error: mesh: unknown field 'nonsense'")
    source = {
        "apiVersion": "extensions.pymesh.dev/v1alpha1",
        "kind": "PythonFilter",
        "metadata": {"name": "f", "namespace": "shop"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "class": "f:F", "source": "class F(:\n"},
    }
    (wrong,) = errors(source)
    assert wrong.startswith("PythonFilter/shop/f:spec.source: error: the filter's source is not Python")


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"k": value}
    return value


@pytest.mark.parametrize("levels", [70, 470, 600, 5000])
def test_an_object_may_be_of_any_depth_and_is_refused_by_itself(levels: int) -> None:
    spec = {"selector": {"matchLabels": {"a": "b"}}, "class": "f:F", "config": nested(levels)}
    head = {"apiVersion": "extensions.pymesh.dev/v1alpha1", "kind": "PythonFilter"}
    (wrong,) = errors({**head, "metadata": {"name": "f", "namespace": "shop"}, "spec": spec})
    assert wrong == (
        "PythonFilter/shop/f:spec.config.k.k.k.k.k.k.k.k.k.k.k.k.k.k: error: the object is nested too deeply\n"
        "  hint: nothing in it may be deeper than 64 levels"
    )
    assert (
        errors({**head, "metadata": {"name": "f", "namespace": "shop"}, "spec": {**spec, "config": nested(60)}}) == []
    )


def test_a_source_that_python_cannot_parse_is_no_fault_of_ours() -> None:
    spec = {"selector": {"matchLabels": {"a": "b"}}, "class": "f:F", "source": "x = 1" + "+1" * 60000}
    head = {"apiVersion": "extensions.pymesh.dev/v1alpha1", "kind": "PythonFilter"}
    (wrong,) = errors({**head, "metadata": {"name": "f", "namespace": "shop"}, "spec": spec})
    assert wrong.startswith("PythonFilter/shop/f:spec.source: error: the filter's source is nested too deeply")


def test_a_format_of_json_without_end_is_told() -> None:
    mesh = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "istio", "namespace": "istio-system"},
        "data": {"mesh": f"accessLogEncoding: JSON\naccessLogFormat: '{'[' * 100000}'\n"},
    }
    (wrong,) = errors(mesh)
    assert wrong.startswith("ConfigMap/istio-system/istio:data.mesh: error: mesh: the JSON is nested too deeply")


def test_a_secret_is_never_quoted() -> None:
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "tls", "namespace": "shop"},
        "data": {"tls.key": "!not base64!"},
    }
    (wrong,) = errors(secret)
    assert "not base64!" not in wrong
    assert wrong.startswith("Secret/shop/tls:data")


def test_of_a_pod_who_and_where_is_read() -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web-1", "namespace": "shop", "generateName": "web-", "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "serviceAccountName": "web", "containers": [{"name": "web", "image": "web"}]},
        "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}], "qosClass": "Burstable"},
    }
    report = Report()
    made: Any = load_object(pod, report)
    assert not report.diagnostics
    assert (made.spec.node_name, made.spec.service_account_name, made.status.pod_ip) == ("n1", "web", "10.0.0.1")
    assert load_text("f.yaml", yaml.safe_dump({**pod, "metadata": {"name": "web-1", "namespace": "shop"}}), report)
    assert not report.diagnostics


@pytest.mark.parametrize(
    ("kind", "fields", "meant"),
    [
        ("Service", {"spec": {"ports": [{"port": 53, "protocol": "UDP"}]}}, False),
        ("Service", {"spec": {"clusterIP": "None"}}, False),
        ("Service", {"spec": {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53}]}}, True),
        ("Service", {"spec": {"type": "ExternalName", "externalName": "a.example"}}, True),
        ("Service", {"spec": {"type": "ExternalName", "ports": [{"port": 53, "protocol": "UDP"}]}}, False),
        ("EndpointSlice", {"addressType": "FQDN"}, False),
        ("EndpointSlice", {"addressType": "IPv4", "endpoints": None, "ports": None}, True),
    ],
)
def test_what_has_nothing_to_do_with_a_mesh(kind: str, fields: dict[str, Any], meant: bool) -> None:
    assert is_for_mesh({"kind": kind, "metadata": {"name": "x"}, **fields}) is meant


def test_an_empty_slice_and_one_with_everything() -> None:
    head = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "s", "namespace": "shop"},
    }
    assert errors({**head, "addressType": "IPv4", "endpoints": None, "ports": None}) == []
    endpoint = {
        "addresses": ["10.0.0.1"],
        "conditions": {"ready": True, "serving": True, "terminating": False},
        "deprecatedTopology": {"a": "b"},
        "hints": {"forNodes": [{"name": "n1"}], "forZones": [{"name": "z1"}]},
        "targetRef": {"kind": "Pod", "name": "web-1", "namespace": "shop", "uid": "1", "resourceVersion": "7"},
    }
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "http", "port": 8080, "protocol": "TCP"}]
    assert errors({**head, "addressType": "IPv4", "endpoints": [endpoint], "ports": ports}) == []


POLICY: dict[str, Any] = {
    "apiVersion": "security.istio.io/v1",
    "kind": "AuthorizationPolicy",
    "metadata": {"name": "p", "namespace": "shop"},
}


def test_a_policy_that_cannot_be_read_closes_what_it_was_for() -> None:
    wrong = {"selector": {"matchLabels": {"app": "web"}}, "rules": [{"form": []}]}
    made: Any = closed({**POLICY, "spec": wrong})
    assert (made.spec.action, made.spec.rules) == ("ALLOW", ())
    assert made.spec.selector.match_labels == {"app": "web"}
    made = closed({**POLICY, "spec": {**wrong, "selector": {"app": "web"}}})
    assert (made.spec.selector, made.spec.rules) == (None, ())
    assert closed({**POLICY, "spec": {**wrong, "action": "AUDIT"}}) is None
    peers = {**POLICY, "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication"}
    made = closed({**peers, "spec": {"mtls": {"mode": "STRIKT"}}})
    assert made.spec.mtls.mode == "STRICT"
    assert closed(SERVICE) is None


FILTER: dict[str, Any] = {**POLICY, "apiVersion": "extensions.pymesh.dev/v1alpha1", "kind": "PythonFilter"}


def test_a_filter_that_cannot_be_used_refuses_what_it_would_have_seen() -> None:
    wrong = {"class": "f:F", "source": "class F(:", "selector": {"matchLabels": {"app": "web"}}}
    where = {"phase": "AUTHZ", "priority": 7, "match": [{"mode": "CLIENT", "ports": [{"number": 80}]}]}
    made: Any = closed({**FILTER, "spec": {**wrong, **where}})
    assert made.spec.selector.match_labels == {"app": "web"}
    assert (made.spec.phase, made.spec.priority, made.spec.failure_policy) == ("AUTHZ", 7, "CLOSED")
    assert made.spec.takes("CLIENT", 80)
    assert not made.spec.takes("SERVER", 80)
    with FilterHarness.from_source(made.spec.class_, made.spec.source) as harness:
        done = harness.request()
    assert (done.status, done.flags, done.upstream) == (500, "UAEX", None)


def test_a_filter_of_which_more_is_wrong_refuses_more() -> None:
    wrong = {"class": "f:F", "selector": {"matchLabels": {"app": "web"}}, "match": [{"mode": "BOTH"}]}
    made: Any = closed({**FILTER, "spec": wrong})
    assert (made.spec.selector.match_labels, made.spec.match) == ({"app": "web"}, ())
    made = closed({**FILTER, "spec": {**wrong, "selector": {"app": "web"}}})
    assert (made.spec.selector.match_labels, made.spec.target_refs) == ({}, ())


def test_a_filter_that_fails_open_is_left_out() -> None:
    assert closed({**FILTER, "spec": {"class": "f:F", "source": "class F(:", "failurePolicy": "OPEN"}}) is None
