"""One filter without a proxy: a test is its client and its upstream.

The harness does with a filter what the proxy does: it judges ``when`` and ``wants``, calls the hooks in their order,
lends each a view, and takes what goes wrong for the failure policy. What a proxy does beside (routing, framing, its own
headers) it does not: :class:`pymesh.testing.Mesh` has the real ones. The table in ``tests/contract/`` holds both to the
same answers.

State of an exchange: its request, then its response, each changed by hooks until the other side gets it; a reply, or a
failure where the policy is CLOSED, ends it early.
"""

from __future__ import annotations

import asyncio
import inspect
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from types import TracebackType
from typing import Any, Literal

from pymesh.filters import loader
from pymesh.filters.api import HttpFilter, LogRecord, Reply, When
from pymesh.simulated.messages import Answered, Asked, Fields, Pairs
from pymesh.testing.calls import Call, Calls, Stub
from pymesh.testing.clock import VirtualLoop
from pymesh.testing.pieces import Split, pieces
from pymesh.testing.views import Context, Headers, Loan, Request, RequestHead, Response, field_name, field_value

Upstream = Callable[[Asked], Answered | bytes | int]
#: That of a resource that says nothing.
DEFAULT_TIMEOUT = 0.1


@dataclass(frozen=True, slots=True)
class Failure:
    """A call of a hook that went wrong."""

    hook: str
    error: str
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class Exchange:
    """What became of a request."""

    #: Whether it met ``when`` and ``wants``.
    entered: bool
    #: What reached the upstream; None if nothing did.
    upstream: Asked | None
    #: What the client got.
    response: Answered
    #: As in the access log.
    flags: str = "-"
    details: str = "via_upstream"
    failures: tuple[Failure, ...] = ()
    #: Whether the response was broken off, after its head had gone.
    is_reset: bool = False

    @property
    def status(self) -> int:
        """What the client got."""
        return self.response.status

    @property
    def body(self) -> bytes:
        """What the client got."""
        return self.response.body


class _OverError(Exception):
    """The exchange ends here, with an answer of the proxy's or a filter's own."""

    def __init__(self, response: Answered, flags: str, details: str, *, is_reset: bool = False) -> None:
        super().__init__(details)
        self.is_reset = is_reset
        self.response = response
        self.flags = flags
        self.details = details


class _LateError(TimeoutError):
    """The time of the hook was over, and not that of something in it."""


@dataclass(slots=True)
class _Running:
    """An exchange on its way."""

    context: Context
    request: RequestHead
    body: bytes
    trailers: list[tuple[str, str]]
    failures: list[Failure] = field(default_factory=list)


