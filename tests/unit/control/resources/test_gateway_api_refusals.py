"""Wrong resources of the Gateway API: the exact text, with place and remedy."""

import pytest

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.load import load_text


def document(kind: str, spec: str, version: str = "v1") -> str:
    head = f"apiVersion: gateway.networking.k8s.io/{version}\nkind: {kind}\nmetadata: {{name: a}}\n"
    return f"{head}spec: {{{spec}}}\n"


def rule(text: str) -> str:
    return document("HTTPRoute", f"parentRefs: [{{name: g}}], rules: [{{{text}}}]")


def call(text: str) -> str:
    return document("GRPCRoute", f"parentRefs: [{{name: g}}], rules: [{{{text}}}]")


def listener(*texts: str) -> str:
    listeners = ", ".join(f"{{name: l{n}, {text}}}" for n, text in enumerate(texts))
    return document("Gateway", f"gatewayClassName: pymesh, listeners: [{listeners}]")


CASES = {
    "no parent": (
        document("HTTPRoute", "parentRefs: []"),
        ["4:20: error: spec: a route needs a parent\n  hint: a Gateway, or a Service inside the mesh"],
    ),
    "group of a parent": (
        document("HTTPRoute", "parentRefs: [{name: a, kind: Service}]"),
        ["4:21: error: parentRefs[0]: a Service is not in group 'gateway.networking.k8s.io'\n  hint: group: \"\""],
    ),
    "host name with a port": (
        document("HTTPRoute", "parentRefs: [{name: g}], hostnames: ['a.test:80']"),
        ["4:44: error: spec: 'a.test:80' is no host name\n"
         "  hint: a DNS name in lower case, or '*.suffix'; no address, no port"],
    ),
    "address as host name": (
        document("TLSRoute", "parentRefs: [{name: g}], hostnames: [10.0.0.1], rules: [{backendRefs: [{name: a}]}]"),
        ["4:44: error: spec: '10.0.0.1' is no host name\n"
         "  hint: a DNS name in lower case, or '*.suffix'; no address, no port"],
    ),
    "relative path": (
        rule("matches: [{path: {value: a}}]"),
        ["4:67: error: path: the path 'a' does not start with '/'"],
    ),
    "path that is never seen": (
        rule("matches: [{path: {value: /a//b}}, {path: {type: Exact, value: /a/..}}]"),
        ["4:67: error: path: the path '/a//b' contains '//'\n  hint: write it as it is after it is resolved",
         "4:104: error: path: the path '/a/..' ends with a dot segment\n"
         "  hint: write it as it is after it is resolved"],
    ),
    "pattern of a path": (
        rule("matches: [{path: {type: RegularExpression, value: '/(a'}}]"),
        ["4:92: error: path: '/(a' is not a regular expression: missing ), unterminated subpattern at position 1"],
    ),
    "kind of a match": (
        rule("matches: [{path: {type: Prefix, value: /a}}]"),
        ["4:66: error: type: 'Prefix' is not supported\n  hint: did you mean 'PathPrefix'?"],
    ),
    "header name": (
        rule("matches: [{headers: [{name: 'a b', value: c}]}]"),
        ["4:62: error: matches[0]: 'a b' is not a header name"],
    ),
    "method": (
        rule("matches: [{method: get}]"),
        ["4:61: error: method: 'get' is not supported\n  hint: did you mean 'GET'?"],
    ),
    "filter without its part": (
        rule("filters: [{type: URLRewrite, requestRedirect: {scheme: https}}]"),
        ["4:52: error: filters[0]: type URLRewrite needs 'urlRewrite' and nothing else"],
    ),
    "filter twice": (
        rule("filters: [{type: URLRewrite, urlRewrite: {hostname: a}}, {type: URLRewrite, urlRewrite: {hostname: b}}]"),
        ["4:51: error: rules[0]: URLRewrite is here twice\n  hint: make it one filter"],
    ),
    "filter of an extension": (
        rule("filters: [{type: RequestHeaderModifier, requestHeaderModifier: {}, extensionRef: {}}]"),
        ["4:109: error: filters[0]: 'extensionRef' is not supported yet\n"
         "  hint: select the workload in a PythonFilter"],
    ),
    "redirect and rewrite": (
        rule("filters: [{type: RequestRedirect, requestRedirect: {port: 1}}, "
             "{type: URLRewrite, urlRewrite: {hostname: a}}]"),
        ["4:51: error: rules[0]: RequestRedirect and URLRewrite exclude each other"],
    ),
    "redirect and backends": (
        rule("filters: [{type: RequestRedirect, requestRedirect: {port: 1}}], backendRefs: [{name: a, port: 1}]"),
        ["4:119: error: rules[0]: a redirect asks no backend\n  hint: remove backendRefs"],
    ),
    "status of a redirect": (
        rule("filters: [{type: RequestRedirect, requestRedirect: {statusCode: 304}}]"),
        ["4:106: error: requestRedirect: 304 is no redirect\n  hint: 301, 302, 303, 307 or 308"],
    ),
    "host of a redirect": (
        rule("filters: [{type: RequestRedirect, requestRedirect: {hostname: '*.a'}}]"),
        ["4:104: error: requestRedirect: '*.a' is no host name\n  hint: a DNS name in lower case; no address, no port"],
    ),
    "prefix of an exact match": (
        rule("matches: [{path: {type: Exact, value: /a}}], filters: [{type: URLRewrite, "
             "urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]"),
        ["4:96: error: rules[0]: ReplacePrefixMatch needs matches of type PathPrefix"],
    ),
    "relative rewrite": (
        rule("filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: a}}}]"),
        ["4:131: error: path: the path 'a' does not start with '/'"],
    ),
    "host as header": (
        rule("filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Host, value: a}]}}]"),
        ["4:111: error: requestHeaderModifier: the host is no header here\n"
         "  hint: use a URLRewrite filter with hostname"],
    ),
    "header twice": (
        rule("filters: [{type: RequestHeaderModifier, requestHeaderModifier: "
             "{set: [{name: a, value: b}, {name: A, value: c}]}}]"),
        ["4:111: error: requestHeaderModifier: header 'a' is here twice\n  hint: keep one of them"],
    ),
    "header of a connection": (
        rule("filters: [{type: ResponseHeaderModifier, responseHeaderModifier: "
             "{add: [{name: Keep-Alive, value: b}]}}]"),
        ["4:113: error: responseHeaderModifier: 'Keep-Alive' belongs to one connection and cannot be set\n"
         "  hint: remove it"],
    ),
    "rewrite on a backend": (
        rule("backendRefs: [{name: a, port: 1, filters: [{type: URLRewrite, urlRewrite: {hostname: a}}]}]"),
        ["4:84: error: backendRefs[0]: URLRewrite is not supported on a backend yet\n  hint: put it on the rule"],
    ),
    "tries that are longer than the request": (
        rule("timeouts: {request: 1s, backendRequest: 2s}"),
        ["4:82: error: timeouts: a try may not take longer than the request"],
    ),
    "default gateways": (
        document("GRPCRoute", "parentRefs: [{name: g}], useDefaultGateways: All"),
        ["4:33: error: spec: 'useDefaultGateways' is not supported yet\n  hint: name the Gateway in parentRefs"],
    ),
    "no method": (
        call("matches: [{method: {}}]"),
        ["4:61: error: method: one of 'service', 'method' is needed"],
    ),
    "path as service": (
        call("matches: [{method: {service: a/b}}]"),
        ["4:71: error: method: 'a/b' is no gRPC service\n  hint: as in package.Service, and in Method"],
    ),
    "redirect of a call": (
        call("filters: [{type: RequestRedirect, requestRedirect: {port: 1}}]"),
        ["4:51: error: rules[0]: RequestRedirect is not for gRPC\n  hint: write an HTTPRoute"],
    ),
    "session of a call": (
        call("sessionPersistence: {}"),
        ["4:42: error: rules[0]: 'sessionPersistence' is not supported yet\n  hint: nothing replaces it yet"],
    ),
    "two rules for connections": (
        document("TCPRoute", "parentRefs: [{name: g}], rules: [{backendRefs: [{name: a}]}, {backendRefs: [{name: b}]}]",
                 "v1alpha2"),
        ["4:40: error: spec: nothing tells the rules apart\n  hint: write exactly one"],
    ),
    "no weight": (
        document("TCPRoute", "parentRefs: [{name: g}], rules: [{backendRefs: [{name: a, weight: 0}]}]", "v1alpha2"),
        ["4:55: error: rules[0]: the weights of the backends add up to 0\n  hint: name a backend with a weight"],
    ),
    "version": (
        document("TCPRoute", "parentRefs: [{name: g}], rules: []", "v1beta1"),
        ["1:13: error: TCPRoute has no version 'v1beta1'\n  hint: use gateway.networking.k8s.io/v1"],
    ),
    "grant from nobody": (
        document("ReferenceGrant", "to: [{group: '', kind: Service}]"),
        ["4:7: error: spec: 'from' is missing"],
    ),
    "TLS of a plain listener": (
        listener("port: 1, protocol: HTTP, tls: {certificateRefs: [{name: a}]}"),
        ["4:87: error: listeners[0]: protocol HTTP has no TLS\n  hint: use protocol: HTTPS or TLS"],
    ),
    "HTTPS that is passed on": (
        listener("port: 1, protocol: HTTPS, tls: {mode: Passthrough}"),
        ["4:88: error: listeners[0]: HTTPS ends at the listener\n  hint: use protocol: TLS to pass it on"],
    ),
    "certificate of what is passed on": (
        listener("port: 1, protocol: TLS, tls: {mode: Passthrough, certificateRefs: [{name: a}]}"),
        ["4:123: error: tls: mode: Passthrough leaves TLS to whoever is behind the gateway\n"
         "  hint: remove 'certificateRefs'"],
    ),
    "no certificate": (
        listener("port: 1, protocol: HTTPS, tls: {certificateRefs: []}"),
        ["4:106: error: tls: mode: Terminate needs a certificate\n  hint: name a Secret"],
    ),
    "no TLS": (
        listener("port: 1, protocol: HTTPS"),
        ["4:46: error: listeners[0]: protocol HTTPS needs 'tls'\n  hint: give tls.certificateRefs"],
    ),
    "host of connections": (
        listener("port: 1, protocol: TCP, hostname: a.test"),
        ["4:91: error: listeners[0]: nothing in a TCP connection names a host\n  hint: remove 'hostname'"],
    ),
    "route that cannot bind": (
        listener("port: 1, protocol: TCP, allowedRoutes: {kinds: [{kind: HTTPRoute}]}"),
        ["4:96: error: listeners[0]: no such route can bind to protocol TCP\n"
         "  hint: HTTPRoute and GRPCRoute need HTTP or HTTPS; TLSRoute needs TLS; TCPRoute TCP, or TLS that ends here"],
    ),
    "unknown protocol": (
        listener("port: 1, protocol: UDP"),
        ["4:76: error: protocol: 'UDP' is not supported\n  hint: known: HTTP, HTTPS, TCP, TLS"],
    ),
    "selector that is not asked": (
        listener("port: 1, protocol: HTTP, allowedRoutes: {namespaces: {from: All, selector: {}}}"),
        ["4:132: error: namespaces: 'selector' belongs to from: Selector, which needs it"],
    ),
    "values of an operator": (
        listener("port: 1, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: "
                 "{matchExpressions: [{key: kubernetes.io/metadata.name, operator: In}]}}}"),
        ["4:157: error: matchExpressions[0]: operator In needs values"],
    ),
    "parameters of what a cluster makes": (
        document("Gateway", "gatewayClassName: pymesh, listeners: [{name: l, port: 1, protocol: HTTP}], "
                 "infrastructure: {parametersRef: {group: '', kind: ConfigMap, name: c}}"),
        ["4:100: error: infrastructure: 'parametersRef' is not supported yet\n"
         "  hint: run the proxies yourself, with a Service that selects them by their label "
         "gateway.networking.k8s.io/gateway-name"],
    ),
    "type of the Service": (
        listener("port: 1, protocol: HTTP").replace(
            "{name: a}", "{name: a, annotations: {networking.istio.io/service-type: Cloud}}"
        ),
        ["3:11: error: Gateway: networking.istio.io/service-type: there are no Services of type 'Cloud'\n"
         "  hint: LoadBalancer, NodePort or ClusterIP"],
    ),
    "listener twice": (
        listener("port: 1, protocol: HTTP", "port: 1, protocol: HTTP"),
        ["4:46: error: spec: listeners 'l0' and 'l1' are both for every hostname on port 1\n"
         "  hint: give each its own hostname or port",
         "4:83: error: spec: listeners 'l0' and 'l1' are both for every hostname on port 1\n"
         "  hint: give each its own hostname or port"],
    ),
    "two protocols": (
        listener("port: 1, protocol: HTTP",
                 "port: 1, protocol: HTTPS, hostname: a.test, tls: {certificateRefs: [{name: a}]}"),
        ["4:46: error: spec: listeners 'l0' and 'l1' on port 1 speak HTTP and HTTPS\n  hint: give each its own port",
         "4:83: error: spec: listeners 'l0' and 'l1' on port 1 speak HTTP and HTTPS\n  hint: give each its own port"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_refused(case: str) -> None:
    text, wanted = CASES[case]
    report = Report()
    load_text("f", text, report)
    assert [str(one) for one in report.diagnostics] == [f"f:{one}" for one in wanted]
