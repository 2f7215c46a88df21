"""What users are told when they ask for stickiness in a way that means nothing: the exact text, place and remedy."""

import pytest

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.load import load_text

RULE = (
    "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\n"
    "spec: {host: a, trafficPolicy: {loadBalancer: %s}}\n"
)
ROUTE = (
    "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: a}\n"
    "spec: {parentRefs: [{name: g}], rules: [%s]}\n"
)


def _rule(
    hashed: str, column: int, message: str, hint: str = "", what: str = "consistentHash"
) -> tuple[str, list[str]]:
    return RULE % f"{{consistentHash: {hashed}}}", [_told(column, f"{what}: {message}", hint)]


def _route(session: str, column: int, message: str, hint: str = "") -> tuple[str, list[str]]:
    return ROUTE % f"{{sessionPersistence: {session}}}", [_told(column, f"sessionPersistence: {message}", hint)]


def _told(column: int, message: str, hint: str) -> str:
    return f"f.yaml:4:{column}: error: {message}" + (f"\n  hint: {hint}" if hint else "")


KEYS = "'httpHeaderName', 'httpCookie', 'useSourceIp', 'httpQueryParameterName'"
CASES = {
    "nothing to hash": _rule("{maglev: {}}", 64, f"one of {KEYS} is needed"),
    "two things to hash": _rule(
        "{httpHeaderName: x, useSourceIp: true}",
        97,
        "'httpHeaderName' and 'useSourceIp' exclude each other",
        "keep one of them",
    ),
    "two tables": _rule(
        "{httpHeaderName: x, ringHash: {}, maglev: {}}",
        106,
        "'ringHash' and 'maglev' exclude each other",
        "keep one of them",
    ),
    "the old size beside the new": _rule(
        "{httpHeaderName: x, ringHash: {}, minimumRingSize: 7}",
        115,
        "'ringHash' and 'minimumRingSize' exclude each other",
        "keep one of them",
    ),
    "no address": _rule(
        "{useSourceIp: false}", 78, "it hashes nothing if it is false", "write true, or hash something else"
    ),
    "no header": _rule('{httpHeaderName: "x y"}', 81, "'x y' is not a header name"),
    "no parameter": _rule('{httpQueryParameterName: ""}', 89, "a parameter has a name"),
    "no prime": _rule(
        "{useSourceIp: true, maglev: {tableSize: 65536}}",
        104,
        "65536 is not a prime number",
        "65537 suits some hundred endpoints",
        "maglev",
    ),
    "too large": _rule(
        "{useSourceIp: true, ringHash: {minimumRingSize: 8388609}}",
        112,
        "8388609 is out of range",
        "0 to 8388608",
        "minimumRingSize",
    ),
    "no name of a cookie": _rule(
        '{httpCookie: {name: "a;b"}}',
        84,
        "'a;b' is not the name of a cookie",
        "letters, digits, '-' and '_'",
        "httpCookie",
    ),
    "a cookie in a cookie": _rule(
        '{httpCookie: {name: a, path: "/; Domain=b"}}',
        93,
        "'/; Domain=b' cannot stand in a cookie",
        "remove ';' and control characters",
        "httpCookie",
    ),
    "an unknown field": _rule("{httpHeader: x}", 65, "unknown field 'httpHeader'", "did you mean 'httpHeaderName'?"),
    "simple besides": (
        RULE % "{simple: RANDOM, consistentHash: {useSourceIp: true}}",
        [_told(80, "loadBalancer: 'simple' and 'consistentHash' exclude each other", "keep one of them")],
    ),
    "a session by header": _route(
        "{type: Header}",
        69,
        "a session that a header names is not supported yet",
        "use type: Cookie, or consistentHash.httpHeaderName in a DestinationRule",
    ),
    "idle sessions": _route(
        "{idleTimeout: 1h}",
        63,
        "'idleTimeout' is not supported yet",
        "set absoluteTimeout with cookieConfig.lifetimeType: Permanent",
    ),
    "a session that ends by itself": _route(
        "{absoluteTimeout: 1h}",
        80,
        "it belongs to cookieConfig.lifetimeType: Permanent, which needs it",
        "set both, or neither",
    ),
    "a cookie without an end": _route(
        "{cookieConfig: {lifetimeType: Permanent}}",
        62,
        "it belongs to cookieConfig.lifetimeType: Permanent, which needs it",
        "set both, or neither",
    ),
    "a name of a session": _route(
        '{sessionName: "a b"}', 76, "'a b' is not the name of a cookie", "letters, digits, '-' and '_'"
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_refused(case: str) -> None:
    text, wanted = CASES[case]
    report = Report()
    load_text("f.yaml", text, report)
    told = [str(one) for one in report.diagnostics]
    assert told == wanted