class FilterHarness:
    """A filter, to be asked as often as wanted; its instance keeps its state in between.

    ``timeout`` is that of the resource, for each call of a hook. For ``async`` hooks it runs on a clock of its own,
    and without one it is 100 ms, as in a mesh; for plain hooks it is real time, and without one they are not timed, so
    that a busy machine decides no test.
    """

    def __init__(
        self,
        filter: type[HttpFilter[Any]] | HttpFilter[Any],
        config: Mapping[str, Any] | None = None,
        *,
        upstream: Upstream | None = None,
        calls: Mapping[str, Stub] | None = None,
        timeout: float | None = None,
        failure_policy: Literal["CLOSED", "OPEN"] = "CLOSED",
        route: str | None = None,
    ) -> None:
        """Make and set up the filter. Raises :class:`pymesh.filters.FilterError` where the proxy would not load it."""
        self._traits = loader.describe(filter if isinstance(filter, type) else type(filter))
        #: The instance.
        self.filter = loader.make(filter, config or {}) if isinstance(filter, type) else filter
        self._upstream: Upstream = upstream or (lambda _: Answered())
        self._answer_split: Split = None
        self._timeout = timeout
        self._policy = failure_policy
        self._route = route
        self._calls = Calls(calls or {})
        self._loop = VirtualLoop() if self._traits.lane == "async" else None
        try:
            self._await(self.filter.setup())
        except Exception as error:
            # One that was never set up is not closed either.
            self._end_loop()
            raise loader.FilterError(f"setup fails: {type(error).__name__}: {error}") from error

    @classmethod
    def from_source(
        cls, class_path: str, source: str, config: Mapping[str, Any] | None = None, **options: Any
    ) -> FilterHarness:
        """As a resource gives it: ``module:Class`` and the text of the module."""
        return cls(loader.load(class_path, source, config or {}), **options)

    def __enter__(self) -> FilterHarness:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """The instance goes, as when its resource is changed."""
        try:
            self._await(self.filter.close())
        finally:
            self._end_loop()

    def _end_loop(self) -> None:
        if self._loop is not None:
            self._loop.close()
            self._loop = None

    @property
    def calls(self) -> Sequence[Call]:
        """What the filter has asked of clusters (``ctx.call``)."""
        return self._calls.made

    def respond(
        self, status: int = 200, headers: Pairs = (), body: bytes = b"", trailers: Pairs = (), *, split: Split = None
    ) -> FilterHarness:
        """What the upstream answers from now on, and in which pieces its body comes."""
        answer = Answered(status, Fields(headers), body, Fields(trailers))
        self._upstream, self._answer_split = (lambda _: answer), split
        return self

    def request(
        self,
        method: str = "GET",
        path: str = "/",
        *,
        headers: Pairs = (),
        body: bytes = b"",
        trailers: Pairs = (),
        split: Split = None,
        authority: str = "service.test",
        scheme: Literal["http", "https"] = "http",
        peer: str | None = None,
    ) -> Exchange:
        """What becomes of a request. ``split`` says in which pieces its body comes: sizes, or a ``random.Random``."""
        pairs = Fields(headers).items()
        if body and "content-length" not in Fields(pairs) and not trailers:
            pairs.append(("content-length", str(len(body))))
        head = RequestHead(method, path, authority, scheme, pairs)
        if not self._concerns(head):
            asked = Asked(method, path, authority, Fields(pairs), body, Fields(trailers))
            return Exchange(False, asked, self._ask(asked))
        request_id = Fields(pairs).get("x-request-id", "") or ""
        context = Context(self._route, peer, request_id, self._calls if self._loop is not None else None)
        running = _Running(context, head, body, Fields(trailers).items())
        exchange = self._exchange(running, split)
        self._log(running, exchange)
        return replace(exchange, failures=tuple(running.failures))

    # --- an exchange ------------------------------------------------------------------------------------------------

    def _exchange(self, running: _Running, split: Split) -> Exchange:
        asked: Asked | None = None
        try:
            self._request(running, split)
            head = running.request
            asked = Asked(
                head.method, head.path, head.authority, Fields(head.pairs), running.body, Fields(running.trailers)
            )
            return Exchange(True, asked, self._response(running, self._ask(asked)))
        except _OverError as over:
            return Exchange(True, asked, over.response, over.flags, over.details, is_reset=over.is_reset)

    def _request(self, running: _Running, split: Split) -> None:
        def lent(loan: Loan) -> Request:
            return Request(loan, running.request)

        self._reply(self._hook(running, "on_request_headers", lent))
        if "on_request_body" in self._traits.hooks:
            if len(running.body) > self._traits.max_body:
                raise _OverError(Answered(413), "-", "request_payload_too_large")
            running.body = self._body(self._hook(running, "on_request_body", lent, running.body), running.body)
            _measure(running.request.pairs, running.body)
        elif "on_request_chunk" in self._traits.hooks:
            running.request.pairs[:] = [one for one in running.request.pairs if one[0] != "content-length"]
            passed: list[bytes] = []
            self._chunks(running, "on_request_chunk", running.body, split, passed)
            running.body = b"".join(passed)
        if running.trailers:
            self._hook(running, "on_request_trailers", lambda loan: Headers(loan, running.trailers))

    def _response(self, running: _Running, answered: Answered) -> Answered:
        pairs, trailers = answered.headers.items(), answered.trailers.items()
        if answered.body and "content-length" not in answered.headers and not trailers:
            pairs.append(("content-length", str(len(answered.body))))

        def lent(loan: Loan) -> Response:
            return Response(loan, answered.status, pairs)

        self._reply(self._hook(running, "on_response_headers", lent))
        body = answered.body
        if running.request.method == "HEAD" or answered.status in (204, 304):
            # What cannot have a body is a head.
            return Answered(answered.status, Fields(pairs))
        if "on_response_body" in self._traits.hooks:
            if len(body) > self._traits.max_body:
                raise _OverError(Answered(500), "-", "response_payload_too_large")
            body = self._body(self._hook(running, "on_response_body", lent, body), body)
            _measure(pairs, body)
        elif "on_response_chunk" in self._traits.hooks:
            pairs[:] = [one for one in pairs if one[0] != "content-length"]
            passed: list[bytes] = []
            try:
                self._chunks(running, "on_response_chunk", body, self._answer_split, passed)
            except _OverError:
                if not passed:
                    raise
                # The head has gone with the first piece, so the client sees the end of the connection.
                response = Answered(answered.status, Fields(pairs), b"".join(passed))
                raise _OverError(response, "-", "filter_failed", is_reset=True) from None
            body = b"".join(passed)
        if trailers:
            self._hook(running, "on_response_trailers", lambda loan: Headers(loan, trailers))
        return Answered(answered.status, Fields(pairs), body, Fields(trailers))

    def _chunks(self, running: _Running, hook: str, body: bytes, split: Split, passed: list[bytes]) -> None:
        cut = pieces(body, split)
        for number, piece in enumerate(cut, 1):
            given = self._hook(running, hook, None, piece, number == len(cut))
            passed.append(piece if given is None else given)

    def _body(self, given: Any, body: bytes) -> bytes:
        if isinstance(given, bytes):
            return given
        self._reply(given)
        return body

    def _reply(self, given: Any) -> None:
        if given is not None:
            answer = Answered(given.status, Fields(given.headers), given.body)
            raise _OverError(answer, "-", "filter_reply")

    def _ask(self, asked: Asked) -> Answered:
        given = self._upstream(asked)
        if isinstance(given, int):
            return Answered(given)
        return Answered(body=given) if isinstance(given, bytes) else given

    def _log(self, running: _Running, exchange: Exchange) -> None:
        if "on_log" not in self._traits.hooks:
            return
        head = running.request
        record = LogRecord(
            method=head.method,
            path=head.path,
            authority=head.authority,
            status=exchange.status,
            flags=exchange.flags,
            details=exchange.details,
            duration=timedelta(0),
            request_bytes=len(running.body),
            response_bytes=len(exchange.body),
            upstream=None,
            route=self._route,
            peer=running.context.peer,
        )
        try:
            self._called(running, "on_log", record)
        except Exception as error:
            running.failures.append(_failure("on_log", error))

    # --- a call -----------------------------------------------------------------------------------------------------

    def _hook(self, running: _Running, name: str, lend: Callable[[Loan], Any] | None, *args: Any) -> Any:
        """What a hook returns, if the filter has it; a failure is the policy's."""
        if name not in self._traits.hooks:
            return None
        loan = Loan()
        lent = [] if lend is None else [lend(loan)]
        # Beside the workers, a request that does not wait any more goes on as it was.
        undo = [view._undo() for view in lent] if self._loop is not None else []
        try:
            return _checked(name, self._called(running, name, *lent, *args))
        # What ends a program ends a call only, in a proxy.
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            running.failures.append(_failure(name, error))
            if isinstance(error, _LateError):
                for put_back in undo:
                    put_back()
            if self._policy == "OPEN":
                return None
            raise _OverError(Answered(500), "UAEX", "filter_failed") from None
        finally:
            loan.is_over = True

    def _called(self, running: _Running, name: str, *args: Any) -> Any:
        call = getattr(self.filter, name)
        if self._traits.hooks[name] and self._loop is not None:
            limit = DEFAULT_TIMEOUT if self._timeout is None else self._timeout
            running.context._ends = self._loop.time, self._loop.time() + limit
            try:
                return self._timed(lambda: self._await(_within(call(*args, running.context), limit)))
            finally:
                running.context._ends = None
        return self._timed(lambda: call(*args, running.context))

    def _timed(self, call: Callable[[], Any]) -> Any:
        """A call that takes real time, also a coroutine that blocks its loop, is found out afterwards."""
        begun = time.monotonic()
        given = call()
        if self._timeout and time.monotonic() - begun > self._timeout:
            raise _LateError(_too_long(self._timeout))
        return given

    def _await(self, given: Any) -> Any:
        if not inspect.isawaitable(given) or self._loop is None:
            return given
        return self._loop.run_until_complete(given)

    # --- the gate ---------------------------------------------------------------------------------------------------

    def _concerns(self, head: RequestHead) -> bool:
        wanted = self._traits.wants
        if wanted and not any(head.values(name) for name in wanted):
            return False
        return all(_meets(one, head) for one in self._traits.when)


