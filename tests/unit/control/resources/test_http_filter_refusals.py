"""Wrong faults, CORS policies and rate limits: the exact text, with place and remedy."""

import pytest

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.load import load_text

ROUTE = "route: [{destination: {host: a}}]"


def rule(text: str) -> str:
    head = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec:\n  hosts: [a]\n"
    return head + f"  http: [{{{text}}}]\n"


def fault(text: str) -> str:
    return rule(f"fault: {{{text}}}, {ROUTE}")


def cors(text: str) -> str:
    return rule(f"corsPolicy: {{{text}}}, {ROUTE}")


def kube_cors(text: str) -> str:
    head = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: a}\nspec:\n"
    filters = f"filters: [{{type: CORS, cors: {{{text}}}}}]"
    return head + f"  parentRefs: [{{name: g}}]\n  rules: [{{{filters}, backendRefs: [{{name: a, port: 80}}]}}]\n"


def limit(text: str) -> str:
    head = "apiVersion: extensions.pymesh.dev/v1alpha1\nkind: LocalRateLimit\nmetadata: {name: a}\nspec:\n"
    return head + f"  selector: {{matchLabels: {{app: a}}}}\n  {text}\n"


CASES = {
    "no fault": (fault(""), "6:18: error: fault: a fault needs 'delay' or 'abort'"),
    "no delay": (fault("delay: {fixedDelay: 0s}"), "6:39: error: delay: a delay is at least 1ms"),
    "exponential": (
        fault("delay: {exponentialDelay: 1s, fixedDelay: 1s}"),
        "6:27: error: delay: 'exponentialDelay' is not supported yet\n  hint: set fixedDelay",
    ),
    "two statuses": (
        fault("abort: {httpStatus: 500, grpcStatus: OK}"),
        "6:56: error: abort: 'httpStatus' and 'grpcStatus' exclude each other\n  hint: keep one of them",
    ),
    "status of HTTP/2": (
        fault("abort: {http2Error: REFUSED_STREAM, httpStatus: 500}"),
        "6:27: error: abort: 'http2Error' is not supported yet\n  hint: set httpStatus or grpcStatus",
    ),
    "status of gRPC": (
        fault("abort: {grpcStatus: UNAVAILBLE}"),
        "6:39: error: abort: 'UNAVAILBLE' is no status of gRPC\n  hint: did you mean 'UNAVAILABLE'?",
    ),
    "status": (
        fault("abort: {httpStatus: 199}"),
        "6:39: error: httpStatus: 199 is out of range\n  hint: 200 to 599",
    ),
    "percentage": (
        fault("abort: {httpStatus: 500, percentage: {value: 101}}"),
        "6:64: error: percentage: 101 is no share\n  hint: 0 to 100",
    ),
    "nobody is allowed": (
        cors("allowMethods: [GET]"),
        "6:23: error: corsPolicy: nobody is allowed: 'allowOrigins' is needed\n"
        '  hint: for every origin: [{regex: ".*"}]',
    ),
    "method": (
        cors('allowOrigins: [{exact: a}], allowMethods: ["A B"]'),
        "6:66: error: corsPolicy: 'A B' is not a method",
    ),
    "header name": (
        cors('allowOrigins: [{exact: a}], exposeHeaders: ["x:"]'),
        "6:67: error: corsPolicy: 'x:' is not a header name",
    ),
    "age": (
        cors("allowOrigins: [{exact: a}], maxAge: 1.5s"),
        "6:60: error: corsPolicy: it is told in whole seconds",
    ),
    "preflights": (
        cors("allowOrigins: [{exact: a}], unmatchedPreflights: DROP"),
        "6:73: error: unmatchedPreflights: 'DROP' is not supported\n  hint: known: FORWARD, IGNORE, UNSPECIFIED",
    ),
    "cors of a redirect": (
        rule("corsPolicy: {allowOrigins: [{exact: a}]}, redirect: {uri: /a}"),
        "6:23: error: http[0]: 'corsPolicy' needs 'route'",
    ),
    "origin": (
        kube_cors("allowOrigins: [shop.example]"),
        "6:56: error: cors: 'shop.example' is not an origin\n"
        "  hint: write it as in https://shop.example, https://*.shop.example or '*'",
    ),
    "all and one": (
        kube_cors('allowOrigins: ["*"], allowHeaders: ["*", x-one]'),
        "6:77: error: cors: '*' means all; nothing else can stand beside it\n  hint: keep one of them",
    ),
    "no limit": (limit("enforce: true"), "5:3: error: spec: a rate limit needs 'total' or 'rules'"),
    "interval": (
        limit("total: {requests: 1, per: 10ms}"),
        "6:29: error: total: an interval is at least 50ms\n  hint: for the same rate raise 'requests' as well",
    ),
    "rule for all": (
        limit("rules: [{limit: {requests: 1}}]"),
        "6:11: error: rules[0]: a rule for all requests together is the total\n  hint: write it as 'total'",
    ),
    "header of each": (
        limit("rules: [{limit: {requests: 1}, each: Header}]"),
        "6:11: error: rules[0]: 'header' names the header of 'each: Header'\n  hint: set both or none",
    ),
    "status of a refusal": (
        limit("total: {requests: 1}\n  status: 200"),
        "7:11: error: spec: 200 is no status of a refusal\n  hint: 429 is the usual one",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_wrong_document(name: str) -> None:
    text, expected = CASES[name]
    report = Report()
    load_text("f.yaml", text, report)
    assert [str(one) for one in report.diagnostics] == [f"f.yaml:{expected}"]
