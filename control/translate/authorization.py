"""AuthorizationPolicies as RBAC filters: one for each action that has policies, audit first, then deny, then allow.

Each rule is a policy of the filter, by Istio's name, which a refusal tells: ``ns[NS]-policy[NAME]-rule[N]``. Where
policies allow, nobody is let in whom none of them allows; a policy that allows and has no rules allows nobody.

A raw TCP connection has no host, method, path or header. A rule that allows by one of them allows no connection; a rule
that denies does so by what is left of it, as Istio's does: it denies rather more.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

from pymesh.control.resources.security import AuthorizationPolicy, Condition, Operation, Rule, Source
from pymesh.control.translate import claims
from pymesh.control.translate.wire import extension
from pymesh.control.xds import pb

#: The filters, and where in dynamic metadata they leave which rule matched.
HTTP: Final = "envoy.filters.http.rbac"
NETWORK: Final = "envoy.filters.network.rbac"
#: Of Istio's actions, Envoy's, in the order of the filters.
_ACTIONS = (("AUDIT", "LOG"), ("DENY", "DENY"), ("ALLOW", "ALLOW"))

#: Not an address of IPv6, which has colons inside its brackets.
_WITH_PORT = re.compile(r"\*?(?P<name>[^*]+)(?P<port>:[0-9]+)")

Json = dict[str, Any]
T = TypeVar("T")


class _NeedsHttp(Exception):  # noqa: N818 - not a failure
    """Something that a connection does not have."""


def http(policies: Sequence[AuthorizationPolicy]) -> list[Json]:
    """The filters for requests."""
    return [http_filter(name, fields) for name, fields in _filters(policies, http=True)]


def tcp(policies: Sequence[AuthorizationPolicy]) -> list[Json]:
    """The filters for connections."""
    return [tcp_filter(name, fields) for name, fields in _filters(policies, http=False)]


def http_filter(name: str, fields: Json) -> Json:
    """RBAC for requests, told apart from others of its kind by ``name``."""
    return extension(f"{HTTP}.{name}", pb.message("envoy.extensions.filters.http.rbac.v3.RBAC")(**fields))


def tcp_filter(name: str, fields: Json) -> Json:
    """RBAC for connections."""
    message = pb.message("envoy.extensions.filters.network.rbac.v3.RBAC")(**fields, stat_prefix="tcp.")
    return extension(f"{NETWORK}.{name}", message)


def named_rules(policies: Sequence[AuthorizationPolicy], *, http: bool) -> Json:
    """Each rule by its name; one that nothing can match is left out."""
    made: dict[str, Json] = {}
    for one in policies:
        for number, rule in enumerate(one.spec.rules):
            policy = _policy(one, rule, http=http)
            if policy is not None:
                made[f"ns[{one.namespace}]-policy[{one.name}]-rule[{number}]"] = policy
    return made


def _filters(policies: Sequence[AuthorizationPolicy], *, http: bool) -> Iterable[tuple[str, Json]]:
    """What follows the filter's name in each, and its fields."""
    for action, theirs in _ACTIONS:
        acting = [one for one in policies if one.spec.action == action]
        enforced = [one for one in acting if not one.is_dry_run]
        tried = [one for one in acting if one.is_dry_run]
        fields: Json = {}
        if enforced:
            fields["rules"] = _rules(enforced, theirs, http=http)
        if tried:
            fields["shadow_rules"] = _rules(tried, theirs, http=http)
            fields["shadow_rules_stat_prefix"] = f"istio_dry_run_{action.lower()}_"
        if fields:
            yield action.lower(), fields


def _rules(policies: Sequence[AuthorizationPolicy], action: str, *, http: bool) -> Json:
    return {"action": action, "policies": named_rules(policies, http=http)}


def _policy(one: AuthorizationPolicy, rule: Rule, *, http: bool) -> Json | None:
    translate = _Rule(one.namespace, http=http, leaves_out=one.spec.action != "ALLOW")
    try:
        return {"permissions": translate.permissions(rule), "principals": translate.principals(rule)}
    except _NeedsHttp:
        return None


