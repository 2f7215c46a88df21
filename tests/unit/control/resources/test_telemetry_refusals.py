"""Wrong Telemetry resources, and what the mesh's configuration says of telemetry: the exact text, place and remedy."""

from __future__ import annotations

import pytest

from tests.tools.told import told, told_of_one

HEAD = "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {name: a, namespace: shop}\nspec:\n"
MESH = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |-\n"


def spec(*lines: str) -> str:
    return HEAD + "".join(f"  {line}\n" for line in lines)


def mesh(*lines: str) -> str:
    return MESH + "".join(f"    {line}\n" for line in lines)


def override(*lines: str) -> str:
    return spec("metrics:", "- overrides:", "  - match: {}", *(f"    {line}" for line in lines))


CASES = {
    "an older version of the API": (
        spec().replace("v1", "v1beta1"),
        "f:1:13: error: Telemetry has no version 'v1beta1'\n  hint: use telemetry.istio.io/v1",
    ),
    "an unknown field": (
        spec("traces: []"),
        "f:5:3: error: spec: unknown field 'traces'\n  hint: did you mean 'tracing'?",
    ),
    "one target": (
        spec("targetRef: {kind: Gateway, name: a}"),
        "f:5:3: error: spec: 'targetRef' is not supported yet\n  hint: write it as an entry of 'targetRefs'",
    ),
    "two ways to select": (
        spec(
            "selector: {matchLabels: {app: a}}",
            "targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: a}]",
        ),
        "f:6:15: error: spec: 'selector' and 'targetRefs' exclude each other\n  hint: keep one of them",
    ),
    "a service": (
        spec("targetRefs: [{kind: Service, name: a}]"),
        "f:5:23: error: spec: a Telemetry is for a Gateway\n  hint: select a Service's workloads by their labels",
    ),
    "two collectors": (
        spec("tracing: [{providers: [{name: a}, {name: b}]}]"),
        "f:5:37: error: tracing[0]: spans go to one provider\n  hint: keep one of them",
    ),
    "a share of more than everything": (
        spec("tracing: [{randomSamplingPercentage: 150}]"),
        "f:5:40: error: tracing[0]: 150.0 is no share\n  hint: 0 to 100",
    ),
    "a share as text": (
        spec("tracing: [{randomSamplingPercentage: all}]"),
        "f:5:40: error: randomSamplingPercentage: expected a number, found a string (all)",
    ),
    "a side that there is not": (
        spec("tracing: [{match: {mode: INBOUND}}]"),
        "f:5:28: error: mode: 'INBOUND' is not supported\n  hint: known: CLIENT, CLIENT_AND_SERVER, SERVER",
    ),
    "request ids in place of trace ids": (
        spec("tracing: [{useRequestIdForTraceSampling: true}]"),
        "f:5:44: error: tracing[0]: request ids say nothing of traces\n"
        "  hint: whoever begins a trace decides, and traceparent tells it; remove it",
    ),
    "a trace that nobody is told": (
        spec("tracing: [{disableContextPropagation: true}]"),
        "f:5:14: error: tracing[0]: 'disableContextPropagation' is not supported yet\n"
        "  hint: whoever is asked is always told the trace; remove it",
    ),
    "a tag of a format": (
        spec("tracing: [{customTags: {a: {formatter: {value: '%PROTOCOL%'}}}}]"),
        "f:5:31: error: a: 'formatter' is not supported yet\n  hint: use 'header', 'literal' or 'environment'",
    ),
    "a tag of two values": (
        spec("tracing: [{customTags: {a: {literal: {value: b}, header: {name: c}}}}]"),
        "f:5:60: error: a: 'literal' and 'header' exclude each other\n  hint: keep one of them",
    ),
    "a tag of no value": (
        spec("tracing: [{customTags: {a: {}}}]"),
        "f:5:30: error: a: one of 'literal', 'environment', 'header' is needed",
    ),
    "a tag of no header": (
        spec("tracing: [{customTags: {a: {header: {name: 'b c'}}}}]"),
        "f:5:46: error: header: 'b c' is not a header name",
    ),
    "a tag without a name": (
        spec("tracing: [{customTags: {'': {literal: {value: b}}}}]"),
        "f:5:26: error: tracing[0]: '' is not the name of a tag\n  hint: a text that can be printed",
    ),
    "a filter that is not understood": (
        spec("accessLogging: [{filter: {expression: connection.mtls}}]"),
        "f:5:41: error: filter: 'connection.mtls' is not known here\n"
        "  hint: known: request.method, request.path, request.host, request.scheme, request.useragent, "
        "request.referer, request.id, request.headers['NAME'], request.url_path, request.duration, response.code, "
        "response.flags, response.grpc_status",
    ),
    "a filter of nothing": (
        spec("accessLogging: [{filter: {}}]"),
        "f:5:28: error: filter: 'expression' is missing",
    ),
    "a metric that there is not": (
        spec("metrics: [{overrides: [{match: {metric: REQUESTS}}]}]"),
        "f:5:43: error: metric: 'REQUESTS' is not supported\n  hint: did you mean 'REQUEST_SIZE'?",
    ),
    "a metric of one's own": (
        spec("metrics: [{overrides: [{match: {customMetric: mine}}]}]"),
        "f:5:35: error: match: 'customMetric' is not supported yet\n"
        "  hint: Istio's metrics are counted, and no others: name one with 'metric'",
    ),
    "an interval": (
        spec("metrics: [{reportingInterval: 5s}]"),
        "f:5:14: error: metrics[0]: 'reportingInterval' is not supported yet\n"
        "  hint: octets are counted as they pass; remove it",
    ),
    "a label without a value": (
        override("tagOverrides: {a: {}}"),
        "f:8:25: error: a: 'value' is missing\n  hint: as in value: request.method, or operation: REMOVE",
    ),
    "a label that is removed and has a value": (
        override("tagOverrides: {a: {operation: REMOVE, value: request.method}}"),
        "f:8:52: error: a: a label that is removed has no value\n  hint: remove one of the two",
    ),
    "a label that is none": (
        override("tagOverrides: {a-b: {operation: REMOVE}}"),
        "f:8:21: error: overrides[0]: 'a-b' is not the name of a label\n"
        "  hint: letters, digits and '_'; 'le' is that of the buckets",
    ),
    "a value that is not understood": (
        override("tagOverrides: {a: {value: request.size}}"),
        "f:8:33: error: a: 'request.size' is not known here\n  hint: did you mean 'request.id'?",
    ),
    "a tracer of another kind": (
        mesh("extensionProviders:", "- {name: a, zipkin: {service: a, port: 1}}"),
        "f:7:17: error: extensionProviders[0]: 'zipkin' is not supported yet\n"
        "  hint: describe a collector of OpenTelemetry with 'opentelemetry'",
    ),
    "a log that is sent": (
        mesh("extensionProviders:", "- {name: a, envoyTcpAls: {service: a, port: 1}}"),
        "f:7:17: error: extensionProviders[0]: 'envoyTcpAls' is not supported yet\n"
        "  hint: describe a collector of OpenTelemetry with 'envoyOtelAls', or a file with 'envoyFileAccessLog'",
    ),
    "an attribute of a record that is no text": (
        mesh(
            "extensionProviders:",
            "- {name: a, envoyOtelAls: {service: a.b, port: 1, logFormat: {text: x, labels: {code: 1}}}}",
        ),
        "f:7:84: error: logFormat: code: int is no text\n"
        "  hint: write a text with commands of Envoy's, as in '%RESPONSE_CODE%'",
    ),
    "both ways to a collector": (
        mesh(
            "extensionProviders:",
            "- {name: a, opentelemetry: {service: a.b, port: 1, http: {path: /a}, grpc: {}}}",
        ),
        "f:7:80: error: opentelemetry: 'http' and 'grpc' exclude each other\n  hint: keep one of them",
    ),
    "a path that is none": (
        mesh("extensionProviders:", "- {name: a, opentelemetry: {service: a.b, port: 1, http: {path: 'a b'}}}"),
        "f:7:69: error: http: 'a b' is no path\n  hint: as in /v1/traces",
    ),
    "a header of the control plane's environment": (
        mesh(
            "extensionProviders:",
            "- name: a",
            "  opentelemetry:",
            "    service: a.b",
            "    port: 1",
            "    http: {path: /a, headers: [{name: a, value: b, envName: c}]}",
        ),
        "f:11:56: error: headers[0]: 'envName' is not supported yet\n"
        "  hint: write the 'value'; the control plane's environment is not the proxies'",
    ),
    "a log to nowhere": (
        mesh("extensionProviders:", "- {name: a, envoyFileAccessLog: {path: stdout}}"),
        "f:7:44: error: envoyFileAccessLog: 'stdout' is no path of a file\n  hint: as in /dev/stdout",
    ),
    "a log of a command that there is not": (
        mesh(
            "extensionProviders:",
            "- {name: a, envoyFileAccessLog: {path: /dev/stdout, logFormat: {text: '%TRACEID%'}}}",
        ),
        "f:7:75: error: logFormat: %TRACEID% is not known\n  hint: did you mean '%TRACE_ID%'?",
    ),
    "a log of numbers": (
        mesh(
            "extensionProviders:",
            "- {name: a, envoyFileAccessLog: {path: /dev/stdout, logFormat: {labels: {a: 5}}}}",
        ),
        "f:7:77: error: logFormat: a: int is no text\n"
        "  hint: write a text with commands of Envoy's, as in '%RESPONSE_CODE%'",
    ),
    "a format that is no JSON": (
        mesh("accessLogEncoding: JSON", "accessLogFormat: '{'"),
        "f:7:22: error: mesh: it is not JSON: Expecting property name enclosed in double quotes: "
        'line 1 column 2 (char 1)\n  hint: as in {"status": "%RESPONSE_CODE%"}',
    ),
    "two collectors by default": (
        mesh("defaultProviders: {tracing: [a, b]}"),
        "f:6:33: error: defaultProviders: spans go to one provider\n  hint: keep one of them",
    ),
    "a collector for each proxy": (
        mesh("defaultConfig: {tracing: {zipkin: {address: 'a:1'}}}"),
        "f:6:31: error: tracing: 'zipkin' is not supported yet\n  hint: describe a collector under extensionProviders,"
        " with 'opentelemetry', for defaultProviders.tracing",
    ),
    "an option of proxies": (
        mesh("defaultConfig: {concurrency: 2}"),
        "f:6:21: error: defaultConfig: 'concurrency' is not supported yet\n  hint: set the options of each proxy",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_told_with_its_place_and_remedy(name: str) -> None:
    text, message = CASES[name]
    assert message in told_of_one(text)


def test_who_is_named_must_be_there_and_for_that() -> None:
    text = (
        mesh(
            "enableTracing: true",
            "extensionProviders: [{name: file, envoyFileAccessLog: {path: /log}}]",
            "defaultProviders: {metrics: [promethues]}",
        )
        + "---\n"
        + spec(
            "tracing: [{providers: [{name: file}]}]",
            "accessLogging: [{providers: [{name: fil}, {name: envoy}]}]",
        )
    )
    assert told(text) == [
        "8:33: warning: there is no extension provider 'promethues': it is told nothing\n"
        "  hint: did you mean 'prometheus'?",
        "14:33: warning: extension provider 'file' is not for tracing: it is told nothing\n"
        "  hint: describe it under extensionProviders of ConfigMap istio",
        "15:39: warning: there is no extension provider 'fil': it is told nothing\n  hint: did you mean 'file'?",
    ]


def test_who_traces_without_a_collector_is_told() -> None:
    assert told(mesh("enableTracing: true")) == [
        "6:20: warning: nobody collects spans, so nothing is traced\n"
        "  hint: name an extension provider with 'opentelemetry' in defaultProviders.tracing, or in a Telemetry"
    ]


def test_of_two_for_a_namespace_the_oldest_counts() -> None:
    second = spec("tracing: []").replace("name: a", "name: b")
    assert told(spec("tracing: []") + "---\n" + second) == [
        "9:18: warning: Telemetry shop/b says nothing: Telemetry shop/a is the one for its namespace\n"
        "  hint: move this into the one at f:1:1, or select workloads"
    ]
