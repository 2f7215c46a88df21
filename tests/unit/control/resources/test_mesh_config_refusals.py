"""Wrong configurations of the mesh: the exact text, at their place within the ConfigMap, and the remedy."""

from __future__ import annotations

import pytest

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.load import load_text
from pymesh.control.resources.mesh_config import ConfigMap, MeshConfig
from tests.tools.told import told_of_one

HEAD = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n"


def mesh(*lines: str) -> str:
    return HEAD + "  mesh: |-\n" + "".join(f"    {line}\n" for line in lines)


def provider(kind: str, *lines: str) -> str:
    return mesh("extensionProviders:", "- name: a", f"  {kind}:", *(f"    {line}" for line in lines))


def grpc(*lines: str) -> str:
    return provider("envoyExtAuthzGrpc", "service: a.example", "port: 80", *lines)


def http(*lines: str) -> str:
    return provider("envoyExtAuthzHttp", "service: a.example", "port: 80", *lines)


CASES = {
    "another ConfigMap": (
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: shop}\ndata: {a: b}\n",
        "f:3:18: error: ConfigMap: ConfigMap 'shop' means nothing to the mesh\n"
        "  hint: the mesh's configuration is ConfigMap 'istio'; keep others out of the mesh's folders",
    ),
    "another entry": (
        HEAD + "  mesh: ''\n  mash: ''\n",
        "f:6:9: error: ConfigMap: entry 'mash' means nothing to the mesh\n  hint: the entry is 'mesh'",
    ),
    "no entry": (
        HEAD.replace("data:\n", "data: {}\n"),
        "f:4:7: error: ConfigMap: there is no entry 'mesh'\n  hint: data: {mesh: |-, and below it the MeshConfig}",
    ),
    "other clusters": (
        HEAD + "  mesh: ''\n  meshNetworks: |-\n    networks: {a: {}}\n",
        "f:6:17: error: ConfigMap: networks of several clusters are not supported yet\n  hint: remove them",
    ),
    "text in place of a document": (
        mesh("nothing"),
        "f:6:5: error: mesh: expected a mapping, found a string (nothing)",
    ),
    "no YAML": (
        mesh("a: b", "# a comment", "c: [d"),
        "f:9:5: error: not YAML: did not find expected ',' or ']'\n  hint: check indentation and quotes",
    ),
    "two documents": (
        mesh("{}", "---", "{}"),
        "f:8:5: error: the mesh's configuration is one document\n  hint: remove this one",
    ),
    "a key that there is not": (
        mesh("", "# after a line of nothing", "extensionProvider: []"),
        "f:8:5: error: mesh: unknown field 'extensionProvider'\n  hint: did you mean 'extensionProviders'?",
    ),
    "further in, with an indentation of its own": (
        HEAD + "        mesh: |2\n          extensionProviders:\n            - nam: a\n",
        "f:7:15: error: extensionProviders[0]: unknown field 'nam'\n  hint: did you mean 'name'?",
    ),
    "in quotes there is one place": (
        HEAD + "  mesh: 'extensionProviders: [{nam: a}]'\n",
        "f:5:9: error: extensionProviders[0]: unknown field 'nam'\n  hint: did you mean 'name'?",
    ),
    "a setting that is an option": (
        mesh("trustDomain: a.example"),
        "f:6:5: error: mesh: 'trustDomain' is not supported yet\n  hint: set the control plane's option --trust-domain",
    ),
    "a log in a file that is none": (
        mesh("accessLogFile: stdout"),
        "f:6:20: error: mesh: 'stdout' is no path of a file\n  hint: as in /dev/stdout",
    ),
    "where captured traffic may go": (
        mesh("outboundTrafficPolicy: {mode: REGISTRY_ONLY}"),
        "f:6:5: error: mesh: 'outboundTrafficPolicy' is not supported yet\n"
        "  hint: set the control plane's option --outbound-traffic-policy, or a Sidecar's",
    ),
    "a provider of traces": (
        mesh("extensionProviders: [{name: a, zipkin: {}}]"),
        "f:6:36: error: extensionProviders[0]: 'zipkin' is not supported yet\n"
        "  hint: describe a collector of OpenTelemetry with 'opentelemetry'",
    ),
    "a provider of nothing": (
        mesh("extensionProviders: [{name: a}]"),
        "f:6:26: error: extensionProviders[0]: one of 'envoyExtAuthzGrpc', 'envoyExtAuthzHttp', "
        "'opentelemetry', 'envoyFileAccessLog', 'envoyOtelAls', 'prometheus' is needed",
    ),
    "a provider of two kinds": (
        mesh(
            "extensionProviders:",
            "- name: a",
            "  envoyExtAuthzGrpc: {service: a, port: 1}",
            "  envoyExtAuthzHttp: {service: a, port: 1}",
        ),
        "f:9:26: error: extensionProviders[0]: 'envoyExtAuthzGrpc' and 'envoyExtAuthzHttp' exclude each other\n"
        "  hint: keep one of them",
    ),
    "a provider without a name": (
        mesh("extensionProviders: [{name: '', envoyExtAuthzGrpc: {service: a, port: 1}}]"),
        "f:6:33: error: extensionProviders[0]: '' is not a valid name\n  hint: letters, digits, '-', '.' and '_'",
    ),
    "a name twice": (
        mesh(
            "extensionProviders:",
            "- {name: a, envoyExtAuthzGrpc: {service: a, port: 1}}",
            "- {name: a, envoyExtAuthzHttp: {service: a, port: 1}}",
        ),
        "f:8:14: error: mesh: provider 'a' is here twice\n  hint: the first is in line 7",
    ),
    "no service": (
        provider("envoyExtAuthzGrpc", "port: 80"),
        "f:9:9: error: envoyExtAuthzGrpc: 'service' is missing",
    ),
    "a service that is none": (
        provider("envoyExtAuthzGrpc", "service: http://a.example/", "port: 80"),
        "f:9:18: error: envoyExtAuthzGrpc: 'http://a.example/' is not [NAMESPACE/]HOST\n"
        "  hint: write it as in opa.authz.svc.cluster.local or authz/opa.example",
    ),
    "no port": (
        provider("envoyExtAuthzHttp", "service: a.example", "port: 0"),
        "f:10:15: error: port: 0 is out of range\n  hint: 1 to 65535",
    ),
    "no time": (
        grpc("timeout: 0s"),
        "f:11:18: error: envoyExtAuthzGrpc: 'timeout' leaves no time\n"
        "  hint: give it a millisecond at least, or remove it",
    ),
    "a status as a number": (
        grpc("statusOnError: 503"),
        "f:11:24: error: statusOnError: expected a string, found an integer (503)\n  hint: quote it",
    ),
    "a status that lets in": (
        grpc("statusOnError: '200'"),
        "f:11:24: error: envoyExtAuthzGrpc: '200' is no status of a refusal\n"
        "  hint: a number from 400 on, as text; 403 is the usual one",
    ),
    "a body of nothing": (
        grpc("includeRequestBodyInCheck: {maxRequestBytes: 0}"),
        "f:11:54: error: maxRequestBytes: 0 is out of range\n  hint: 1 to 4294967295",
    ),
    "what gRPC has no use for": (
        grpc("pathPrefix: /check"),
        "f:11:9: error: envoyExtAuthzGrpc: unknown field 'pathPrefix'\n  hint: known: clearRouteCache, failOpen,"
        " includeRequestBodyInCheck, port, service, statusOnError, timeout",
    ),
    "bytes over HTTP": (
        http("includeRequestBodyInCheck: {maxRequestBytes: 9, packAsBytes: true}"),
        "f:11:70: error: envoyExtAuthzHttp: 'packAsBytes' is a matter of gRPC\n"
        "  hint: HTTP sends bytes anyway; remove it",
    ),
    "a prefix that is no path": (
        http("pathPrefix: check"),
        "f:11:21: error: envoyExtAuthzHttp: 'check' is no beginning of a path\n  hint: as in /check",
    ),
    "the older name of a list": (
        http("includeHeadersInCheck: [a]"),
        "f:11:9: error: envoyExtAuthzHttp: 'includeHeadersInCheck' is not supported yet\n"
        "  hint: it is called includeRequestHeadersInCheck now",
    ),
    "every header": (
        http("includeRequestHeadersInCheck: ['*']"),
        "f:11:39: error: envoyExtAuthzHttp: '*' names no headers\n  hint: a name, 'text*' or '*text'",
    ),
    "headers with a star in the middle": (
        http("headersToUpstreamOnAllow: [a*b]"),
        "f:11:35: error: envoyExtAuthzHttp: 'a*b' names no headers\n  hint: a name, 'text*' or '*text'",
    ),
    "headers that are none": (
        http("headersToDownstreamOnDeny: [a b]"),
        "f:11:36: error: envoyExtAuthzHttp: 'a b' names no headers\n  hint: a name, 'text*' or '*text'",
    ),
    "an answer's headers that are none": (
        http("headersToDownstreamOnAllow: ['*x*']"),
        "f:11:37: error: envoyExtAuthzHttp: '*x*' names no headers\n  hint: a name, 'text*' or '*text'",
    ),
    "a header that is none": (
        http("includeAdditionalHeadersInCheck: {a b: c}"),
        "f:11:42: error: envoyExtAuthzHttp: 'a b' is not a header name",
    ),
    "a value that is not known": (
        http("includeAdditionalHeadersInCheck: {a: '%PROTOCOLL%'}"),
        "f:11:42: error: envoyExtAuthzHttp: a: %PROTOCOLL% is not known\n  hint: did you mean '%PROTOCOL%'?",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_told_with_its_place_and_remedy(name: str) -> None:
    text, message = CASES[name]
    assert message in told_of_one(text)


def test_every_other_setting_of_istio_is_refused_by_name_with_a_remedy() -> None:
    assert len(MeshConfig.REFUSED) >= 38
    text = mesh(*(f"{key}: null" for key in MeshConfig.REFUSED))
    report = Report()
    load_text("f", text, report)
    told = [str(one) for one in report.diagnostics]
    assert told == [
        f"f:{6 + number}:5: error: mesh: {key!r} is not supported yet\n  hint: {remedy}"
        for number, (key, remedy) in enumerate(MeshConfig.REFUSED.items())
    ]


@pytest.mark.parametrize("written", ["|-\n    {}\n", "''\n", "|-\n    # nothing yet\n", "|\n\n"])
def test_a_configuration_that_says_nothing(written: str) -> None:
    report = Report()
    (found,) = load_text("f", f"{HEAD}  mesh: {written}", report)
    assert not report.diagnostics
    assert isinstance(found, ConfigMap)
    assert found.mesh.extension_providers == ()