class _Rule:
    """The parts of a rule."""

    def __init__(self, namespace: str, *, http: bool, leaves_out: bool) -> None:
        self._namespace = namespace
        self._http = http
        #: What asks for HTTP where there is none is left out, in place of the whole rule.
        self._leaves_out = leaves_out

    def permissions(self, rule: Rule) -> list[Json]:
        """One for each operation; the conditions that ask for something hold for all of them."""
        shared = [part for one in rule.when for part in self._condition(one, _PERMISSIONS)]
        return [_all("and_rules", "rules", [*self._operation(one.operation), *shared]) for one in rule.to] or [
            _all("and_rules", "rules", shared)
        ]

    def principals(self, rule: Rule) -> list[Json]:
        """One for each source; the conditions that ask for somebody hold for all of them."""
        shared = [part for one in rule.when for part in self._condition(one, _PRINCIPALS)]
        return [_all("and_ids", "ids", [*self._source(one.source), *shared]) for one in rule.from_] or [
            _all("and_ids", "ids", shared)
        ]

    def _operation(self, one: Operation) -> list[Json]:
        return [
            *self._may(one.hosts, one.not_hosts, _host, of_http=True),
            *self._may(one.ports, one.not_ports, _port),
            *self._may(one.methods, one.not_methods, lambda value: _header(":method", value), of_http=True),
            *self._may(one.paths, one.not_paths, _path, of_http=True),
        ]

    def _source(self, one: Source) -> list[Json]:
        return [
            *self._is(one.principals, one.not_principals, _principal),
            *self._is(one.request_principals, one.not_request_principals, _request_principal, of_http=True),
            *self._is(one.namespaces, one.not_namespaces, _namespace),
            *self._is(one.service_accounts, one.not_service_accounts, self._account),
            *self._is(one.trust_domains, one.not_trust_domains, _trust_domain),
            *self._is(one.ip_blocks, one.not_ip_blocks, lambda value: {"direct_remote_ip": _network(value)}),
            *self._is(one.remote_ip_blocks, one.not_remote_ip_blocks, lambda value: {"remote_ip": _network(value)}),
        ]

    def _condition(self, one: Condition, of: Sequence[str]) -> list[Json]:
        """The parts of a condition, if it is one of these."""
        kind = "request.headers" if one.header else "request.auth.claims" if one.claims else one.key
        if kind not in of:
            return []
        if one.claims:
            # One of several values is asked for at once, as Istio does.
            values, none = ((found,) if found else () for found in (one.values, one.not_values))
            return self._is(values, none, lambda value: _claim(one.claims, value), of_http=True)
        if kind == "request.auth.principal":
            return self._is(one.values, one.not_values, _request_principal, of_http=True)
        if one.header:
            name = one.header
            return self._is(one.values, one.not_values, lambda value: _header(name, value), of_http=True)
        if kind == "source.serviceAccount":
            return self._is(one.values, one.not_values, self._account)
        if kind in _WHO:
            return self._is(one.values, one.not_values, _WHO[kind])
        return self._may(one.values, one.not_values, _WHAT[kind])

    def _account(self, value: str) -> Json:
        namespace, slash, account = value.partition("/")
        if not slash:
            namespace, account = self._namespace, value
        return _identity(f"spiffe://[^/]+/ns/{re.escape(namespace)}/sa/{re.escape(account)}")

    def _may(
        self, some: Sequence[T], none: Sequence[T], make: Callable[[T], Json], *, of_http: bool = False
    ) -> list[Json]:
        return self._parts(some, none, make, ("or_rules", "rules", "not_rule"), of_http=of_http)

    def _is(
        self, some: Sequence[T], none: Sequence[T], make: Callable[[T], Json], *, of_http: bool = False
    ) -> list[Json]:
        return self._parts(some, none, make, ("or_ids", "ids", "not_id"), of_http=of_http)

    def _parts(
        self,
        some: Sequence[T],
        none: Sequence[T],
        make: Callable[[T], Json],
        words: tuple[str, str, str],
        *,
        of_http: bool,
    ) -> list[Json]:
        """One of ``some``, and none of ``none``."""
        if of_http and not self._http and (some or none):
            if self._leaves_out:
                return []
            raise _NeedsHttp
        either, items, negated = words
        found: list[Json] = []
        if some:
            found.append({either: {items: [make(value) for value in some]}})
        if none:
            found.append({negated: {either: {items: [make(value) for value in none]}}})
        return found


