"""What is understood of CEL: conditions as trees of tests, values of labels, and what is refused."""

from __future__ import annotations

import pytest

from pymesh.control.resources.expression import (
    Code,
    Condition,
    Every,
    ExpressionError,
    Flagged,
    GrpcStatus,
    Header,
    Lasted,
    Some,
    check_value,
    condition,
)

CONDITIONS: dict[str, Condition] = {
    "response.code >= 400": Code("GE", 400),
    "400 <= response.code": Code("GE", 400),
    "response.code > 399": Code("GE", 400),
    "response.code < 500": Code("LE", 499),
    "response.code == 404": Code("EQ", 404),
    "response.code != 404": Some((Code("LE", 403), Code("GE", 405))),
    "!(response.code >= 400)": Code("LE", 399),
    "has(response.code)": Code("GE", 1),
    "request.duration >= duration('1.5s')": Lasted("GE", 1500),
    "request.duration < duration('20ms')": Lasted("LE", 19),
    "!(request.duration < duration('20ms'))": Lasted("GE", 20),
    "response.flags != 0": Flagged(),
    "response.grpc_status != 0": GrpcStatus(0, inverted=True),
    "request.headers['X-User'] == 'ann'": Header("x-user", "exact", "ann"),
    'request.headers["x-user"] != "ann"': Header("x-user", "exact", "ann", inverted=True),
    r"request.headers['x'] == 'it\'s'": Header("x", "exact", "it's"),
    "'x-user' in request.headers": Header("x-user", "present"),
    "!has(request.headers['x-user'])": Header("x-user", "present", inverted=True),
    "request.path.startsWith('/a')": Header(":path", "prefix", "/a"),
    "request.path.matches('^/a|b$')": Header(":path", "regex", ".*(?:^/a|b$).*"),
    "request.url_path == '/a.b'": Header(":path", "regex", r"/a\.b(\?.*)?"),
    "request.url_path.startsWith('/a')": Header(":path", "prefix", "/a"),
    "request.useragent.contains('curl')": Header("user-agent", "contains", "curl"),
    "!request.host.endsWith('.example')": Header(":authority", "suffix", ".example", inverted=True),
    "request.method == 'GET' && response.code == 200 || response.code == 500": Some(
        (Every((Header(":method", "exact", "GET"), Code("EQ", 200))), Code("EQ", 500))
    ),
    "!(request.method == 'GET' || response.code >= 500)": Every(
        (Header(":method", "exact", "GET", inverted=True), Code("LE", 499))
    ),
    "((((response.code == 200))))": Code("EQ", 200),
}

REFUSED = {
    "": "the expression is empty",
    "response.code": "'response.code' is compared to nothing",
    "response.code = 400": "'= 400' is not understood",
    "response.code >= '400'": "no answer has the status 400",
    "response.code >= 4000": "no answer has the status 4000",
    "response.codes >= 400": "'response.codes' is not known here",
    "response.code >= 400 &&": "'the end' comes where an attribute is wanted",
    "response.code >= 400 response.code": "'response' has no place there",
    "(response.code >= 400": "'the end' comes where ')' is wanted",
    "request.duration > duration('1s')": "request.duration > ... is not understood",
    "request.duration >= duration('1.5ms')": "durations are compared in whole milliseconds",
    "request.duration >= duration('soon')": "duration(soon) is no duration",
    "request.duration >= 5": "request.duration >= 5: a duration is wanted",
    "response.flags == 0": "response.flags == 0 is not understood",
    "!(response.flags != 0)": "no filter of the proxies finds requests without a flag",
    "response.grpc_status > 0": "response.grpc_status > 0 is not understood",
    "response.grpc_status == 99": "response.grpc_status == 99 is not understood",
    "response.headers['x'] == 'a'": "no filter of the proxies looks at headers of the answer",
    "request.headers['x'] > 'a'": "request.headers['x'] > a is not understood",
    "request.headers['x y'] == 'a'": "request.headers[x y] names no header",
    "request.path.matches('(')": "'(' is not a regular expression",
    "request.path.size() > 5": "'request.path.size' is not known here",
    "request.url_path.endsWith('a')": "request.url_path.endsWith is not understood",
    "request.path.startsWith(5)": "startsWith(5): a text is wanted",
    "connection.mtls": "'connection.mtls' is not known here",
    "true": "'true' asks for nothing",
    "'x' in request.cookies": "'request.cookies' is no map that is known",
    "(" * 40 + "response.code == 200" + ")" * 40: "the expression is nested too deeply",
    "response.code == 200" + " || response.code == 200" * 200: "the expression is longer than 2048 characters",
}


@pytest.mark.parametrize("text", CONDITIONS)
def test_conditions_are_trees_of_tests(text: str) -> None:
    assert condition(text) == CONDITIONS[text]


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_not_understood_is_refused_with_a_remedy(text: str) -> None:
    with pytest.raises(ExpressionError) as error:
        condition(text)
    assert str(error.value).startswith(REFUSED[text])
    assert error.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "'text'",
        "request.method",
        "string(destination.port)",
        "request.headers['x']",
        "response.headers['x']",
        "has(request.host) ? request.host : 'unknown'",
        "has(request.host) ? request.host : has(request.id) ? request.id : 'unknown'",
    ],
)
def test_values_are_texts_attributes_and_fallbacks(text: str) -> None:
    check_value(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("request.size", "'request.size' is not known here"),
        ("request.method == 'GET'", "'==' has no place there"),
        ("has(request.host) ? request.id : 'a'", "a label has the value that was asked for"),
        ("has(request.host)", "'the end' comes where '?' is wanted"),
        ("5", "'5' comes where an attribute is wanted"),
        ("string('a')", "\"'a'\" comes where an attribute is wanted"),
    ],
)
def test_other_values_are_refused(text: str, message: str) -> None:
    with pytest.raises(ExpressionError) as error:
        check_value(text)
    assert str(error.value).startswith(message)
