"""What contract 1.0 says: heads, replies, `when` and `wants`, failures, protected headers, Latin-1, routing again."""

from __future__ import annotations

from pymesh.simulated.messages import Answered, Asked, Fields
from tests.contract.case import ALL, LANES, Case


def asked(path: str = "/", method: str = "GET", body: bytes = b"", **headers: str) -> Asked:
    """A request; `x_user` is the header `x-user`."""
    return Asked(
        method, path, "service.test", Fields((name.replace("_", "-"), value) for name, value in headers.items()), body
    )


_SETS = """
def on_request_headers(self, request, ctx):
    request.headers[{name!r}] = {value!r}
"""

_ON_BOTH = """
def on_request_headers(self, request, ctx):
    request.headers["x-seen"] = "yes"
def on_response_headers(self, response, ctx):
    response.headers["x-back"] = "yes"
"""

HEADS = [
    Case(
        "changes of both heads",
        """
        def on_request_headers(self, request, ctx):
            request.headers["x-seen"] = f"{request.method} {request.path} {request.authority} {request.scheme}"
            request.headers.add("x-many", "b")
            del request.headers["x-secret"]
        def on_response_headers(self, response, ctx):
            response.headers["x-status"] = str(response.status)
            del response.headers["x-inner"]
        """,
        asked("/a?b=c", x_secret="s", x_many="a"),
        answer=Answered(202, {"x-inner": "1", "x-kept": "2"}),
        upstream={"x-seen": "GET /a?b=c service.test http", "x-secret": None, "x-many": "a, b"},
        status=202,
        client={"x-status": "202", "x-inner": None, "x-kept": "2"},
    ),
    Case(
        "names are found in any case and given in lower case",
        """
        def on_request_headers(self, request, ctx):
            names = [name for name, _ in request.headers.items() if name.startswith("x-one")]
            found = [request.headers["X-One"], request.headers.get("x-ONE"), str("X-oNe" in request.headers)]
            request.headers["X-Names"] = ",".join(names + found + request.headers.getall("X-ONE"))
        """,
        Asked("GET", "/", "service.test", Fields([("X-One", "1"), ("x-one", "2")])),
        upstream={"x-names": "x-one,x-one,1,1,True,1,2"},
    ),
    Case(
        "setting replaces all, deleting removes all",
        """
        def on_request_headers(self, request, ctx):
            request.headers["x-a"] = "new"
            del request.headers["x-b"]
        """,
        Asked("GET", "/", "service.test", Fields([("x-a", "1"), ("x-a", "2"), ("x-b", "1"), ("x-b", "2")])),
        upstream={"x-a": "new", "x-b": None},
    ),
    Case(
        "values are kept from hook to hook",
        """
        def on_request_headers(self, request, ctx):
            ctx["way"] = "there"
            assert "way" in ctx and ctx.get("none") is None and ctx.get("none", 1) == 1
        def on_response_headers(self, response, ctx):
            response.headers["x-way"] = ctx["way"] + " and back"
        """,
        client={"x-way": "there and back"},
    ),
    Case(
        "an instance keeps its configuration",
        """
        Config = Settings
        def on_request_headers(self, request, ctx):
            request.headers["x-limit"] = f"{self.config.limit} {self.config.name}"
        """,
        module="""
        @dataclass
        class Settings:
            limit: int
            name: str = "anna"
        """,
        config={"limit": 3},
        upstream={"x-limit": "3 anna"},
    ),
    Case(
        "path and authority",
        """
        def on_request_headers(self, request, ctx):
            request.path = "/new?x=%20"
            request.authority = "other.test:81"
        """,
        upstream={":path": "/new?x=%20", ":authority": "other.test:81"},
    ),
    Case(
        "routed again after a change",
        """
        def on_request_headers(self, request, ctx):
            request.headers["x-tier"] = "gold"
        """,
        upstream={"x-tier": "gold"},
        route="gold",
    ),
    Case("routed once without one", "def on_request_headers(self, request, ctx): pass", route="plain"),
    Case("no peer without a certificate", _SETS.format(name="x-p", value="") + "    assert ctx.peer is None"),
]

