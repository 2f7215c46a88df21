"""Random HTTPRoutes at Gateways of several listeners, and what the Gateway API's text says becomes of requests.

All rules that match a request are compared by the standard's criteria, one after the other; nothing is sorted before.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from tests.routing.mesh import ORIGINS, Document, document
from tests.routing.outcome import Asked, Forwarded, Local, Outcome, Redirected

_LISTENERS = {"all": "", "wild": "*.w.test", "deep": "*.deep.w.test", "exact": "x.w.test"}
_HOSTNAMES = ["x.w.test", "y.w.test", "*.w.test", "*.test", "z.deep.w.test", "*.deep.w.test", "h.test", "*.other"]
_HOSTS = ["x.w.test", "y.w.test", "z.deep.w.test", "deep.w.test", "w.test", "h.test", "a.other", "other", "a.b.test"]
_PATHS = ["/", "/a", "/a/", "/a/b", "/a/b/c", "/ab", "/items/42", "/z", "/z/"]
_PATTERNS = ["/a(/.*)?", "/items/[0-9]+", "/[a-z]+/.", "/.*/more"]
_VALUES = ["a", "b", "ab", "canary"]
_VALUE_PATTERNS = ["a.*", "[ab]+", ".+"]
_NAMES = ["x-a", "X-B", "x-c"]


class Maker:
    """Makes documents from a seed."""

    def __init__(self, seed: int, ports: Mapping[str, int]) -> None:
        self._rng = random.Random(seed)
        self._ports = ports
        self._count = 0

    def documents(self, routes: int) -> list[Document]:
        """Gateways, and HTTPRoutes that are bound to all of them."""
        found = []
        for kind, port in self._ports.items():
            listeners: list[Document] = []
            for name, hostname in _LISTENERS.items():
                one: Document = {"name": name, "port": port, "protocol": "HTTP"}
                listeners.append({**one, "hostname": hostname} if hostname else one)
            found.append(document("Gateway", kind, {"gatewayClassName": "pymesh", "listeners": listeners}))
        return found + [self._route(number) for number in range(routes)]

    def requests(self, routes: Sequence[Document], count: int) -> Iterator[Asked]:
        """Requests of which most are made from some match."""
        matches = [match for route in routes for rule in route["spec"]["rules"] for match in rule.get("matches", [{}])]
        for _ in range(count):
            yield self._request(self._rng.choice(matches))

    def _route(self, number: int) -> Document:
        rng = self._rng
        section = rng.choice(["", "", "", *_LISTENERS])
        parents: list[Document] = [{"name": kind} for kind in self._ports]
        if section:
            parents = [{**parent, "sectionName": section} for parent in parents]
        spec: Document = {"parentRefs": parents, "rules": [self._rule() for _ in range(rng.randint(1, 4))]}
        if rng.random() < 0.85:
            spec["hostnames"] = rng.sample(_HOSTNAMES, rng.randint(1, 3))
        stamp = {"creationTimestamp": f"2026-01-0{rng.randint(1, 3)}T00:00:00Z"} if rng.random() < 0.7 else {}
        return document("HTTPRoute", f"{rng.choice('abc')}-{number}", spec, **stamp)

    def _rule(self) -> Document:
        rng = self._rng
        self._count += 1
        rule: Document = {"name": f"r{self._count}"}
        # What takes everything hides much of the rest, so that it must be rare.
        if rng.random() < 0.97:
            rule["matches"] = [self._match() for _ in range(rng.randint(1, 3))]
        filters: list[Document] = []
        if rng.random() < 0.25:
            redirect = self._redirect(rule)
            filters.append({"type": "RequestRedirect", "requestRedirect": redirect})
        else:
            if rng.random() < 0.35:
                filters.append({"type": "URLRewrite", "urlRewrite": self._rewrite(rule)})
            if rng.random() < 0.9:
                rule["backendRefs"] = self._backends()
            # The name tells which rule it was.
            mark = {"set": [{"name": "x-rule", "value": rule["name"]}]}
            modifier: Document = {"set": [{"name": "X-Set", "value": "50%"}], "remove": ["x-c"]}
            filters.append({"type": "ResponseHeaderModifier", "responseHeaderModifier": mark})
            if rng.random() < 0.4:
                filters.append({"type": "RequestHeaderModifier", "requestHeaderModifier": modifier})
        rng.shuffle(filters)
        if filters:
            rule["filters"] = filters
        return rule

    def _backends(self) -> list[Document]:
        rng = self._rng
        chosen = rng.sample(ORIGINS, rng.randint(1, 2))
        found: list[Document] = []
        for name in chosen:
            one: Document = {"name": name, "port": 80}
            if rng.random() < 0.3:
                one["weight"] = rng.choice([0, 1, 3])
            if rng.random() < 0.3:
                add = {"add": [{"name": "x-share", "value": name}]}
                one["filters"] = [{"type": "RequestHeaderModifier", "requestHeaderModifier": add}]
            found.append(one)
        return found

    def _rewrite(self, rule: Document) -> Document:
        made: Document = {}
        if self._rng.random() < 0.4:
            made["hostname"] = "rewritten.test"
        if self._rng.random() < 0.7 or not made:
            made["path"] = self._path(rule)
        return made

    def _redirect(self, rule: Document) -> Document:
        rng = self._rng
        made: Document = {}
        if rng.random() < 0.4:
            made["scheme"] = rng.choice(["http", "https"])
        if rng.random() < 0.4:
            made["hostname"] = "elsewhere.test"
        if rng.random() < 0.4:
            made["port"] = rng.choice([80, 443, 8443])
        if rng.random() < 0.5:
            made["path"] = self._path(rule)
        if rng.random() < 0.5:
            made["statusCode"] = rng.choice([301, 302, 303, 307, 308])
        return made

    def _path(self, rule: Document) -> Document:
        rng = self._rng
        prefixes = all(match.get("path", {}).get("type", "PathPrefix") == "PathPrefix" for match in _matches_of(rule))
        if prefixes and rng.random() < 0.6:
            return {"type": "ReplacePrefixMatch", "replacePrefixMatch": rng.choice(["/new", "/new/", "/", ""])}
        return {"type": "ReplaceFullPath", "replaceFullPath": rng.choice(["/full", "/full/\\1"])}

    def _match(self) -> Document:
        rng = self._rng
        made: Document = {}
        if rng.random() < 0.93:
            kind = rng.choice(["PathPrefix", "PathPrefix", "Exact", "RegularExpression"])
            paths = _PATHS if rng.random() < 0.05 else _PATHS[1:]
            made["path"] = {"type": kind, "value": rng.choice(_PATTERNS if kind == "RegularExpression" else paths)}
        if rng.random() < 0.25:
            made["method"] = rng.choice(["GET", "PUT"])
        if rng.random() < 0.35:
            made["headers"] = [self._named(rng.choice(_NAMES)) for _ in range(rng.randint(1, 3))]
        if rng.random() < 0.3:
            made["queryParams"] = [self._named(rng.choice(["p", "q"])) for _ in range(rng.randint(1, 2))]
        return made

    def _named(self, name: str) -> Document:
        if self._rng.random() < 0.3:
            return {"name": name, "type": "RegularExpression", "value": self._rng.choice(_VALUE_PATTERNS)}
        return {"name": name, "value": self._rng.choice(_VALUES)}

    def _request(self, match: Document) -> Asked:
        rng = self._rng
        path = str(match.get("path", {}).get("value", rng.choice(_PATHS)))
        if match.get("path", {}).get("type") == "RegularExpression" or rng.random() < 0.2:
            path = rng.choice(_PATHS)
        if rng.random() < 0.4:
            path = (path.rstrip("/") or "/x") + rng.choice(["/more", "more", "/"])
        headers = {}
        for name in ("x-a", "x-b", "x-c"):
            wanted = [one["value"] for one in match.get("headers", []) if one["name"].lower() == name]
            if wanted or rng.random() < 0.3:
                headers[name] = wanted[0] if wanted and wanted[0] in _VALUES else rng.choice(_VALUES)
        query = []
        for name in ("p", "q"):
            wanted = [one["value"] for one in match.get("queryParams", []) if one["name"] == name]
            if wanted or rng.random() < 0.2:
                query.append(f"{name}={wanted[0] if wanted and wanted[0] in _VALUES else rng.choice(_VALUES)}")
        method = match.get("method", rng.choice(["GET", "PUT", "POST"]))
        host = rng.choice(_HOSTS) + rng.choice(["", "", ":80", ":8080"])
        return Asked(host, path + ("?" + "&".join(query) if query else ""), method, headers)


@dataclass(frozen=True)
class _Found:
    """A rule that matches, and by what."""

    #: Larger is closer.
    closeness: tuple[Any, ...]
    #: Smaller comes first.
    tie: tuple[Any, ...]
    rule: Document
    match: Document


def expected(documents: Sequence[Document], asked: Asked, port: int) -> Outcome:
    """What becomes of a request at a Gateway whose listeners have this port."""
    listener = max((name for name in _LISTENERS if _covers(_LISTENERS[name], asked.name)), key=_width)
    found = list(_candidates(documents, listener, asked))
    if not found:
        return Local(404)
    best = max(one.closeness for one in found)
    chosen = min((one for one in found if one.closeness == best), key=lambda one: one.tie)
    return _outcome(chosen.rule, chosen.match, asked, port)


def _candidates(documents: Sequence[Document], listener: str, asked: Asked) -> Iterator[_Found]:
    for route in documents:
        if route["kind"] != "HTTPRoute" or route["spec"]["parentRefs"][0].get("sectionName", listener) != listener:
            continue
        hostnames = [
            shared
            for name in route["spec"].get("hostnames", [""])
            for shared in [_common(_LISTENERS[listener], name)]
            if shared is not None and _covers(shared, asked.name)
        ]
        if not hostnames:
            continue
        closest = max((_whole(name), len(name)) for name in hostnames)
        metadata = route["metadata"]
        stamp = metadata.get("creationTimestamp", "")
        for number, rule in enumerate(route["spec"]["rules"]):
            for place, match in enumerate(_matches_of(rule)):
                if _matches(match, asked):
                    tie = (not stamp, stamp, f"shop/{metadata['name']}", number, place)
                    yield _Found((*closest, *_criteria(match)), tie, rule, match)


def _whole(name: str) -> int:
    """The characters of a hostname without a wildcard."""
    return 0 if "*" in name else len(name)


def _criteria(match: Document) -> tuple[Any, ...]:
    path = match.get("path", {})
    kind, value = path.get("type", "PathPrefix"), path.get("value", "/")
    return (
        kind == "Exact",
        # The standard leaves the place of patterns open: here it is before prefixes, the longer pattern first.
        len(value) if kind == "RegularExpression" else 0,
        len(value.rstrip("/")) if kind == "PathPrefix" else 0,
        "method" in match,
        len(_first(match.get("headers", []))),
        len(_first(match.get("queryParams", []))),
    )


def _first(named: Sequence[Document]) -> dict[str, Document]:
    """One condition for each name, the first."""
    found: dict[str, Document] = {}
    for one in named:
        found.setdefault(one["name"].lower(), one)
    return found


def _matches_of(rule: Document) -> list[Document]:
    matches: list[Document] = rule.get("matches", [{}])
    return matches


def _width(listener: str) -> tuple[int, int]:
    hostname = _LISTENERS[listener]
    return _whole(hostname), len(hostname)


def _covers(pattern: str, host: str) -> bool:
    return pattern in ("", host) or (pattern.startswith("*.") and host.endswith(pattern[1:]))


def _common(one: str, other: str) -> str | None:
    """The closer of two patterns, if it lies within the other."""
    if not one or not other:
        return one or other
    for narrow, wide in ((one, other), (other, one)):
        if narrow == wide or (wide.startswith("*.") and narrow.removeprefix("*").endswith(wide[1:])):
            return narrow
    return None


def _matches(match: Document, asked: Asked) -> bool:
    path = match.get("path", {})
    kind, value = path.get("type", "PathPrefix"), path.get("value", "/")
    if kind == "Exact":
        fits = asked.path == value
    elif kind == "RegularExpression":
        fits = re.fullmatch(value, asked.path) is not None
    else:
        wanted = [part for part in value.split("/") if part]
        parts = asked.path.split("/")[1:]
        fits = parts[: len(wanted)] == wanted
    params = dict(reversed(parse_qsl(asked.query[1:])))
    return (
        fits
        and match.get("method", asked.method) == asked.method
        and all(_fits(one, asked.headers.get(name)) for name, one in _first(match.get("headers", [])).items())
        and all(_fits(one, params.get(name)) for name, one in _first(match.get("queryParams", [])).items())
    )


def _fits(wanted: Document, value: str | None) -> bool:
    if value is None:
        return False
    if wanted.get("type") == "RegularExpression":
        return re.fullmatch(wanted["value"], value) is not None
    return value == str(wanted["value"])


def _outcome(rule: Document, match: Document, asked: Asked, port: int) -> Outcome:
    filters = {one["type"]: one for one in rule.get("filters", [])}
    if "RequestRedirect" in filters:
        return _redirected(filters["RequestRedirect"]["requestRedirect"], match, asked, port)
    served = {"x-rule": rule["name"]}
    shares = [one for one in rule.get("backendRefs", []) if one.get("weight", 1)]
    if not shares:
        return Local(500, "", served)
    rewrite: Document = filters.get("URLRewrite", {}).get("urlRewrite", {})
    path = _replaced(rewrite["path"], match, asked.path) if "path" in rewrite else asked.path
    seen, gone = dict(asked.headers), set[str]()
    if "RequestHeaderModifier" in filters:
        seen.pop("x-c", None)
        gone.add("x-c")
        seen["x-set"] = "50%"
    if len(shares) == 1 and "filters" in shares[0]:
        seen["x-share"] = shares[0]["name"]
    authority = rewrite.get("hostname", asked.host)
    origins = frozenset(one["name"] for one in shares)
    return Forwarded(origins, path + asked.query, frozenset([authority]), seen, frozenset(gone), served)


def _replaced(change: Document, match: Document, path: str) -> str:
    if change["type"] == "ReplaceFullPath":
        return str(change["replaceFullPath"])
    prefix = match.get("path", {}).get("value", "/").rstrip("/")
    rest = path[len(prefix) :]
    # "/xyz" and "/xyz/" are the same; what would be nothing is "/".
    return change["replacePrefixMatch"].rstrip("/") + rest or "/"


def _redirected(redirect: Document, match: Document, asked: Asked, port: int) -> Redirected:
    scheme = redirect.get("scheme", "http")
    known = {"http": 80, "https": 443}[scheme]
    wanted = redirect.get("port") or (known if "scheme" in redirect else port)
    host = redirect.get("hostname", asked.name)
    path = _replaced(redirect["path"], match, asked.path) if "path" in redirect else asked.path
    code, rest = redirect.get("statusCode", 302), path + asked.query
    ported = f"{scheme}://{host}:{wanted}{rest}"
    if wanted != known:
        return Redirected(code, ported)
    # The scheme's own port should not be written. It may be where the request had one, and the host stays.
    may = "hostname" not in redirect and ":" in asked.host
    return Redirected(code, f"{scheme}://{host}{rest}", ported if may else "")
