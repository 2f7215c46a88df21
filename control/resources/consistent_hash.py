"""What ``loadBalancer.consistentHash`` of a DestinationRule says: by what a client stays at the same endpoint."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated

from pymesh.control.resources.decode import Located, Problem, Range, exactly_one, model
from pymesh.control.resources.header_values import HEADER_NAME

#: Envoy's limits.
RingSize = Annotated[int, Range(0, 8 * 1024 * 1024)]
TableSize = Annotated[int, Range(0, 5_000_011)]

_CONTROL = re.compile(r"[\x00-\x1f\x7f;]")


@model
class CookieAttribute(Located):
    """An attribute of a cookie, such as ``SameSite``."""

    name: str
    value: str = ""

    def problems(self) -> Iterator[Problem]:
        if not HEADER_NAME.fullmatch(self.name):
            yield Problem("name", f"{self.name!r} is not an attribute of a cookie")
        yield from cookie_problems("value", self.value)


@model
class HashCookie(Located):
    """A cookie. A client without it is given one if there is a ``ttl``; 0s is as long as the browser runs."""

    name: str
    ttl: timedelta | None = None
    path: str = ""
    attributes: tuple[CookieAttribute, ...] = ()

    def problems(self) -> Iterator[Problem]:
        yield from cookie_name_problems("name", self.name)
        yield from cookie_problems("path", self.path)


@model
class RingHash(Located):
    """A ring of hashes."""

    minimum_ring_size: RingSize = 0


@model
class Maglev(Located):
    """A table of hashes."""

    table_size: TableSize = 0

    def problems(self) -> Iterator[Problem]:
        if self.table_size and not _is_prime(self.table_size):
            yield Problem("tableSize", f"{self.table_size} is not a prime number", "65537 suits some hundred endpoints")


@model
class ConsistentHash(Located):
    """What is hashed, and the kind of table."""

    http_header_name: str | None = None
    http_cookie: HashCookie | None = None
    use_source_ip: bool | None = None
    http_query_parameter_name: str | None = None
    ring_hash: RingHash | None = None
    maglev: Maglev | None = None
    #: Deprecated: ``ringHash.minimumRingSize``.
    minimum_ring_size: RingSize = 0

    def problems(self) -> Iterator[Problem]:
        yield from exactly_one(self, "httpHeaderName", "httpCookie", "useSourceIp", "httpQueryParameterName")
        tables = self.present("ringHash", "maglev", "minimumRingSize")
        if len(tables) > 1:
            yield Problem(tables[1], f"{' and '.join(map(repr, tables))} exclude each other", "keep one of them")
        if self.use_source_ip is False:
            yield Problem("useSourceIp", "it hashes nothing if it is false", "write true, or hash something else")
        if self.http_header_name is not None and not re.fullmatch(rf":?{HEADER_NAME.pattern}", self.http_header_name):
            yield Problem("httpHeaderName", f"{self.http_header_name!r} is not a header name")
        if self.http_query_parameter_name == "":
            yield Problem("httpQueryParameterName", "a parameter has a name")


def cookie_name_problems(field: str, name: str) -> Iterator[Problem]:
    """What is wrong with the name of a cookie (RFC 6265, section 4.1.1)."""
    if not HEADER_NAME.fullmatch(name):
        yield Problem(field, f"{name!r} is not the name of a cookie", "letters, digits, '-' and '_'")


def cookie_problems(field: str, text: str) -> Iterator[Problem]:
    """What is wrong with an attribute's value."""
    if _CONTROL.search(text):
        yield Problem(field, f"{text!r} cannot stand in a cookie", "remove ';' and control characters")


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))