_OTHER_TEXT = "ValueError: header text must be Latin-1: encode other text first"
_CONTROL = "ValueError: a header value must not contain control characters"
_NO_PATH = "ValueError: a path starts with `/` and is percent-encoded ASCII without `#`"
_WRITTEN = ("connection", "content-length", "host", "keep-alive", "transfer-encoding", "upgrade")


def _written(name: str) -> str:
    return f"ValueError: `{name}` is written by the proxy and cannot be set by a filter"


TEXT = [
    Case(
        "text is Latin-1",
        """
        def on_request_headers(self, request, ctx):
            value = request.headers["x-name"]
            request.headers["x-back"] = value + "\\xdf"
            request.headers["x-length"] = str(len(value))
        """,
        asked(x_name="J\xfcrgen"),
        upstream={"x-back": "J\xfcrgen\xdf", "x-length": "6"},
    ),
    *(
        Case(
            f"refused: {title}",
            f"""
            def on_request_headers(self, request, ctx):
                try:
                    {statement}
                except {error.partition(":")[0]} as error:
                    request.headers["x-error"] = str(error)
            """,
            asked(x_a="1"),
            upstream={"x-error": error.partition(": ")[2]},
        )
        for title, statement, error in [
            ("other text", 'request.headers["x-a"] = "\\u20ac"', _OTHER_TEXT),
            ("control characters", 'request.headers["x-a"] = "a\\nb"', _CONTROL),
            ("no token", 'request.headers["x a"] = "1"', "ValueError: `x a` is not a header name"),
            ("a pseudo-header", 'request.headers[":path"] = "/"', "ValueError: `:path` is not a header name"),
            ("path without a slash", 'request.path = "a"', _NO_PATH),
            ("path with a space", 'request.path = "/a b"', _NO_PATH),
            ("path with a fragment", 'request.path = "/a#b"', _NO_PATH),
            ("authority that is none", 'request.authority = "a/b"', "ValueError: `a/b` is not a host and port"),
            ("deleting what is not there", 'del request.headers["x-none"]', "KeyError: 'x-none'"),
            ("reading what is not there", 'request.headers["X-None"]', "KeyError: 'X-None'"),
            *((f"setting {name}", f'request.headers["{name.title()}"] = "1"', _written(name)) for name in _WRITTEN),
            ("adding host", 'request.headers.add("Host", "x")', _written("host")),
            ("deleting content-length", 'del request.headers["content-length"]', _written("content-length")),
        ]
    ),
]

REPLIES = [
    Case(
        "a reply is the answer",
        """
        def on_request_headers(self, request, ctx):
            return Reply(418, b"short", {"x-pot": "tea"})
        def on_response_headers(self, response, ctx):
            response.headers["x-late"] = "yes"
        """,
        reached=False,
        status=418,
        client={"x-pot": "tea", "x-late": None},
        client_body=b"short",
        details="filter_reply",
    ),
    Case(
        "a reply in place of a response",
        'def on_response_headers(self, response, ctx): return Reply(503, b"no", {"x-why": "so"})',
        answer=Answered(200, {"x-inner": "1"}, b"upstream's"),
        status=503,
        client={"x-why": "so", "x-inner": None},
        client_body=b"no",
        details="filter_reply",
    ),
    Case(
        "a reply to a HEAD has no body",
        'def on_request_headers(self, request, ctx): return Reply(403, b"no")',
        asked(method="HEAD"),
        reached=False,
        status=403,
        client_body=b"",
        details="filter_reply",
        by=("simulator", "proxy"),  # what is sent of a message is the proxy's business
    ),
]

