"""Requests to a Kubernetes API server, each one JSON document there and back, and watches, which are many.

It knows nothing of kinds and tries nothing twice, but for a credential that was not taken: who calls knows what a retry
would mean.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx2 as httpx
import orjson

from pymesh.control.sources.kubernetes.access import Access
from pymesh.control.sources.kubernetes.credential import CredentialsError, Shown
from pymesh.control.sources.kubernetes.documents import decoded

# It tells of every request that it makes.
logging.getLogger("httpx2").setLevel(logging.WARNING)

Object = dict[str, Any]

JSON: Final = "application/json"
#: Server-side apply.
APPLY: Final = "application/apply-patch+yaml"
MERGE: Final = "application/merge-patch+json"

_TIMEOUT: Final = httpx.Timeout(30.0, connect=10.0)
#: A server says something on most watches about once a minute; one that hangs has to be noticed.
_SILENCE: Final = 150.0
#: A watch's document: the largest object that etcd takes, and what the server adds.
_LONGEST_LINE: Final = 8 * 1024 * 1024
#: A server that is gone without a word is noticed although nobody sends it anything.
_KEEP_ALIVE: Final = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),
]


class ApiError(Exception):
    """No answer, or one that refuses."""

    def __init__(self, message: str, *, code: int = 0, reason: str = "", retry_after: float = 0.0) -> None:
        super().__init__(message)
        #: The status; 0: there was no answer.
        self.code = code
        #: Kubernetes' word for it, such as NotFound or Expired.
        self.reason = reason
        #: Seconds that the server wants to be left alone.
        self.retry_after = retry_after

    @property
    def is_expired(self) -> bool:
        """Whether what was asked for is no longer kept: list anew."""
        return self.code == 410 or self.reason in ("Expired", "Gone")


class ApiClient:
    """One API server, with one identity. Close it in the end."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._client: httpx.AsyncClient | None = None
        #: What the connections of the client have shown.
        self._certificate: tuple[str, str] | None = None
        self._making = asyncio.Lock()

    @property
    def server(self) -> str:
        """The server's URL."""
        return self._access.server

    async def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = JSON,
    ) -> Object:
        """The document of the answer. Raises ApiError."""
        content = None if body is None else orjson.dumps(body)
        async with self._sent(method, path, query, content, content_type, _TIMEOUT) as response:
            try:
                found = decoded(await response.aread())
            except (httpx.HTTPError, orjson.JSONDecodeError) as error:
                raise ApiError(f"{method} {path}: the answer broke off or is no JSON ({error!r})") from error
        if not isinstance(found, dict):
            raise ApiError(f"{method} {path}: the answer is no document")
        return found

    async def watch(
        self, path: str, query: Mapping[str, str], opened: Callable[[], None] = lambda: None
    ) -> AsyncGenerator[Object, None]:
        """The events of a watch as they come, until the server ends it or says nothing for too long; ``opened`` is
        called when it begins.

        Raises ApiError.
        """
        patience = httpx.Timeout(10.0, read=_SILENCE)
        async with self._sent("GET", path, {**query, "watch": "true"}, None, JSON, patience) as response:
            opened()
            rest = bytearray()
            try:
                async for chunk in response.aiter_bytes():
                    rest += chunk
                    *lines, last = rest.split(b"\n")
                    for line in lines:
                        if line:
                            yield decoded(line)
                    rest = bytearray(last)
                    if len(rest) > _LONGEST_LINE:
                        raise ApiError(f"watch {path}: an event is longer than {_LONGEST_LINE} bytes")
            except httpx.ReadTimeout:
                # Of a kind of which nothing changes some servers say nothing for minutes. It is asked anew, and if it
                # hangs, that is told.
                return
            except (httpx.HTTPError, orjson.JSONDecodeError) as error:
                raise ApiError(f"watch {path}: broken off ({error!r})") from error

    @asynccontextmanager
    async def _sent(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        content: bytes | None,
        content_type: str,
        patience: httpx.Timeout,
    ) -> AsyncIterator[httpx.Response]:
        for attempt in (1, 2):
            try:
                shown = await self._access.credential.shown()
                client = await self._of(shown)
            except CredentialsError as error:
                raise ApiError(str(error)) from error
            headers = {"accept": JSON, "content-type": content_type, "user-agent": "pymesh"}
            if shown.token:
                headers["authorization"] = f"Bearer {shown.token}"
            extensions = {"sni_hostname": self._access.server_name} if self._access.server_name else {}
            request = client.build_request(
                method,
                f"{self._access.server}{path}",
                params=query,
                content=content,
                headers=headers,
                timeout=patience,
                extensions=extensions,
            )
            try:
                response = await client.send(request, stream=True)
            except httpx.HTTPError as error:
                raise ApiError(f"{self._access.server}: {str(error) or repr(error)}") from error
            try:
                if response.status_code == 401 and attempt == 1:
                    self._access.credential.refused()
                    continue
                if response.status_code >= 400:
                    raise await _refusal(method, path, response)
                yield response
                return
            finally:
                await response.aclose()

    async def _of(self, shown: Shown) -> httpx.AsyncClient:
        """The connections for a certificate: another certificate needs others."""
        async with self._making:
            if self._client is None or self._certificate != shown.certificate:
                await self.close()
                transport = httpx.AsyncHTTPTransport(
                    verify=await asyncio.to_thread(self._access.tls, shown),
                    socket_options=_KEEP_ALIVE,
                    limits=httpx.Limits(max_connections=None, max_keepalive_connections=8),
                )
                self._client = httpx.AsyncClient(transport=transport)
                self._certificate = shown.certificate
            return self._client


async def _refusal(method: str, path: str, response: httpx.Response) -> ApiError:
    reason, message = "", f"status {response.status_code}"
    try:
        told = orjson.loads(await response.aread())
        reason, message = str(told.get("reason", "")), str(told.get("message", message))
    except (httpx.HTTPError, orjson.JSONDecodeError, AttributeError):
        pass  # the status alone says enough
    wait = response.headers.get("retry-after", "")
    seconds = float(wait) if wait.isdecimal() else 0.0
    return ApiError(f"{method} {path}: {message}", code=response.status_code, reason=reason, retry_after=seconds)
