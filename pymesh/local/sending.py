"""The requests of a scenario's step, sent."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from pymesh.capture.namespace import NetworkNamespace
from pymesh.local import http, http2, websocket
from pymesh.local.judge import Received
from pymesh.local.plan import ADDRESS
from pymesh.local.scenario import Send

#: No answer by then is no answer.
TIMEOUT_S = 20.0
#: Who asks in each protocol.
_CLIENTS: Mapping[str, type[http.Client]] = {
    "HTTP": http.Connection,
    "HTTP2": http2.Connection,
    "GRPC": http2.Calls,
    "WebSocket": websocket.Connection,
}
#: A peer that says nothing for so long has said all (TCP has no end of an answer).
_SILENCE_S = 0.5


@dataclass(frozen=True, slots=True)
class Target:
    """Where a step's requests go."""

    port: int
    #: The authority, unless the step's headers name one.
    host: str
    #: Whom TLS trusts, where the step asks for it.
    authority: Path
    #: Where the port is: an address, or a name that the mesh's DNS knows.
    address: str = ADDRESS
    #: From which network namespace it is asked; None: ours.
    namespace: NetworkNamespace | None = None


async def send(step: Send, target: Target) -> list[Received]:
    """Send them all. An answer that did not come is one of the results, in its place."""
    left = iter(range(step.count))
    received: list[Received] = []

    async def client() -> None:
        if step.protocol == "TCP":
            for _ in left:
                received.append(await _exchange(step, target))
            return
        make = _CLIENTS[step.protocol]
        connection = make(target.port, TIMEOUT_S, _tls(step, target), target.namespace, target.address)
        cookies: dict[str, str] = {}
        try:
            for _ in left:
                received.append(await _request(step, target, connection, cookies))
        finally:
            await connection.close()

    await asyncio.gather(*(client() for _ in range(min(step.connections, step.count))))
    return received


async def _request(step: Send, target: Target, connection: http.Client, cookies: dict[str, str]) -> Received:
    headers: Mapping[str, str] = {"host": target.host, **{name.lower(): v for name, v in step.headers.items()}}
    if cookies:
        kept = "; ".join(f"{name}={value}" for name, value in cookies.items())
        headers = {**headers, "cookie": "; ".join(filter(None, (headers.get("cookie"), kept)))}
    began = time.monotonic()
    try:
        answer = await connection.request(step.method, step.path, headers, step.body.encode())
    except http.HttpError as error:
        return Received(None, time.monotonic() - began, str(error))
    if step.cookies:
        for cookie in answer.cookies:
            name, _, value = cookie.partition(";")[0].partition("=")
            cookies[name.strip()] = value.strip()
    return Received(answer, time.monotonic() - began, certificate=_names(connection.certificate))


async def _exchange(step: Send, target: Target) -> Received:
    """Octets there, and octets back until the peer is silent."""
    began = time.monotonic()
    said = bytearray()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await http.connect(target.port, _tls(step, target), target.namespace, target.address)
            certificate = _names(http.presented(writer))
            writer.write(step.body.encode())
            await writer.drain()
            with suppress(TimeoutError):
                while piece := await asyncio.wait_for(reader.read(1 << 16), _SILENCE_S if said else TIMEOUT_S):
                    said += piece
            writer.close()
    except (OSError, TimeoutError) as error:
        return Received(None, time.monotonic() - began, str(error) or type(error).__name__)
    if not said:
        return Received(None, time.monotonic() - began, "the connection was closed without a word")
    return Received(http.Answer(0, {}, bytes(said)), time.monotonic() - began, certificate=certificate)


def _tls(step: Send, target: Target) -> http.Tls | None:
    if step.tls is None:
        return None
    if step.tls.verify:
        context = ssl.create_default_context(cafile=str(target.authority))
    else:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return http.Tls(context, step.tls.server_name or target.host)


def _names(certificate: bytes | None) -> frozenset[str]:
    """The DNS names that a certificate is for."""
    if certificate is None:
        return frozenset()
    try:
        names = x509.load_der_x509_certificate(certificate).extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
    except x509.ExtensionNotFound:
        return frozenset()
    return frozenset(names.value.get_values_for_type(x509.DNSName))