def _meets(condition: When, head: RequestHead) -> bool:
    """As the proxy's matchers: of several fields of a name one has to match; what is missing does not."""
    values = head.values(condition.name.lower())
    wanted = condition.value.encode().decode("latin-1")
    match condition.test:
        case "present":
            return bool(values)
        case "exact":
            return wanted in values
        case "prefix":
            return any(value.startswith(wanted) for value in values)
        case "suffix":
            return any(value.endswith(wanted) for value in values)
        case "contains":
            return any(wanted in value for value in values)


def _checked(hook: str, given: Any) -> Any:
    """What a hook has returned; raises if it is not what the contract says."""
    if given is None:
        return None
    if hook.endswith("_trailers"):
        raise TypeError(f"{hook} returns None, not {type(given).__name__}")
    if hook.endswith("_chunk"):
        if not isinstance(given, bytes):
            raise TypeError(f"{hook} returns bytes or None, not {type(given).__name__}")
        return given
    if hook.endswith("_body") and isinstance(given, bytes):
        return given
    status, headers, body = given.status, given.headers, given.body
    if not isinstance(status, int) or not 200 <= status <= 599:
        raise ValueError(f"a reply's status is 200 to 599, not {status}")
    pairs = {field_name(name): field_value(value) for name, value in headers.items()}
    return Reply(status, bytes(body), pairs)


def _measure(pairs: list[tuple[str, str]], body: bytes) -> None:
    """Write how long the body is, where that was said or there is one."""
    for number, (name, _) in enumerate(pairs):
        if name == "content-length":
            pairs[number] = name, str(len(body))
            return
    if body:
        pairs.append(("content-length", str(len(body))))


async def _within(call: Any, limit: float) -> Any:
    try:
        async with asyncio.timeout(limit) as deadline:
            return await call
    except TimeoutError as error:
        if deadline.expired():
            raise _LateError(_too_long(limit)) from error
        raise


def _too_long(limit: float) -> str:
    return f"the hook took longer than {round(limit * 1000)} ms"


def _failure(hook: str, error: BaseException) -> Failure:
    kind = TimeoutError if isinstance(error, _LateError) else type(error)
    text = f"{kind.__name__}: {error}"
    return Failure(hook, text, "".join(traceback.format_exception(error)))
