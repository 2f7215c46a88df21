"""Wrong VirtualServices, DestinationRules and exports: the exact text, with place and remedy."""

import pytest

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.load import load_text

VIRTUAL = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec:\n  hosts: [a]\n"
ROUTE = "route: [{destination: {host: a}}]"
DIRECT = "directResponse: {status: 200}"


def match(text: str) -> str:
    return VIRTUAL + f"  http: [{{match: [{{{text}}}], {DIRECT}}}]\n"


def rule(text: str) -> str:
    return VIRTUAL + f"  http: [{{{text}}}]\n"


CASES = {
    "two kinds of a match": (
        match("uri: {exact: /a, prefix: /b}"),
        ["6:45: error: uri: 'exact' and 'prefix' exclude each other\n  hint: keep one of them"],
    ),
    "no kind of a match": (
        match("uri: {}"),
        ["6:25: error: uri: one of 'exact', 'prefix', 'regex' is needed"],
    ),
    "claims of a token": (
        match('headers: {"@request.auth.claims[group": {exact: a}}'),
        [
            "6:29: error: match[0]: '@request.auth.claims[group' names no claim\n"
            "  hint: write it as in @request.auth.claims.groups or @request.auth.claims[user][name]"
        ],
    ),
    "claims without a name": (
        match('withoutHeaders: {"@request.auth.claims": {exact: a}}'),
        [
            "6:36: error: match[0]: '@request.auth.claims' names no claim\n"
            "  hint: write it as in @request.auth.claims.groups or @request.auth.claims[user][name]"
        ],
    ),
    "prefix of nothing": (
        match("headers: {a: {prefix: ''}}, method: {regex: ''}"),
        [
            "6:42: error: a: an empty prefix takes everything\n  hint: write {} to ask that it is there",
            "6:64: error: method: an empty regex takes everything\n  hint: leave the condition out",
        ],
    ),
    "value of two lines": (
        rule(f'headers: {{request: {{set: {{a: "b\\nc"}}}}}}, {ROUTE}'),
        [
            "6:36: error: request: a: a header's value is one line of text\n  hint: remove control characters",
        ],
    ),
    "percent sign": (
        rule(f"headers: {{response: {{add: {{a: 100%}}}}}}, {ROUTE}"),
        ["6:37: error: response: a: a '%' is not closed\n  hint: write %% for a percent sign"],
    ),
    "unknown command": (
        rule(f"headers: {{response: {{add: {{a: '%BYTES_RECIEVED%'}}}}}}, {ROUTE}"),
        ["6:37: error: response: a: %BYTES_RECIEVED% is not known\n  hint: did you mean '%BYTES_RECEIVED%'?"],
    ),
    "authority of two lines": (
        rule(f'rewrite: {{authority: "a\\nb"}}, {ROUTE}'),
        [
            "6:32: error: rewrite: authority: a header's value is one line of text\n  hint: remove control characters",
        ],
    ),
    "uri as header": (
        match("headers: {uri: {exact: /a}}"),
        ["6:29: error: match[0]: 'uri' is no header here\n  hint: write 'uri' beside 'headers'"],
    ),
    "header name": (
        match('withoutHeaders: {"a b": {}}'),
        ["6:36: error: match[0]: 'a b' is not a header name"],
    ),
    "case of a regex": (
        match("uri: {regex: /a}, ignoreUriCase: true"),
        ["6:53: error: match[0]: it has no effect on a regex\n  hint: begin the pattern with (?i)"],
    ),
    "prefix of metrics": (
        match("statPrefix: a"),
        [
            "6:20: error: match[0]: 'statPrefix' is not supported yet\n"
            "  hint: remove it; metrics name the route's service"
        ],
    ),
    "possessive quantifier": (
        match("uri: {regex: /a++}"),
        [
            "6:33: error: uri: '/a++' uses '++', which RE2 lacks\n"
            "  hint: look-around and back references are not available"
        ],
    ),
    "back reference": (
        match(r"uri: {regex: '/(a)\1'}"),
        [
            "6:33: error: uri: '/(a)\\\\1' uses '\\\\1', which RE2 lacks\n"
            "  hint: look-around and back references are not available"
        ],
    ),
    "too many repetitions": (
        match("uri: {regex: '/a{1001}'}"),
        [
            "6:33: error: uri: '/a{1001}' uses '{1001', which RE2 lacks\n"
            "  hint: look-around and back references are not available"
        ],
    ),
    "long pattern": (
        match("uri: {regex: /" + "a" * 1024 + "}"),
        ["6:33: error: uri: the pattern is longer than 1024 characters\n  hint: split the rule"],
    ),
    "rewrite of nothing": (
        rule(f"rewrite: {{}}, {ROUTE}"),
        ["6:20: error: rewrite: a rewrite needs 'uri', 'uriRegexRewrite' or 'authority'"],
    ),
    "two rewrites of the path": (
        rule(f"rewrite: {{uri: /a, uriRegexRewrite: {{match: a, rewrite: b}}}}, {ROUTE}"),
        ["6:47: error: rewrite: 'uri' and 'uriRegexRewrite' exclude each other\n  hint: keep one of them"],
    ),
    "group that is not there": (
        rule(f"rewrite: {{uriRegexRewrite: {{match: '(a)', rewrite: '\\2'}}}}, {ROUTE}"),
        ["6:62: error: uriRegexRewrite: the pattern has no group 2\n  hint: it has 1"],
    ),
    "stray backslash": (
        rule(f"rewrite: {{uriRegexRewrite: {{match: a, rewrite: '\\d'}}}}, {ROUTE}"),
        [
            "6:58: error: uriRegexRewrite: a backslash must be followed by a digit or a backslash\n"
            "  hint: write it twice"
        ],
    ),
    "redirect to nowhere": (
        rule("redirect: {redirectCode: 302}"),
        ["6:21: error: redirect: a redirect needs 'uri', 'authority', 'scheme', 'port' or 'derivePort'"],
    ),
    "no redirect": (
        rule("redirect: {uri: /a, redirectCode: 200}"),
        ["6:45: error: redirect: 200 is no redirect\n  hint: 301, 302, 303, 307 or 308"],
    ),
    "two ports of a redirect": (
        rule("redirect: {port: 1, derivePort: FROM_REQUEST_PORT}"),
        ["6:43: error: redirect: 'port' and 'derivePort' exclude each other\n  hint: keep one of them"],
    ),
    "derived from something else": (
        rule("redirect: {derivePort: FROM_PROTOCOL}"),
        ["6:34: error: derivePort: 'FROM_PROTOCOL' is not supported\n  hint: did you mean 'FROM_PROTOCOL_DEFAULT'?"],
    ),
    "scheme of a redirect": (
        rule("redirect: {scheme: ftp}"),
        ["6:30: error: redirect: 'ftp' is no scheme of a redirect\n  hint: http or https"],
    ),
    "path of a redirect": (
        rule("redirect: {uri: a}"),
        ["6:27: error: redirect: the path 'a' does not start with '/'"],
    ),
    "prefix of an exact match": (
        rule('match: [{uri: {exact: /a}}], redirect: {uri: "%PREFIX()%/b"}'),
        ["6:50: error: http[0]: %PREFIX()% needs matches of uri.prefix\n  hint: write the whole path"],
    ),
    "status of a direct response": (
        rule("directResponse: {status: 100}"),
        ["6:36: error: status: 100 is out of range\n  hint: 200 to 599"],
    ),
    "two bodies": (
        rule("directResponse: {status: 200, body: {string: a, bytes: YQ==}}"),
        ["6:66: error: body: 'string' and 'bytes' exclude each other\n  hint: keep one of them"],
    ),
    "no base64": (
        rule("directResponse: {status: 200, body: {bytes: a}}"),
        ["6:55: error: body: this is not base64\n  hint: plain text goes under `string`"],
    ),
    "host removed": (
        rule(f"headers: {{request: {{remove: [Host]}}}}, {ROUTE}"),
        ["6:39: error: request: a request without a host is none\n  hint: set another with set.host"],
    ),
    "host set twice": (
        rule(f'headers: {{request: {{set: {{host: a}}, add: {{":authority": b}}}}}}, {ROUTE}'),
        ["6:30: error: request: the host is set twice\n  hint: keep one of them"],
    ),
    "host of a response": (
        rule(f"headers: {{response: {{set: {{host: a}}}}}}, {ROUTE}"),
        ["6:31: error: headers: a response has no host\n  hint: set it under `request`"],
    ),
    "path as header": (
        rule(f'headers: {{request: {{set: {{":path": /a}}}}}}, {ROUTE}'),
        ["6:36: error: request: ':path' cannot be changed as a header\n  hint: use rewrite or redirect"],
    ),
    "header of a connection": (
        rule(f"headers: {{request: {{add: {{Upgrade: a}}}}}}, {ROUTE}"),
        ["6:36: error: request: 'Upgrade' belongs to one connection and cannot be set\n  hint: remove it"],
    ),
    "delegate and route": (
        rule(f"delegate: {{name: b}}, {ROUTE}"),
        ["6:21: error: http[0]: 'route' and 'delegate' exclude each other\n  hint: keep one of them"],
    ),
    "delegate of a delegate": (
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\n"
        "spec: {http: [{delegate: {name: b}}]}\n",
        ["4:14: error: spec: a VirtualService without hosts is a delegate, which cannot delegate"],
    ),
    "delegate with a gateway": (
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\n"
        f"spec: {{gateways: [b], http: [{{{DIRECT}}}]}}\n",
        [
            "4:18: error: spec: 'gateways' has no meaning without hosts\n"
            "  hint: name the hosts; a delegate has http alone"
        ],
    ),
    "timeout without a route": (
        rule(f"{DIRECT}, timeout: 1s"),
        ["6:51: error: http[0]: 'timeout' needs 'route'"],
    ),
    "no destination of requests": (
        rule("route: []"),
        ["6:18: error: http[0]: a route without destinations leads nowhere\n  hint: name a destination"],
    ),
    "no destination of connections": (
        VIRTUAL + "  tcp: [{route: []}]\n",
        ["6:17: error: tcp[0]: a route without destinations leads nowhere\n  hint: name a destination"],
    ),
    "no destination of TLS connections": (
        VIRTUAL + "  tls: [{match: [{sniHosts: [a]}], route: []}]\n",
        ["6:43: error: tls[0]: a route without destinations leads nowhere\n  hint: name a destination"],
    ),
    "no subnet": (
        VIRTUAL + f"  tcp: [{{match: [{{destinationSubnets: [10.0.0.0/33]}}], {ROUTE}}}]\n",
        ["6:39: error: match[0]: '10.0.0.0/33' is no subnet\n  hint: write it as in 10.1.0.0/16"],
    ),
    "subnet of a TLS match": (
        VIRTUAL + f"  tls: [{{match: [{{sniHosts: [a], destinationSubnets: [x]}}], {ROUTE}}}]\n",
        ["6:54: error: match[0]: 'x' is no subnet\n  hint: write it as in 10.1.0.0/16"],
    ),
    "source subnet": (
        VIRTUAL + f"  tcp: [{{match: [{{sourceSubnet: 10.0.0.0/8}}], {ROUTE}}}]\n",
        ["6:19: error: match[0]: 'sourceSubnet' is not supported yet\n  hint: match sourceLabels or sourceNamespace"],
    ),
    "wildcard in the middle": (
        VIRTUAL.replace("[a]", '["a.*.b"]') + f"  http: [{{{DIRECT}}}]\n",
        ["5:10: error: spec: 'a.*.b' is no host\n  hint: write a whole name, '*.suffix' or '*'"],
    ),
    "exported to no namespace": (
        VIRTUAL + f"  http: [{{{DIRECT}}}]\n  exportTo: [A]\n",
        ["7:13: error: spec: 'A' is no namespace\n  hint: write a namespace, '.' for this one, '*' for all"],
    ),
    "exported to all and some": (
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\n"
        'spec: {host: a, exportTo: ["*", b]}\n',
        ["4:27: error: spec: '*' stands alone\n  hint: keep it, or the others"],
    ),
    "exported to nobody and some": (
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a}\n"
        "spec: {hosts: [a.test], ports: [{number: 1, protocol: TCP}], resolution: STATIC, exportTo: [~, '~', b]}\n",
        ["4:93: error: exportTo[0]: expected a string, found null (~)\n  hint: quote it"],
    ),
    "nobody and some": (
        VIRTUAL + f"  http: [{{{DIRECT}}}]\n  exportTo: ['~', b]\n",
        ["7:13: error: spec: '~' stands alone\n  hint: keep it, or the others"],
    ),
    "timestamp": (
        VIRTUAL.replace("{name: a}", "{name: a, creationTimestamp: today}") + f"  http: [{{{DIRECT}}}]\n",
        ["3:40: error: metadata: 'today' is no timestamp\n  hint: write it as in 2026-01-31T12:00:00Z"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_refused(case: str) -> None:
    text, wanted = CASES[case]
    report = Report()
    load_text("f", text, report)
    assert [str(one) for one in report.diagnostics] == [f"f:{one}" for one in wanted]


@pytest.mark.parametrize(
    "pattern", ["[a*+]+", r"\++", r"a\}+", r"[]+]+", r"\\", r"(?i)a", "a{1000}", r"[\]1]", "(?P<n>a)", r"^(.*?;)?\s*$"]
)
def test_patterns_that_both_sides_know_are_taken(pattern: str) -> None:
    report = Report()
    load_text("f", match(f"uri: {{regex: '{pattern}'}}"), report)
    assert not report.diagnostics
