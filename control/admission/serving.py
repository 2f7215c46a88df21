"""The webhooks as pages of an HTTPS server, inside the control plane's event loop.

Its certificate is of the mesh's authority, for the names that the API server calls us by, and is renewed under open
connections. Whoever can reach it may ask: an answer changes nothing, and many questions hold up nobody but each other.
Each webhook looks at one object at a time, on a thread of its own; a few wait, and who comes then is told so (503), and
the API server does as its failure policy says; so, too, if those that wait are too large together. Connections have a
limit and deadlines (:mod:`pymesh.control.admission.entrance`). No names of services and Secrets are told that the asker
did not bring.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from pymesh.control.admission import mutating, validating
from pymesh.control.admission.review import Answer, Asked, ReviewError, decoded, encoded
from pymesh.control.admission.validating import Among, Ours, whole
from pymesh.control.injection import settings as injection_settings
from pymesh.control.injection.settings import InjectionSettings
from pymesh.control.install.webhooks import INJECT_PATH, VALIDATE_PATH
from pymesh.control.resources.diagnostics import ConfigError

log = logging.getLogger(__name__)

#: An API server takes no object above 3 MiB from a client; a review has the object before and after.
LARGEST_REVIEW = 8 * 1024 * 1024
#: The API server waits for an answer no longer than this.
_BODY_SECONDS = 10.0
#: Bytes of all reviews that are read, or wait.
MOST_HELD = 8 * LARGEST_REVIEW
#: Reviews of one webhook that are looked at, or wait for it.
MOST_WAITING = 32


class _BusyError(Exception):
    """Too many wait already."""


class _Desk:
    """Where the reviews of one webhook are looked at, one after another."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"{name}-webhook")
        self._waiting = 0

    async def judged(self, judge: Callable[[Asked], Answer], asked: Asked) -> Answer:
        """Raises _BusyError."""
        if self._waiting >= MOST_WAITING:
            raise _BusyError
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, judge, asked)
        finally:
            self._waiting -= 1


class SettingsFile:
    """The injection settings, read again whenever the file is another; a bad one keeps what was."""

    def __init__(self, file: Path) -> None:
        """Raises :class:`ConfigError`."""
        self._file = file
        self._stamp = self._now()
        self._settings = injection_settings.read(file)

    def current(self) -> InjectionSettings:
        """What holds now."""
        stamp = self._now()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._settings = injection_settings.read(self._file)
            except ConfigError as error:
                log.error("injection settings not reloaded, the old ones stay\n%s", error)
            else:
                log.info("injection settings reloaded")
        return self._settings

    def _now(self) -> tuple[int, int] | None:
        try:
            found = self._file.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns


class Webhooks:
    """The two webhooks, and what is counted of them."""

    def __init__(
        self, settings: SettingsFile | None, among: Among, registry: CollectorRegistry, ours: Ours = whole
    ) -> None:
        """Without ``settings`` no pod gets a sidecar."""
        self._settings = settings
        self._among, self._ours = among, ours
        self._desks = {name: _Desk(name) for name in ("inject", "validate")}
        self._answers = Counter(
            "pymesh_admission_reviews", "Objects looked at, by what became of them.", ("webhook", "result"),
            registry=registry,
        )  # fmt: skip
        self._turned_away = Counter(
            "pymesh_admission_connections_turned_away", "Connections without a request that had to leave for others.",
            registry=registry,
        )  # fmt: skip
        #: Bytes of the reviews that are read, or looked at.
        self._held = 0
        self._seconds = Histogram("pymesh_admission_seconds", "Time for an answer.", ("webhook",), registry=registry)

    def turned_away(self) -> None:
        """A connection had to leave because too many were open."""
        self._turned_away.inc()

    def application(self, is_ready: Callable[[], bool]) -> Starlette:
        """The pages."""

        async def ready(_: Request) -> Response:
            return PlainTextResponse("ready\n" if is_ready() else "not ready\n", 200 if is_ready() else 503)

        async def inject(request: Request) -> Response:
            return await self._answered(request, "inject", self._inject)

        async def validate(request: Request) -> Response:
            return await self._answered(request, "validate", self._validate)

        return Starlette(
            routes=[
                Route("/ready", ready),
                Route(INJECT_PATH, inject, methods=["POST"]),
                Route(VALIDATE_PATH, validate, methods=["POST"]),
            ]
        )

    def _inject(self, asked: Asked) -> Answer:
        if self._settings is None:
            return Answer(audit={"injection": "none: the control plane has no injection settings"})
        return mutating.answer(asked, self._settings.current())

    def _validate(self, asked: Asked) -> Answer:
        return validating.answer(asked, self._among, self._ours)

    async def _answered(self, request: Request, name: str, judge: Callable[[Asked], Answer]) -> Response:
        body = bytearray()
        try:
            return await self._answer(request, body, name, judge)
        except _BusyError:
            self._answers.labels(name, "busy").inc()
            return PlainTextResponse("too many reviews are waiting\n", 503, {"retry-after": "1", "connection": "close"})
        finally:
            self._held -= len(body)

    async def _answer(self, request: Request, body: bytearray, name: str, judge: Callable[[Asked], Answer]) -> Response:
        """Raises _BusyError."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                await self._read(request, body)
            asked = decoded(bytes(body))
        except TimeoutError:
            self._answers.labels(name, "unreadable").inc()
            return PlainTextResponse("the review did not come in time\n", 408, {"connection": "close"})
        except ReviewError as error:
            self._answers.labels(name, "unreadable").inc()
            return PlainTextResponse(f"{error}\n", 400)
        # A mesh of thousands of resources takes long enough to be looked at to hold up the streams.
        answer = await self._desks[name].judged(judge, asked)
        result = "refused" if answer.refusal else "changed" if answer.patch else "allowed"
        self._answers.labels(name, result).inc()
        self._seconds.labels(name).observe(time.monotonic() - began)
        if answer.refusal:
            log.warning("refused by the %s webhook", name, extra={"object": asked.title, "why": answer.refusal})
        return Response(encoded(asked.uid, answer), media_type="application/json")

    async def _read(self, request: Request, body: bytearray) -> None:
        """Raises ReviewError and _BusyError."""
        async for part in request.stream():
            body += part
            self._held += len(part)
            if len(body) > LARGEST_REVIEW:
                raise ReviewError(f"the review is larger than {LARGEST_REVIEW} bytes")
            if self._held > MOST_HELD:
                raise _BusyError
