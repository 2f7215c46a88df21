"""Random VirtualServices at a gateway, requests for them, and what Istio's documentation says becomes of those.

Nothing here reads what the control plane made: the documents are plain data, and the reading is a second one.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import parse_qsl

from tests.routing.mesh import GATEWAYS, ORIGINS, Document, document
from tests.routing.outcome import Asked, Forwarded, Local, Outcome, Redirected

_PATHS = ["/", "/a", "/a/b", "/a/b/c", "/ab", "/A/B", "/items/42", "/items/x", "/old/x/y", "/v1", "/v1/"]
_VALUES = ["", "a", "b", "ab", "canary", "x-1"]
_HEADERS = ["x-a", "x-b", "end-user"]
_PATTERNS = ["/a(/.*)?", "/items/[0-9]+", "(?i)/a/b", "/[a-z]+/.", ".*"]
_VALUE_PATTERNS = ["a.*", "[ab]+", "canary|x-[0-9]", ".+"]
_COOKIES = ["user=ann", "user=bob; theme=dark", "theme=dark; user=ann", "user=annette"]
_BY_COOKIE = r"^(.*?;)?\s*(user=ann)(;.*)?$"


class Maker:
    """Makes documents from a seed."""

    def __init__(self, seed: int, ports: Mapping[str, int]) -> None:
        self._rng = random.Random(seed)
        self._ports = ports
        self._count = 0

    def documents(self, hosts: int) -> list[Document]:
        """Gateways, DestinationRules and VirtualServices: for each host one or more."""
        found = [
            document(
                "Gateway",
                kind,
                {
                    "selector": {"gateway": kind},
                    "servers": [{"port": {"number": port, "protocol": "HTTP", "name": "http"}, "hosts": ["*"]}],
                },
            )
            for kind, port in self._ports.items()
        ]
        for number in range(hosts):
            host = self._rng.choice([f"h{number}.test", f"h{number}.test", f"*.w{number}.test"])
            for part in range(self._rng.choice([1, 1, 1, 2, 3])):
                found += self._virtual(f"v{number}-{part}", host)
        return found

    def requests(self, virtual: Document, count: int) -> Iterator[Asked]:
        """Requests that a VirtualService may be for: most are made from its own matches."""
        matches = [match for rule in _rules(virtual, []) for match in rule.get("match") or [{}]]
        for _ in range(count):
            host = str(self._rng.choice(virtual["spec"]["hosts"])).replace("*", self._rng.choice(["x", "x.y"]))
            yield self._request(host, self._rng.choice(matches) if self._rng.random() < 0.8 else {})

    def _virtual(self, name: str, host: str) -> list[Document]:
        rng = self._rng
        delegates: list[Document] = []
        rules = []
        for number in range(rng.randint(1, 5)):
            if rng.random() < 0.15:
                delegate = f"{name}-d{number}"
                inner = [self._rule(rng.randint(0, 2)) for _ in range(rng.randint(1, 3))]
                delegates.append(document("VirtualService", delegate, {"http": inner}))
                root: Document = {
                    "delegate": {"name": delegate},
                    "match": [self._match() for _ in range(rng.randint(0, 2))],
                }
                if rng.random() < 0.5:
                    root["headers"] = self._headers()
                rules.append(root)
            else:
                rules.append(self._rule(rng.choice([0, 1, 1, 1, 2, 3])))
        day = rng.randint(1, 9)
        stamp = {"creationTimestamp": f"2026-01-0{day}T00:00:00Z"} if rng.random() < 0.7 else {}
        spec = {"hosts": [host], "gateways": list(GATEWAYS), "http": rules}
        return [*delegates, document("VirtualService", name, spec, **stamp)]

    def _rule(self, matches: int) -> Document:
        rng = self._rng
        self._count += 1
        rule: Document = {"name": f"r{self._count}"}
        if matches:
            rule["match"] = [self._match() for _ in range(matches)]
        if rng.random() < 0.4:
            rule["headers"] = self._headers()
        kind = rng.choice(["direct", "direct", "redirect", "route", "route"])
        if kind == "direct":
            rule["directResponse"] = {"status": rng.choice([200, 204, 404, 418, 503])}
            if rule["directResponse"]["status"] != 204:
                rule["directResponse"]["body"] = {"string": rule["name"]}
        elif kind == "redirect":
            rule["redirect"] = self._redirect(rule)
        else:
            self._route(rule)
        return rule

    def _route(self, rule: Document) -> None:
        rng = self._rng
        chosen = rng.sample(ORIGINS, rng.randint(1, 3))
        rule["route"] = [{"destination": {"host": name}} for name in chosen]
        if len(chosen) > 1:
            for number, share in enumerate(rule["route"]):
                share["weight"] = rng.choice([0, 1, 5]) if number else 1
        for share in rule["route"]:
            if rng.random() < 0.3:
                share["headers"] = self._headers(f"share-{share['destination']['host']}")
        if rng.random() < 0.4:
            rewrite: Document = {}
            if rng.random() < 0.3:
                rewrite["authority"] = "rewritten.test"
            if rng.random() < 0.5 or not rewrite:
                if rng.random() < 0.5:
                    rewrite["uri"] = rng.choice(["/new", "/", "/new/"])
                else:
                    pattern, with_ = rng.choice([("^/([^/]+)/(.*)$", r"/\2/\1"), ("b", "bb"), ("^/.*$", "/whole")])
                    rewrite["uriRegexRewrite"] = {"match": pattern, "rewrite": with_}
            rule["rewrite"] = rewrite

    def _redirect(self, rule: Document) -> Document:
        rng = self._rng
        made: Document = {}
        prefixes = all("prefix" in match.get("uri", {"prefix": "/"}) for match in rule.get("match", [{}]))
        if rng.random() < 0.5:
            made["uri"] = rng.choice(["/moved", "/moved?and=more", "%PREFIX()%/p" if prefixes else "/"])
        if rng.random() < 0.4:
            made["authority"] = "elsewhere.test"
        if rng.random() < 0.3:
            made["scheme"] = rng.choice(["https", "http"])
        if rng.random() < 0.3:
            made["port"] = rng.choice([80, 443, 8443])
        elif rng.random() < 0.3:
            made["derivePort"] = rng.choice(["FROM_REQUEST_PORT", "FROM_PROTOCOL_DEFAULT"])
        if not made:
            made["uri"] = "/moved"
        if rng.random() < 0.6:
            made["redirectCode"] = rng.choice([301, 302, 303, 307, 308])
        return made

    def _headers(self, mark: str = "route") -> Document:
        rng = self._rng
        request: Document = {"set": {"x-set": mark}} if rng.random() < 0.6 else {"add": {"x-added": mark}}
        if rng.random() < 0.2:
            request["set"] = {**request.get("set", {}), "host": f"{mark}.test"}
        if rng.random() < 0.3:
            request["remove"] = ["x-b"]
        return {"request": request, "response": {"set": {"x-served": mark}} if rng.random() < 0.5 else {}}

    def _match(self) -> Document:
        rng = self._rng
        made: Document = {}
        if rng.random() < 0.8:
            kind = rng.choice(["exact", "prefix", "prefix", "regex"])
            made["uri"] = {kind: rng.choice(_PATTERNS if kind == "regex" else _PATHS)}
            if kind != "regex" and rng.random() < 0.25:
                made["ignoreUriCase"] = True
        if rng.random() < 0.2:
            made["method"] = rng.choice([{"exact": "GET"}, {"prefix": "P"}, {"regex": "GET|PUT"}])
        if rng.random() < 0.1:
            made["scheme"] = rng.choice([{"exact": "http"}, {"exact": "https"}])
        if rng.random() < 0.1:
            made["authority"] = rng.choice([{"prefix": "h1"}, {"regex": ".*:[0-9]+"}, {"prefix": "x."}])
        if rng.random() < 0.3:
            made["headers"] = {rng.choice(_HEADERS): self._text() for _ in range(rng.randint(1, 2))}
        if rng.random() < 0.1:
            made["headers"] = {**made.get("headers", {}), "cookie": {"regex": _BY_COOKIE}}
        if rng.random() < 0.2:
            made["withoutHeaders"] = {rng.choice(_HEADERS): self._text()}
        if rng.random() < 0.2:
            made["queryParams"] = {rng.choice(["p", "q"]): self._text()}
        if rng.random() < 0.1:
            made["port"] = rng.choice([*self._ports.values(), 1])
        if rng.random() < 0.1:
            made["sourceNamespace"] = rng.choice(["shop", "other"])
        if rng.random() < 0.1:
            made["sourceLabels"] = {"tier": rng.choice(["edge", "other"])}
        if rng.random() < 0.1:
            made["gateways"] = [rng.choice([*GATEWAYS, f"shop/{GATEWAYS[0]}"])]
        return made

    def _text(self) -> Document:
        kind = self._rng.choice(["exact", "prefix", "regex", "any"])
        if kind == "any":
            return {}
        values = {"exact": _VALUES, "prefix": _VALUES[1:], "regex": _VALUE_PATTERNS}
        return {kind: self._rng.choice(values[kind])}

    def _request(self, host: str, match: Document) -> Asked:
        rng = self._rng
        uri: Mapping[str, str] = match.get("uri", {})
        path = uri.get("exact") or uri.get("prefix") or rng.choice(_PATHS)
        if rng.random() < 0.3:
            path = (path.rstrip("/") or "/x") + rng.choice(["/more", "more", "/"])
        if rng.random() < 0.15:
            path = path.swapcase()
        headers: dict[str, str] = {}
        for name in _HEADERS:
            if name in match.get("headers", {}) or rng.random() < 0.25:
                wanted: Mapping[str, str] = match.get("headers", {}).get(name, {})
                headers[name] = wanted.get("exact") or wanted.get("prefix") or rng.choice(_VALUES[1:])
        if "cookie" in match.get("headers", {}) or rng.random() < 0.1:
            headers["cookie"] = rng.choice(_COOKIES)
        query = []
        for name in ("p", "q"):
            if name in match.get("queryParams", {}) or rng.random() < 0.2:
                wanted = match.get("queryParams", {}).get(name, {})
                value = wanted.get("exact", wanted.get("prefix", rng.choice(_VALUES)))
                query.append(f"{name}={value}" if value or rng.random() < 0.5 else name)
        target = path + ("?" + "&".join(query) if query else "")
        port = rng.choice(["", "", ":80", ":8080"])
        return Asked(host + port, target, rng.choice(["GET", "GET", "PUT", "POST"]), headers)


def expected(documents: Sequence[Document], asked: Asked, kind: str, port: int) -> Outcome:
    """What becomes of a request at the gateway ``kind`` that listens on ``port``."""
    virtuals = [one for one in documents if one["kind"] == "VirtualService"]
    rooted = [one for one in virtuals if one["spec"].get("hosts")]
    hosts = {host for one in rooted for host in one["spec"]["hosts"] if _takes(host, asked.name)}
    if not hosts:
        return Local(404)
    closest = max(hosts, key=lambda host: ("*" not in host, len(host)))
    here = [one for one in rooted if closest in one["spec"]["hosts"]]
    here.sort(key=_age)
    pairs = []
    for virtual in here:
        for rule in _rules(virtual, virtuals):
            for match in rule.get("match") or [{}]:
                for_here = _is_for(match, kind, port)
                if for_here:
                    pairs.append((match, rule))
    # Those that take everything come last, in their order.
    pairs.sort(key=lambda pair: _takes_everything(pair[0]))
    for match, rule in pairs:
        if _matches(match, asked):
            return _outcome(match, rule, asked, port)
    return Local(404)


def _age(virtual: Document) -> tuple[bool, str, str]:
    stamp = virtual["metadata"].get("creationTimestamp", "")
    return (not stamp, stamp, virtual["metadata"]["name"])


def _takes(host: str, name: str) -> bool:
    return host == name or (host.startswith("*.") and name.endswith(host[1:]))


def _rules(virtual: Document, virtuals: Sequence[Document]) -> list[Document]:
    """The rules with delegates in place; without ``virtuals`` those that delegate stay."""
    found: list[Document] = []
    for rule in virtual["spec"]["http"]:
        if "delegate" not in rule or not virtuals:
            found.append(rule)
            continue
        (inner,) = [one for one in virtuals if one["metadata"]["name"] == rule["delegate"]["name"]]
        for own in inner["spec"]["http"]:
            merged = _delegated(rule, own)
            found += [merged] if merged is not None else []
    return found


def _delegated(root: Document, own: Document) -> Document | None:
    matches: list[Document] = []
    for narrow in own.get("match") or [{}]:
        anything = not own.get("match") or not root.get("match")
        fits = [wide for wide in root.get("match") or [{}] if anything or _is_within(narrow, wide)]
        if not fits:
            return None
        matches += [_joined(wide, narrow) for wide in fits]
    inherited = {key: value for key, value in root.items() if key not in ("match", "delegate", "name")}
    return {**inherited, **own, "match": matches}


def _joined(wide: Document, narrow: Document) -> Document:
    joined = {**wide, **narrow}
    for key in ("headers", "withoutHeaders", "queryParams", "sourceLabels"):
        if key in wide or key in narrow:
            joined[key] = {**wide.get(key, {}), **narrow.get(key, {})}
    return joined


def _is_within(narrow: Document, wide: Document) -> bool:
    """Whether the delegate's match asks no less than the root's."""
    for key in ("uri", "scheme", "method", "authority"):
        if key in narrow and key in wide and not _is_narrower(narrow[key], wide[key]):
            return False
    for key in ("headers", "withoutHeaders", "queryParams"):
        for name, text in narrow.get(key, {}).items():
            if name in wide.get(key, {}) and not _is_narrower(text, wide[key][name]):
                return False
    for key in ("ignoreUriCase",):
        if narrow.get(key, False) != wide.get(key, False):
            return False
    if "port" in narrow and "port" in wide and narrow["port"] != wide["port"]:
        return False
    if "sourceNamespace" in wide and narrow.get("sourceNamespace") != wide["sourceNamespace"]:
        return False
    labels: Mapping[str, str] = wide.get("sourceLabels", {})
    if any(labels.get(name, value) != value for name, value in narrow.get("sourceLabels", {}).items()):
        return False
    return "gateways" not in wide or set(narrow.get("gateways", [])) <= set(wide["gateways"])


def _is_narrower(narrow: Mapping[str, str], wide: Mapping[str, str]) -> bool:
    if not wide or "regex" in wide or "regex" in narrow:
        # Istio does not compare patterns; that a header is there is asked by any match of it.
        return not wide and "regex" not in narrow
    if "exact" in wide:
        return narrow == wide
    begins = narrow.get("exact", narrow.get("prefix"))
    return begins is not None and begins.startswith(wide["prefix"])


def _is_for(match: Document, kind: str, port: int) -> bool:
    names = [name.rpartition("/")[2] for name in match.get("gateways", [kind])]
    return (
        kind in names
        and match.get("port", port) == port
        and match.get("sourceNamespace", "shop") == "shop"
        and match.get("sourceLabels", {}).get("tier", "edge") == "edge"
    )


def _takes_everything(match: Document) -> bool:
    asks = {"method", "scheme", "authority", "headers", "withoutHeaders", "queryParams"} & match.keys()
    return match.get("uri", {"prefix": "/"}) == {"prefix": "/"} and not asks


def _matches(match: Document, asked: Asked) -> bool:
    fold = match.get("ignoreUriCase", False)
    params = dict(reversed(parse_qsl(asked.query[1:], keep_blank_values=True)))
    return (
        _fits(match.get("uri", {"prefix": "/"}), asked.path, fold)
        and ("method" not in match or _fits(match["method"], asked.method))
        and ("scheme" not in match or _fits(match["scheme"], "http"))
        and ("authority" not in match or _fits(match["authority"], asked.host))
        and all(_has(asked.headers, name, text) for name, text in match.get("headers", {}).items())
        and not any(
            _has(asked.headers, name, text, absent="") for name, text in match.get("withoutHeaders", {}).items()
        )
        and all(_has(params, name, text) for name, text in match.get("queryParams", {}).items())
    )


def _has(values: Mapping[str, str], name: str, text: Mapping[str, str], absent: str | None = None) -> bool:
    """Whether a value is there and fits. What is left out by ``withoutHeaders`` counts as empty when it is compared."""
    if not text:
        return name in values
    value = values.get(name, absent)
    return value is not None and _fits(text, value)


def _fits(text: Mapping[str, str], value: str, fold: bool = False) -> bool:
    ((kind, pattern),) = text.items()
    if kind == "regex":
        return re.fullmatch(pattern, value) is not None
    if fold:
        value, pattern = value.lower(), pattern.lower()
    return value == pattern if kind == "exact" else value.startswith(pattern)


def _outcome(match: Document, rule: Document, asked: Asked, port: int) -> Outcome:
    headers: Document = rule.get("headers", {})
    if "directResponse" in rule:
        direct = rule["directResponse"]
        return Local(
            direct["status"], direct.get("body", {}).get("string", ""), headers.get("response", {}).get("set", {})
        )
    if "redirect" in rule:
        return _redirected(match, rule["redirect"], asked, port)
    return _forwarded(match, rule, asked)


def _redirected(match: Document, redirect: Document, asked: Asked, port: int) -> Redirected:
    scheme = redirect.get("scheme", "http")
    old_port = asked.host.partition(":")[2]
    wanted = redirect.get("port")
    if redirect.get("derivePort") == "FROM_REQUEST_PORT":
        wanted = port
    host = redirect.get("authority", asked.name)
    if wanted is not None:
        # A new authority has no port that would have to be replaced, so that the scheme's own is left out.
        if "authority" not in redirect or wanted != {"http": 80, "https": 443}[scheme]:
            host += f":{wanted}"
    elif "authority" not in redirect and old_port and not (scheme == "https" and old_port == "80"):
        host += f":{old_port}"
    uri = redirect.get("uri", "")
    if uri.startswith("%PREFIX()%"):
        # A delegate may have got a match of the whole path from its root.
        matched = len(match.get("uri", {"prefix": "/"}).get("prefix", asked.path))
        path = uri.removeprefix("%PREFIX()%") + asked.path[matched:] + asked.query
    elif uri:
        path = uri + ("" if "?" in uri else asked.query)
    else:
        path = asked.target
    return Redirected(redirect.get("redirectCode", 301), f"{scheme}://{host}{path}")


def _forwarded(match: Document, rule: Document, asked: Asked) -> Forwarded:
    shares = [one for one in rule["route"] if len(rule["route"]) == 1 or one["weight"]]
    path = asked.path
    rewrite: Document = rule.get("rewrite", {})
    if "uri" in rewrite:
        uri: Mapping[str, str] = match.get("uri", {"prefix": "/"})
        path = rewrite["uri"] + (path[len(uri["prefix"]) :] if "prefix" in uri else "")
    elif "uriRegexRewrite" in rewrite:
        path = re.sub(rewrite["uriRegexRewrite"]["match"], rewrite["uriRegexRewrite"]["rewrite"], path)
    operations = [rule.get("headers", {})]
    authority = rewrite.get("authority") or _host(operations[0])
    seen, gone, served = dict(asked.headers), set[str](), dict[str, str]()
    if len(shares) == 1:
        # Which share is certain, so its operations are too: they are the first.
        own = shares[0].get("headers", {})
        authority = authority or _host(own)
        operations.insert(0, own)
        for one in operations:
            for name in one.get("request", {}).get("remove", []):
                seen.pop(name, None)
                gone.add(name)
            for name, value in one.get("request", {}).get("set", {}).items():
                if name != "host":
                    seen[name] = value
            for name, value in one.get("request", {}).get("add", {}).items():
                seen[name] = f"{seen[name]},{value}" if name in seen else value
            served |= one.get("response", {}).get("set", {})
    else:
        seen = {}
    own_hosts = {_host(one.get("headers", {})) or asked.host for one in shares}
    origins = frozenset(one["destination"]["host"] for one in shares)
    authorities = frozenset([authority] if authority else own_hosts)
    return Forwarded(origins, path + asked.query, authorities, seen, frozenset(gone), served)


def _host(headers: Document) -> str:
    return str(headers.get("request", {}).get("set", {}).get("host", ""))