def _all(word: str, items: str, parts: list[Json]) -> Json:
    return {word: {items: parts}} if parts else {"any": True}


def _text(value: str, before: str = "") -> Json:
    """Istio's patterns of a text that is there."""
    if value == "*":
        return {"safe_regex": {"regex": ".+"}}
    if value.endswith("*"):
        return {"prefix": before + value[:-1]}
    if value.startswith("*"):
        return {"suffix": value[1:]}
    return {"exact": before + value}


def _header(name: str, value: str) -> Json:
    if value == "*":
        return {"header": {"name": name, "present_match": True}}
    return {"header": {"name": name, "string_match": _text(value)}}


def _host(value: str) -> Json:
    """In any case, with or without the dot of the root, and with any port where none is written: neither
    ``shop.example:8080`` nor ``shop.example.`` is a way around ``shop.example``.
    """
    if value == "*":
        return _header(":authority", "*")
    name, port = (found["name"], found["port"]) if (found := _WITH_PORT.fullmatch(value)) else (value.strip("*"), "")
    start, end = ".*" if value[0] == "*" else "", rf"\.*{port or '(:[0-9]*)?'}"
    if value[-1] == "*":
        name, end = value.strip("*"), ".*"
    pattern = f"(?i){start}{re.escape(name)}{end}"
    return {"header": {"name": ":authority", "string_match": {"safe_regex": {"regex": pattern}}}}


def _path(value: str) -> Json:
    if "{*}" in value or "{**}" in value:
        parts = re.split(r"(\{\*\*?\})", value)
        pattern = "".join({"{*}": "[^/]+", "{**}": ".*"}.get(part) or re.escape(part) for part in parts)
        return {"url_path": {"path": {"safe_regex": {"regex": pattern}}}}
    return {"url_path": {"path": _text(value)}}


def _port(value: str) -> Json:
    return {"destination_port": int(value)}


def _network(value: str) -> Json:
    network = ipaddress.ip_network(value, strict=False)
    return {"address_prefix": str(network.network_address), "prefix_len": {"value": network.prefixlen}}


def _principal(value: str) -> Json:
    return {"authenticated": {"principal_name": _text(value, "spiffe://")}}


def _request_principal(value: str) -> Json:
    """ISSUER/SUBJECT of a good token. The issuer may have slashes; what has none is about the issuer, or with a star in
    front about the subject.
    """
    issuer, slash, subject = value.rpartition("/")
    if not slash:
        issuer, subject = ("*", value) if value.startswith("*") else (value, "*")
    return {"and_ids": {"ids": [_claim(("iss",), (issuer,)), _claim(("sub",), (subject,))]}}


def _claim(path: Sequence[str], values: Sequence[str]) -> Json:
    """A claim of a good token that is one of these, or a list with one of them in it."""
    matches: list[Json] = [{"string_match": _text(value)} for value in values]
    match = matches[0] if len(matches) == 1 else {"or_match": {"value_matchers": matches}}
    return {"metadata": claims.matcher(path, match)}


def _identity(pattern: str) -> Json:
    return {"authenticated": {"principal_name": {"safe_regex": {"regex": pattern}}}}


def _namespace(value: str) -> Json:
    return _identity(f"spiffe://[^/]+/ns/{_part(value)}/sa/[^/]+")


def _trust_domain(value: str) -> Json:
    return _identity(f"spiffe://{_part(value)}/.*")


def _part(value: str) -> str:
    """A pattern of one part of an identity: a wildcard never reaches into the next."""
    return "[^/]+" if value == "*" else "[^/]*".join(map(re.escape, value.split("*")))


_WHO: dict[str, Callable[[str], Json]] = {
    "source.ip": lambda value: {"direct_remote_ip": _network(value)},
    "remote.ip": lambda value: {"remote_ip": _network(value)},
    "source.namespace": _namespace,
    "source.principal": _principal,
}
_WHAT: dict[str, Callable[[str], Json]] = {
    "destination.ip": lambda value: {"destination_ip": _network(value)},
    "destination.port": _port,
    "connection.sni": lambda value: {"requested_server_name": _text(value)},
}
_PRINCIPALS = (
    *(*_WHO, "source.serviceAccount", "request.headers"),
    *("request.auth.principal", "request.auth.claims"),
)
_PERMISSIONS = tuple(_WHAT)
