"""What users are told when a resource is wrong: the exact text, with place and remedy."""

import pytest

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.load import load_text

VIRTUAL = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec:\n  hosts: [a]\n"
SERVICE = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n"

CASES = {
    "unknown field": (
        VIRTUAL + "  htp: []\n",
        ["f.yaml:6:3: error: spec: unknown field 'htp'\n  hint: did you mean 'http'?"],
    ),
    "unsupported field": (
        VIRTUAL + "  http: [{match: [{statPrefix: a}], route: [{destination: {host: a}}]}]\n",
        [
            "f.yaml:6:20: error: match[0]: 'statPrefix' is not supported yet\n"
            "  hint: remove it; metrics name the route's service"
        ],
    ),
    "wrong type": (
        SERVICE + 'spec: {ports: [{port: "80"}]}\n',
        ["f.yaml:4:23: error: port: expected an integer, found a string (80)"],
    ),
    "unquoted string": (
        SERVICE + "spec: {selector: {version: 1}, ports: [{port: 80}]}\n",
        ["f.yaml:4:28: error: version: expected a string, found an integer (1)\n  hint: quote it"],
    ),
    "what a Secret holds is not quoted": (
        "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ndata: hunter2\nstringData: {pin: 4711}\n",
        [
            "f.yaml:4:7: error: data: expected a mapping, found a string",
            "f.yaml:5:19: error: pin: expected a string, found an integer\n  hint: quote it",
        ],
    ),
    "out of range": (
        SERVICE + "spec: {ports: [{port: 70000}]}\n",
        ["f.yaml:4:23: error: port: 70000 is out of range\n  hint: 1 to 65535"],
    ),
    "bad value": (
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\n"
        "spec: {host: a, trafficPolicy: {loadBalancer: {simple: ROUND_ROBBIN}}}\n",
        ["f.yaml:4:56: error: simple: 'ROUND_ROBBIN' is not supported\n  hint: did you mean 'ROUND_ROBIN'?"],
    ),
    "bad duration": (
        VIRTUAL + "  http: [{route: [{destination: {host: a}}], timeout: 10}]\n",
        ["f.yaml:6:55: error: timeout: expected a string, found an integer (10)\n  hint: quote it"],
    ),
    "twice": (
        SERVICE + "kind: Service\nspec: {ports: [{port: 80, port: 81}]}\n",
        ["f.yaml:5:27: error: 'port' is here twice\n  hint: the first is in line 5"],
    ),
    "unknown kind": (
        "apiVersion: v1\nkind: Servise\n",
        ["f.yaml:2:7: error: unknown kind 'Servise'\n  hint: did you mean 'Service'?"],
    ),
    "unsupported kind": (
        "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\n",
        ["f.yaml:2:7: error: kind EnvoyFilter is not supported yet\n  hint: write a PythonFilter"],
    ),
    "no kind": (
        "a: 1\n",
        ["f.yaml:1:1: error: 'apiVersion' is missing\n  hint: start with apiVersion: and kind:"],
    ),
    "missing field": (
        SERVICE + "spec: {}\n",
        ["f.yaml:4:7: error: spec: a service needs a port"],
    ),
    "both": (
        VIRTUAL + "  http: [{route: [{destination: {host: a}}], redirect: {uri: /}}]\n",
        ["f.yaml:6:56: error: http[0]: 'route' and 'redirect' exclude each other\n  hint: keep one of them"],
    ),
    "server name": (
        VIRTUAL + "  tls: [{match: [{sniHosts: ['a*.test']}], route: [{destination: {host: a}}]}]\n",
        ["f.yaml:6:29: error: match[0]: 'a*.test' is no server name\n  hint: write a whole name, '*.suffix' or '*'"],
    ),
    "certificate of a gateway that passes TLS on": (
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: a}\nspec:\n  servers:\n"
        "  - {port: {number: 1, protocol: TLS}, hosts: [a], tls: {mode: PASSTHROUGH, credentialName: b}}\n",
        [
            "f.yaml:6:93: error: tls: PASSTHROUGH leaves TLS to whoever is behind the gateway\n"
            "  hint: remove 'credentialName'"
        ],
    ),
    "regular expression": (
        VIRTUAL + '  http: [{match: [{uri: {regex: "(?=a)"}}], directResponse: {status: 200}}]\n',
        [
            "f.yaml:6:33: error: uri: '(?=a)' uses '(?=', which RE2 lacks\n"
            "  hint: look-around and back references are not available"
        ],
    ),
    "itself": (
        "apiVersion: v1\nkind: Service\nmetadata: &a {name: x, labels: *a}\n",
        [
            "f.yaml:1:1: error: the document is too deep, too large, or contains itself\n"
            "  hint: write aliases out, and split it"
        ],
    ),
    "every document is looked at": (
        SERVICE + "spec: {}\n---\n" + SERVICE + "spec: {ports: [{prot: 1}]}\n",
        [
            "f.yaml:4:7: error: spec: a service needs a port",
            "f.yaml:9:16: error: ports[0]: 'port' is missing",
            "f.yaml:9:17: error: ports[0]: unknown field 'prot'\n  hint: did you mean 'port'?",
        ],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_refused(case: str) -> None:
    text, wanted = CASES[case]
    report = Report()
    load_text("f.yaml", text, report)
    assert [str(one) for one in report.diagnostics] == wanted


@pytest.mark.parametrize(
    "text", ["a: [", "\x00", "- &a [*a]", "? {a: b}\n: c", "!!python/object:os.system {}", "[" * 3000]
)
def test_hostile_text_is_reported_and_never_raises(text: str) -> None:
    report = Report()
    assert load_text("f.yaml", text, report) == []
    assert report.failed