GATES = [
    *(
        Case(
            f"when: {test} {name} {value}, {'met' if met else 'not met'}",
            f"when = (When({name!r}, {test!r}, {value!r}),)\n{_ON_BOTH}",
            asked("/api/x", x_user="anna", x_empty=""),
            upstream={"x-seen": "yes" if met else None},
            client={"x-back": "yes" if met else None},
            entered=met,
        )
        for name, test, value, met in [
            ("x-user", "present", "", True),
            ("X-User", "exact", "anna", True),
            ("x-user", "exact", "ann", False),
            ("x-none", "present", "", False),
            ("x-none", "contains", "", False),
            ("x-empty", "exact", "", True),
            (":path", "prefix", "/api", True),
            (":path", "prefix", "/apis", False),
            (":path", "suffix", "/x", True),
            (":method", "exact", "GET", True),
            (":authority", "contains", "test", True),
            (":scheme", "exact", "https", False),
        ]
    ),
    Case(
        "when: all have to hold",
        'when = (When("x-a"), When("x-b"))\n' + _ON_BOTH,
        asked(x_a="1"),
        upstream={"x-seen": None},
        entered=False,
    ),
    Case(
        "when: one of several fields is enough",
        'when = (When("x-a", "exact", "2"),)\n' + _ON_BOTH,
        Asked("GET", "/", "service.test", Fields([("x-a", "1"), ("x-a", "2")])),
        upstream={"x-seen": "yes"},
    ),
    *(
        Case(
            f"wants: {wanted}",
            f"wants = {wanted!r}\n{_ON_BOTH}",
            asked(x_a="1"),
            upstream={"x-seen": "yes" if met else None},
            client={"x-back": "yes" if met else None},
            entered=met,
        )
        for wanted, met in [(("x-a",), True), (("X-A", "x-b"), True), (("x-b", "x-c"), False), ((), True)]
    ),
    Case(
        "wants and when",
        'wants = ("x-a",)\nwhen = (When(":method", "exact", "POST"),)\n' + _ON_BOTH,
        asked(x_a="1"),
        upstream={"x-seen": None},
        entered=False,
    ),
]

#: What a hook may do wrong -> its body.
_WRONG = {
    "raises": 'raise RuntimeError("as it was told to")',
    "calls sys.exit": "raise SystemExit(3)",
    "is interrupted": "raise KeyboardInterrupt",
    "returns text": 'return "no"',
    "returns a number": "return 403",
    "replies with no status": "return Reply(99)",
    "replies with a status in text": 'return Reply("403")',
    "replies with no header name": 'return Reply(403, b"", {"a b": "c"})',
    "replies with a header that breaks the line": 'return Reply(403, b"", {"a": "b\\r\\nc: d"})',
    "replies with text": 'return Reply(403, "text")',
    "uses a message that is over": 'kept.append(request); kept[0].headers["x"]; other()',
}

_TOO_LONG = "time.sleep(0.3)"

FAILURES = [
    *(
        Case(
            f"a request hook {title}, {policy}",
            f"""
            def on_request_headers(self, request, ctx):
                request.headers["x-seen"] = "yes"
                {statement}
            """,
            module="kept = []",
            policy=policy,  # type: ignore[arg-type]
            timeout=0.2 if statement == _TOO_LONG else 60,
            reached=policy == "OPEN",
            # What the hook has done before stays, unless the request goes on before it returns.
            upstream={"x-seen": "yes" if lanes in (LANES, ("inline",)) else None},
            status=500 if policy == "CLOSED" else 200,
            flags="UAEX" if policy == "CLOSED" else "-",
            details="filter_failed" if policy == "CLOSED" else "via_upstream",
            failures=1,
            # In a test that is whoever runs it, and not the filter.
            by=("simulator", "proxy") if "KeyboardInterrupt" in statement else by,
            lanes=lanes,
        )
        for title, statement, lanes, by in [
            *((*wrong, LANES, ALL) for wrong in _WRONG.items()),
            # In a simulated proxy only what waits takes time.
            ("takes too long in the worker", _TOO_LONG, ("inline",), ("harness", "proxy")),
            ("takes too long in a thread", _TOO_LONG, ("threads",), ("harness", "proxy")),
            ("waits too long", _TOO_LONG, ("coroutines",), ALL),
        ]
        for policy in ("CLOSED", "OPEN")
    ),
    *(
        Case(
            f"a response hook raises, {policy}",
            """
            def on_response_headers(self, response, ctx):
                response.headers["x-back"] = "yes"
                raise RuntimeError("as it was told to")
            """,
            policy=policy,  # type: ignore[arg-type]
            answer=Answered(200, {}, b"upstream's"),
            status=500 if policy == "CLOSED" else 200,
            client={"x-back": None if policy == "CLOSED" else "yes"},
            flags="UAEX" if policy == "CLOSED" else "-",
            details="filter_failed" if policy == "CLOSED" else "via_upstream",
            failures=1,
        )
        for policy in ("CLOSED", "OPEN")
    ),
]

CASES = [*HEADS, *TEXT, *REPLIES, *GATES, *FAILURES]
