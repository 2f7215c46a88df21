"""Requests for a random table: most are made from one of its routes and then bent a little."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from tests.differential.tables import CLUSTERS, HEADERS, METHODS, ORIGINS, PARAMETERS, VALUES, Tables
from tests.proxy.bootstrap import Json


@dataclass
class Ask:
    """One request."""

    method: str
    host: str
    target: str
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""

    def __str__(self) -> str:
        shown = " ".join(f"{name}={value!r}" for name, value in self.headers)
        return f"{self.method} {self.host} {self.target} {shown}"


class Asker:
    """Makes requests for one table."""

    def __init__(self, seed: int, tables: Tables) -> None:
        self.random = random.Random(seed)
        self._tables = tables

    def ask(self) -> Ask:
        """The next request."""
        host = self.random.choice(self._tables.virtual_hosts)
        route = self.random.choice(host["routes"])
        made = Ask("GET", self._host(host["domains"]), self._path(route["match"]))
        for matcher in route["match"].get("headers", ()):
            self._satisfy(made, matcher)
        for matcher in route["match"].get("query_parameters", ()):
            value = self._text(matcher.get("string_match", {"exact": "1"})).replace(" ", "+")
            made.target += f"{'&' if '?' in made.target else '?'}{matcher['name']}={value}"
        if "grpc" in route["match"]:
            made.method, made.body = "POST", b"grpc"
            made.headers.append(("content-type", "application/grpc"))
        if "host_rewrite_header" in route.get("route", {}) and self._chance(0.8):
            made.headers.append(("x-inside", self.random.choice(("one.inside.test", "two.inside.test:81"))))
        if "cluster_header" in route.get("route", {}):
            made.headers.append(("x-tag", self.random.choice((*CLUSTERS, "nowhere"))))
        self._bend(made)
        self._wish(made)
        self._trouble(made)
        path, mark, query = made.target.partition("?")
        if not path.strip("/"):
            # Envoy leaves a target of slashes alone that it merges elsewhere.
            made.target = f"/{mark}{query}"
        return made

    def _host(self, domains: list[str]) -> str:
        domain = self.random.choice(domains)
        if domain == "*":
            return self.random.choice(("other.test", "h1.example", "x.h2.test", "h3.test:9999"))
        if domain.startswith("*"):
            return self.random.choice(("x", "x.y", "x-")) + domain[1:]
        if domain.endswith("*"):
            return domain[:-1] + "example"
        return domain

    def _path(self, match: Json) -> str:
        for kind in ("prefix", "path", "path_separated_prefix"):
            if kind in match:
                path: str = match[kind]
                if kind != "path" and self._chance(0.5):
                    path += self.random.choice(("", "/", "/more", "more", "/42"))
                return path
        return self.random.choice(("/a", "/item/42", "/x/42", "/b/7", "/old/deep/42", self._tables.path()))

    def _satisfy(self, made: Ask, matcher: Json) -> None:
        """Most of the time what the matcher asks for."""
        name = matcher["name"]
        value = self._text(matcher["string_match"]) if "string_match" in matcher else self.random.choice(VALUES)
        if name == ":method":
            made.method = value if value in METHODS else "GET"
        elif not name.startswith(":") and not (matcher.get("present_match") is False and self._chance(0.7)):
            made.headers.append((name, value))

    def _text(self, match: Json) -> str:
        for kind in ("exact", "prefix", "suffix", "contains"):
            if kind in match:
                value: str = match[kind]
                if kind != "exact" and self._chance(0.5):
                    value = {"prefix": value + "z", "suffix": "z" + value, "contains": f"z{value}z"}[kind]
                return value.swapcase() if match.get("ignore_case") and self._chance(0.5) else value
        return self.random.choice(("canary", "ann", "42", "7", ""))

    def _bend(self, made: Ask) -> None:
        """A near miss, or something beside the point."""
        for _ in range(self.random.choice((0, 0, 1, 1, 2, 3))):
            self.random.choice((self._other_header, self._other_path, self._other_method, self._other_query))(made)
        if self._chance(0.03):
            made.host = made.host.upper()
        if self._chance(0.03):
            made.host += ":8080" if ":" not in made.host else ""

    def _other_header(self, made: Ask) -> None:
        if made.headers and self._chance(0.4):
            made.headers.pop(self.random.randrange(len(made.headers)))
        else:
            made.headers.append((self.random.choice(HEADERS), self.random.choice(VALUES)))

    def _other_path(self, made: Ask) -> None:
        path, mark, query = made.target.partition("?")
        if path == "/":
            return
        bent = (
            path + "/",
            path + "x",
            path.swapcase(),
            path.replace("/", "//", 1),
            path + "/./a/../b",
            path[:-1] or "/",
        )
        made.target = self.random.choice(bent) + mark + query

    def _other_method(self, made: Ask) -> None:
        made.method = self.random.choice(METHODS)
        if made.method in ("POST", "PUT"):
            made.body = b"x" * self.random.choice((0, 1, 100))

    def _other_query(self, made: Ask) -> None:
        value = self.random.choice(VALUES).replace(" ", "+")
        pair = self.random.choice((f"={value}", f"={value}", "", "="))
        made.target += f"{'&' if '?' in made.target else '?'}{self.random.choice(PARAMETERS)}{pair}"

    def _trouble(self, made: Ask) -> None:
        """Scripts of other origins, and faults that a request orders for itself."""
        if self._chance(0.25):
            made.headers.append(("origin", self.random.choice(ORIGINS)))
            if self._chance(0.4):
                made.method, made.body = "OPTIONS", b""
                made.headers.append(("access-control-request-method", self.random.choice(("PUT", "PATCH"))))
                if self._chance(0.5):
                    made.headers.append(("access-control-request-headers", "x-user, x-other"))
                if self._chance(0.2):
                    made.headers.append(("access-control-request-private-network", "true"))
        if self._chance(0.2):
            cookies = ("session=a", "session=b; user=ann", "user=bob", "other=1; session=c")
            made.headers.append(("cookie", self.random.choice(cookies)))
        if self._chance(0.1):
            made.headers.append(("x-envoy-fault-abort-request", self.random.choice(("503", "404", "99", "x"))))
        if self._chance(0.05):
            made.headers.append(("x-envoy-fault-delay-request", self.random.choice(("2", "x"))))

    def _wish(self, made: Ask) -> None:
        """What the origin shall do."""
        draw = self.random.random()
        if draw < 0.12:
            made.headers.append(("x-want-status", str(self.random.choice((404, 409, 418, 500, 502, 503, 504, 429)))))
            if self._chance(0.5):
                made.headers.append(("x-want-failures", str(self.random.choice((1, 2)))))
        elif draw < 0.15:
            made.headers.append(("x-want-reset", "1"))
        elif draw < 0.18:
            made.headers.append(("x-want-grpc-status", str(self.random.choice((1, 4, 8, 13, 14)))))
        elif draw < 0.182:
            made.headers.append(("x-want-delay", "3"))

    def _chance(self, share: float) -> bool:
        return self.random.random() < share


def case(number: int, made: Ask) -> Any:
    """For messages: which request of the run."""
    return f"request {number}: {made}"
