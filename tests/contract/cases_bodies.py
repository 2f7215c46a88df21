"""Bodies whole and as they stream, trailers, and the log."""

from __future__ import annotations

from pymesh.simulated.messages import Answered, Asked, Fields
from tests.contract.case import ALL, Case
from tests.contract.cases_headers import asked

#: Who calls these hooks.
BY = ALL

_POST = asked(method="POST", body=b"hello")
_WITH_TRAILERS = Asked("POST", "/", "service.test", Fields(), b"hello", Fields([("x-sum", "1")]))
_UPPER = """
def on_request_body(self, request, body, ctx): return body.upper()
def on_response_body(self, response, body, ctx): return body.upper()
"""
_FAILED = {"status": 500, "flags": "UAEX", "details": "filter_failed", "failures": 1}

WHOLE = [
    Case(
        "whole bodies are replaced and measured",
        """
        def on_request_body(self, request, body, ctx):
            request.headers["x-length"] = str(len(body))
            return body * 2
        def on_response_body(self, response, body, ctx):
            response.headers["x-length"] = str(len(body))
            return body + b"!"
        """,
        _POST,
        answer=Answered(200, {}, b"fine"),
        upstream={"x-length": "5", "content-length": "10"},
        upstream_body=b"hellohello",
        client={"x-length": "4", "content-length": "5"},
        client_body=b"fine!",
        by=BY,
    ),
    Case(
        "whole bodies may pass as they are",
        """
        def on_request_body(self, request, body, ctx): return None
        def on_response_body(self, response, body, ctx): return None
        """,
        _POST,
        answer=Answered(200, {}, b"fine"),
        upstream={"content-length": "5"},
        upstream_body=b"hello",
        client={"content-length": "4"},
        client_body=b"fine",
        by=BY,
    ),
    Case(
        "a body that comes in pieces is whole",
        _UPPER,
        asked(method="POST", body=b"abcdefgh"),
        split=[1, 3],
        upstream_body=b"ABCDEFGH",
        by=BY,
    ),
    Case(
        "a request without a body has an empty one",
        'def on_request_body(self, request, body, ctx): request.headers["x-body"] = repr(body)',
        upstream={"x-body": "b''"},
        by=BY,
    ),
    Case(
        "a reply to a body",
        'def on_request_body(self, request, body, ctx): return Reply(422, body[::-1], {"x-a": "b"})',
        _POST,
        reached=False,
        status=422,
        client={"x-a": "b"},
        client_body=b"olleh",
        details="filter_reply",
        by=BY,
    ),
    Case(
        "a reply in place of an answer's body",
        "def on_response_body(self, response, body, ctx): return Reply(502, body[::-1])",
        answer=Answered(200, {}, b"fine"),
        status=502,
        client_body=b"enif",
        details="filter_reply",
        by=BY,
    ),
    Case(
        "a body changes where it goes",
        """
        def on_request_body(self, request, body, ctx):
            request.path = "/elsewhere"
            request.headers["x-tier"] = "gold"
        """,
        _POST,
        upstream={":path": "/elsewhere", "x-tier": "gold"},
        upstream_body=b"hello",
        route="gold",
        by=BY,
    ),
    Case(
        "a request that is too long",
        "max_body = 4\ndef on_request_headers(self, request, ctx): pass\n" + _UPPER,
        _POST,
        reached=False,
        status=413,
        details="request_payload_too_large",
        entered=None,  # it does, and no hook is called
        by=BY,
    ),
    Case("a request that is just not too long", "max_body = 5\n" + _UPPER, _POST, upstream_body=b"HELLO", by=BY),
    Case(
        "an answer that is too long",
        "max_body = 4\n" + _UPPER,
        answer=Answered(200, {}, b"too long"),
        status=500,
        details="response_payload_too_large",
        by=BY,
    ),
    *(
        Case(
            f"a body hook {title}, {policy}",
            f"def on_request_body(self, request, body, ctx): {statement}",
            _POST,
            policy=policy,  # type: ignore[arg-type]
            reached=policy == "OPEN",
            upstream_body=b"hello",
            by=BY,
            **({"failures": 1} if policy == "OPEN" else _FAILED),  # type: ignore[arg-type]
        )
        for title, statement in [("raises", "1 / 0"), ("returns text", 'return "no"'), ("exits", "raise SystemExit")]
        for policy in ("CLOSED", "OPEN")
    ),
]

