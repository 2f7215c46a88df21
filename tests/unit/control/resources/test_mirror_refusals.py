"""Wrong mirrors of VirtualServices and of the Gateway API's routes: the exact text, with place and remedy."""

import pytest

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.load import load_text
from pymesh.control.store.store import MeshOptions, assemble

VIRTUAL = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec:\n  hosts: [a]\n"
ROUTE = "route: [{destination: {host: a}}]"
SERVICES = """---
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: b, namespace: other}
spec: {ports: [{name: http, port: 80}, {name: tcp, port: 81}]}
"""


def rule(text: str) -> str:
    return VIRTUAL + f"  http: [{{{text}}}]\n"


def route(filters: str, kind: str = "HTTPRoute", backends: str = "backendRefs: [{name: a, port: 80}]") -> str:
    head = f"apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: a}}\nspec:\n"
    return (
        head
        + f'  parentRefs: [{{group: "", kind: Service, name: a}}]\n  rules:\n  - filters: [{filters}]\n    {backends}\n'
    )


def mirror(text: str) -> str:
    return f"{{type: RequestMirror, requestMirror: {{{text}}}}}"


TO_A = "backendRef: {name: a, port: 80}"
CASES = {
    "more than all": (
        rule(f"mirror: {{host: a}}, mirrorPercentage: {{value: 100.5}}, {ROUTE}"),
        ["6:56: error: mirrorPercentage: 100.5 is no share\n  hint: 0 to 100"],
    ),
    "less than nothing": (
        rule(f"mirrors: [{{destination: {{host: a}}, percentage: {{value: -1}}}}], {ROUTE}"),
        ["6:66: error: percentage: -1 is no share\n  hint: 0 to 100"],
    ),
    "percentage in words": (
        rule(f"mirror: {{host: a}}, mirrorPercentage: {{value: half}}, {ROUTE}"),
        ["6:56: error: value: expected an integer or a number, found a string (half)"],
    ),
    "percentage without its mapping": (
        rule(f"mirror: {{host: a}}, mirrorPercentage: 50, {ROUTE}"),
        ["6:48: error: mirrorPercentage: expected a mapping, found an integer (50)"],
    ),
    "the old percentage, too large": (
        rule(f"mirror: {{host: a}}, mirrorPercent: 101, {ROUTE}"),
        ["6:45: error: mirrorPercent: 101 is out of range\n  hint: 0 to 100"],
    ),
    "the old percentage, as protobuf writes it": (
        rule(f"mirror: {{host: a}}, mirror_percent: 1, {ROUTE}"),
        ["6:30: error: http[0]: unknown field 'mirror_percent'\n  hint: did you mean 'mirrorPercent'?"],
    ),
    "both percentages": (
        rule(f"mirror: {{host: a}}, mirrorPercent: 1, mirrorPercentage: {{value: 1}}, {ROUTE}"),
        ["6:45: error: http[0]: 'mirrorPercentage' and 'mirrorPercent' exclude each other\n  hint: keep one of them"],
    ),
    "both ways to write it": (
        rule(f"mirror: {{host: a}}, mirrors: [{{destination: {{host: a}}}}], {ROUTE}"),
        ["6:39: error: http[0]: 'mirror' and 'mirrors' exclude each other\n  hint: keep one of them"],
    ),
    "a share of nothing": (
        rule(f"mirrorPercentage: {{value: 1}}, {ROUTE}"),
        [
            "6:29: error: http[0]: 'mirrorPercentage' needs 'mirror'\n"
            "  hint: each of `mirrors` has a `percentage` of its own"
        ],
    ),
    "a redirect": (
        rule("redirect: {uri: /a}, mirror: {host: a}"),
        ["6:40: error: http[0]: 'mirror' needs 'route'"],
    ),
    "no destination": (
        rule(f"mirrors: [{{percentage: {{value: 1}}}}], {ROUTE}"),
        ["6:21: error: mirrors[0]: 'destination' is missing"],
    ),
    "filter without its field": (
        route("{type: RequestMirror}"),
        ["7:15: error: filters[0]: type RequestMirror needs 'requestMirror' and nothing else"],
    ),
    "percent and fraction": (
        route(mirror(f"{TO_A}, percent: 1, fraction: {{numerator: 1}}")),
        ["7:108: error: requestMirror: 'percent' and 'fraction' exclude each other\n  hint: keep one of them"],
    ),
    "percent out of range": (
        route(mirror(f"{TO_A}, percent: 101")),
        ["7:95: error: percent: 101 is out of range\n  hint: 0 to 100"],
    ),
    "more than a whole": (
        route(mirror(f"{TO_A}, fraction: {{numerator: 3, denominator: 2}}")),
        ["7:108: error: fraction: 3 of 2 is more than all"],
    ),
    "of nothing": (
        route(mirror(f"{TO_A}, fraction: {{numerator: 0, denominator: 0}}")),
        ["7:124: error: denominator: 0 is out of range\n  hint: 1 to 2147483647"],
    ),
    "weight of a mirror": (
        route(mirror("backendRef: {name: a, port: 80, weight: 1}")),
        ["7:85: error: backendRef: unknown field 'weight'\n  hint: known: group, kind, name, namespace, port"],
    ),
    "mirror of a redirect": (
        route(
            "{type: RequestRedirect, requestRedirect: {hostname: b.test}}, " + mirror(TO_A), backends="name: redirect"
        ),
        ["7:14: error: rules[0]: a redirect is not mirrored\n  hint: remove the RequestMirror filter"],
    ),
    "mirror of one backend": (
        route("", backends=f"backendRefs: [{{name: a, port: 80, filters: [{mirror(TO_A)}]}}]"),
        ["8:48: error: backendRefs[0]: RequestMirror is not supported on a backend yet\n  hint: put it on the rule"],
    ),
}
KNOWN = "a, a.default, a.default.svc, a.default.svc.cluster.local, b.other, b.other.svc, b.other.svc.cluster.local"
REFERENCES = {
    "unknown host": (
        rule(f"mirror: {{host: c}}, {ROUTE}"),
        [f"6:26: error: there is no service 'c'\n  hint: known: {KNOWN}"],
    ),
    "unknown subset": (
        rule(f"mirrors: [{{destination: {{host: a, subset: v2}}}}], {ROUTE}"),
        [
            "6:53: error: 'a.default.svc.cluster.local' has no subset 'v2'\n"
            "  hint: define it in a DestinationRule for the host"
        ],
    ),
    "port of another protocol": (
        rule(f"mirror: {{host: b.other, port: {{number: 81}}}}, {ROUTE}"),
        [
            "6:50: error: port 81 of 'b.other.svc.cluster.local' is TCP, not HTTP\n"
            "  hint: begin the port's name with 'http', or set appProtocol"
        ],
    ),
    "not granted": (
        route(mirror("backendRef: {name: b, namespace: other, port: 80}")),
        [
            "7:86: error: namespace 'other' does not let a HTTPRoute of 'default' refer to its Service 'b'\n"
            "  hint: write a ReferenceGrant there, from HTTPRoute in 'default' to Service"
        ],
    ),
    "no port": (
        route(mirror("backendRef: {name: a}")),
        ["7:65: error: the backend 'a' needs a port"],
    ),
    "unknown backend of calls": (
        route(mirror("backendRef: {name: z, port: 80}"), kind="GRPCRoute"),
        [f"7:72: error: there is no service 'z'\n  hint: known: {KNOWN}"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_refused(case: str) -> None:
    text, wanted = CASES[case]
    report = Report()
    load_text("f", text, report)
    assert [str(one) for one in report.diagnostics] == [f"f:{one}" for one in wanted]


@pytest.mark.parametrize("case", REFERENCES)
def test_leads_nowhere(case: str) -> None:
    text, wanted = REFERENCES[case]
    report = Report()
    resources = load_text("f", text + SERVICES, report)
    assert not report.diagnostics
    assemble(resources, MeshOptions(), report)
    assert [str(one) for one in report.diagnostics] == [f"f:{one}" for one in wanted]
