"""What is asked: who sends which request to which service."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pymesh.control.identity.spiffe import Identity
from pymesh.control.resources.header_values import CONTROL, HEADER_NAME
from pymesh.control.resources.kubernetes import is_host_name

#: Somebody outside of the mesh, without an identity and without a proxy.
OUTSIDE = "none"
_SPIFFE = re.compile(r"spiffe://([^/]+)/ns/([^/]+)/sa/([^/]+)")


class QuestionError(Exception):
    """A question that cannot be asked: what is wrong with it, and how to ask it."""


@dataclass(frozen=True, slots=True)
class Question:
    """One request. ``sender`` is a workload, an identity, or :data:`OUTSIDE`."""

    sender: str
    service: str
    method: str = "GET"
    target: str = "/"
    headers: tuple[tuple[str, str], ...] = ()
    #: In place of the service's name.
    host: str | None = None
    #: Of the service, or of the gateway that the request enters by; the only one, 80, or the first if not said.
    port: int | None = None
    #: Of the client, where it is outside.
    source_ip: str = "192.0.2.1"
    #: The name for which the client speaks TLS; None: it speaks plain text.
    server_name: str | None = None
    #: Of a token that the client brings, and that is believed.
    claims: Mapping[str, Any] | None = None

    def with_header(self, name: str, value: str) -> Question:
        """The same with another header."""
        return replace(self, headers=(*self.headers, (name, value)))

    def with_target(self, target: str) -> Question:
        """The same for another target."""
        return replace(self, target=target)


def parse_request(text: str) -> tuple[str, str]:
    """``GET /path``, or a path alone. Raises :class:`QuestionError`."""
    words = text.split()
    method, target = words if len(words) == 2 else ("GET", text.strip())
    if len(words) > 2 or not HEADER_NAME.fullmatch(method) or not (target.startswith("/") or target == "*"):
        raise QuestionError(f'{text!r} is no request\nhint: write it as in "GET /path"')
    if CONTROL.search(target) or not target.isascii():
        raise QuestionError(f"{target!r} has characters that no request has\nhint: write them as %XX")
    return method, target


def parse_header(text: str) -> tuple[str, str]:
    """``NAME: VALUE``. Raises :class:`QuestionError`."""
    name, colon, value = text.partition(":")
    if not colon or not HEADER_NAME.fullmatch(name):
        raise QuestionError(f'{text!r} is no header\nhint: write it as in "x-user: ann"')
    if CONTROL.search(value):
        raise QuestionError(f"the value of header {name!r} has control characters")
    if name.lower() in ("content-length", "transfer-encoding", "connection", "host"):
        hint = "use --host" if name.lower() == "host" else "a request is explained without its body"
        raise QuestionError(f"header {name!r} cannot be set\nhint: {hint}")
    return name, value.strip()


def parse_claims(text: str) -> Mapping[str, Any]:
    """A JSON object. Raises :class:`QuestionError`."""
    try:
        claims = json.loads(text)
    except ValueError as error:
        raise QuestionError(f'--claims is not JSON: {error}\nhint: as in \'{{"sub": "ann"}}\'') from None
    if not isinstance(claims, dict):
        raise QuestionError('--claims is no JSON object\nhint: as in \'{"sub": "ann"}\'')
    return claims


def parse_host(text: str) -> str:
    """A host, with or without a port. Raises :class:`QuestionError`."""
    if not text or not re.fullmatch(r"[A-Za-z0-9.:\[\]_-]+", text):
        raise QuestionError(f"--host {text!r} is no host\nhint: as in shop.example or shop.example:8080")
    return text


def parse_server_name(text: str) -> str:
    """A name in DNS. Raises :class:`QuestionError`."""
    if not is_host_name(text):
        raise QuestionError(f"--sni {text!r} is no host name\nhint: as in shop.example")
    return text


def parse_ip(text: str) -> str:
    """An IP address. Raises :class:`QuestionError`."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise QuestionError(f"--source-ip {text!r} is no IP address\nhint: as in 203.0.113.7") from None


def parse_identity(text: str, trust_domain: str) -> Identity | None:
    """The identity that ``spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT`` or ``NAMESPACE/ACCOUNT`` means; None for
    other forms. Raises :class:`QuestionError`."""
    if "://" in text:
        found = _SPIFFE.fullmatch(text)
        if found is None:
            hint = f"spiffe://{trust_domain}/ns/NAMESPACE/sa/SERVICEACCOUNT"
            raise QuestionError(f"--from {text!r} is no identity\nhint: {hint}")
        return _identity(found[1], found[2], found[3], text)
    if "/" in text:
        namespace, _, account = text.partition("/")
        return _identity(trust_domain, namespace, account, text)
    return None


def _identity(trust_domain: str, namespace: str, account: str, text: str) -> Identity:
    try:
        return Identity(trust_domain, namespace, account)
    except ValueError as error:
        raise QuestionError(f"--from {text!r}: {error}") from None


def request_octets(question: Question, host: str, *, extra: Sequence[tuple[str, str]] = ()) -> bytes:
    """The request as HTTP/1.1."""
    lines = [f"{question.method} {question.target} HTTP/1.1", f"host: {host}"]
    lines += [f"{name}: {value}" for name, value in (*question.headers, *extra)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")