STREAMED = [
    Case(
        "pieces are replaced, held back and passed on",
        """
        def on_request_headers(self, request, ctx):
            ctx["held"] = b""
        def on_request_chunk(self, chunk, end, ctx):
            ctx["held"] += chunk
            return ctx["held"][::-1] if end else b""
        def on_response_chunk(self, chunk, end, ctx):
            return chunk.upper()
        """,
        asked(method="POST", body=b"abcdefgh"),
        split=[3],
        answer=Answered(200, {}, b"fine"),
        upstream={"content-length": None},
        upstream_body=b"hgfedcba",
        client={"content-length": None},
        client_body=b"FINE",
        by=BY,
    ),
    Case(
        "pieces pass as they are",
        "def on_request_chunk(self, chunk, end, ctx): return None",
        asked(method="POST", body=b"abcdefgh"),
        split=[3],
        upstream_body=b"abcdefgh",
        by=BY,
    ),
    Case(
        "the end comes once, also without a body",
        """
        def on_request_chunk(self, chunk, end, ctx):
            assert end and chunk == b""
            return b"made"
        """,
        asked(method="POST"),
        upstream_body=b"made",
        by=BY,
    ),
    Case(
        "the end comes once, behind all pieces",
        """
        def on_request_chunk(self, chunk, end, ctx):
            assert not ctx.get("ended")
            ctx["ended"] = end
            ctx["seen"] = ctx.get("seen", b"") + chunk
        def on_response_headers(self, response, ctx):
            response.headers["x-seen"] = f"{ctx['seen']} {ctx['ended']}"
        """,
        asked(method="POST", body=b"abcdefgh"),
        split=[1],
        client={"x-seen": "b'abcdefgh' True"},
        by=BY,
    ),
    *(
        Case(
            f"a chunk hook {title}",
            f"def on_request_chunk(self, chunk, end, ctx): {statement}",
            asked(method="POST"),
            reached=False,
            by=BY,
            **_FAILED,  # type: ignore[arg-type]
        )
        for title, statement in [("raises", "1 / 0"), ("replies", "return Reply(403)"), ("returns text", 'return "a"')]
    ),
    Case(
        "a chunk hook raises, OPEN",
        "def on_request_chunk(self, chunk, end, ctx): 1 / 0",
        asked(method="POST"),
        policy="OPEN",
        failures=1,
        by=BY,
    ),
]

TRAILERS = [
    Case(
        "trailers are changed",
        """
        def on_request_trailers(self, trailers, ctx):
            trailers["x-sum"] = trailers["X-Sum"] + "2"
        def on_response_trailers(self, trailers, ctx):
            trailers["x-more"] = "yes"
            del trailers["x-sum"]
        """,
        _WITH_TRAILERS,
        answer=Answered(200, {}, b"fine", {"x-sum": "3", "x-kept": "4"}),
        upstream_body=b"hello",
        upstream_trailers={"x-sum": "12"},
        client_body=b"fine",
        client_trailers={"x-sum": None, "x-more": "yes", "x-kept": "4"},
        by=BY,
    ),
    Case(
        "without trailers there is no call",
        "def on_request_trailers(self, trailers, ctx): 1 / 0",
        _POST,
        upstream_body=b"hello",
        entered=None,
        by=BY,
    ),
    Case(
        "a whole body and its trailers",
        """
        def on_request_body(self, request, body, ctx): return body.upper()
        def on_request_trailers(self, trailers, ctx): trailers["x-more"] = "yes"
        """,
        _WITH_TRAILERS,
        upstream_body=b"HELLO",
        upstream_trailers={"x-sum": "1", "x-more": "yes"},
        by=BY,
    ),
]

_LOG = """
def on_log(self, record, ctx):
    say(f"NAME {record.method} {record.path} {record.authority} {record.status} {record.flags} {record.details}")
    say(f"NAME {record.request_bytes} {record.response_bytes} {record.peer} {ctx.get('from')}")
"""

LOG = [
    Case(
        "the log of an answer",
        'def on_request_headers(self, request, ctx): ctx["from"] = "the first hook"\n' + _LOG.replace("NAME", "log-1"),
        asked("/a?b", "POST", b"hello"),
        answer=Answered(201, {}, b"fine"),
        status=201,
        printed=["log-1 POST /a?b service.test 201 - via_upstream", "log-1 5 4 None the first hook"],
        by=BY,
    ),
    Case(
        "the log of a reply",
        "def on_request_headers(self, request, ctx): return Reply(403, b'no')\n" + _LOG.replace("NAME", "log-2"),
        reached=False,
        status=403,
        details="filter_reply",
        printed=["log-2 GET / service.test 403 - filter_reply"],
        by=BY,
    ),
    Case(
        "the log of a failure",
        "def on_request_headers(self, request, ctx): 1 / 0\n" + _LOG.replace("NAME", "log-3"),
        reached=False,
        printed=["log-3 GET / service.test 500 UAEX filter_failed"],
        by=BY,
        **_FAILED,  # type: ignore[arg-type]
    ),
    Case(
        "a log hook that raises",
        "def on_log(self, record, ctx): 1 / 0",
        failures=1,
        by=BY,
    ),
]

LIFE = [
    Case(
        "setup, once before the first request",
        """
        def setup(self):
            self.ready = "yes"
        def on_request_headers(self, request, ctx):
            request.headers["x-ready"] = self.ready
        """,
        upstream={"x-ready": "yes"},
    ),
]

CASES = [*WHOLE, *STREAMED, *TRAILERS, *LOG, *LIFE]
