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
from typing import Any

from pymesh.control.resources.security import AuthorizationPolicy, Condition, Operation, Rule, Source, TargetRef
from pymesh.control.translate.scope import Scope
from pymesh.control.translate.wire import extension
from pymesh.control.xds import pb

_HTTP = "envoy.extensions.filters.http.rbac.v3.RBAC"
_NETWORK = "envoy.extensions.filters.network.rbac.v3.RBAC"
#: Of Istio's actions, Envoy's, in the order of the filters.
_ACTIONS = (("AUDIT", "LOG"), ("DENY", "DENY"), ("ALLOW", "ALLOW"))

#: Not an address of IPv6, which has colons inside its brackets.
_WITH_PORT = re.compile(r"\*?(?P<name>[^*]+)(?P<port>:[0-9]+)")

Json = dict[str, Any]
Targeted = Callable[[TargetRef], bool]


class _NeedsHttp(Exception):  # noqa: N818 - not a failure
    """Something that a connection does not have."""


def inbound_http(scope: Scope) -> list[Json]:
    """The filters for requests to the workload."""
    return _http(_selected(scope, lambda target: _is_served(scope, target)))


def inbound_tcp(scope: Scope, stat_prefix: str) -> list[Json]:
    """The filters for connections to the workload."""
    made = []
    for name, fields in _filters(_selected(scope, lambda target: _is_served(scope, target)), http=False):
        message = pb.message(_NETWORK)(**fields, stat_prefix=f"{stat_prefix}.")
        made.append(extension(f"envoy.filters.network.rbac{name}", message))
    return made


def gateway(scope: Scope, name: str) -> list[Json]:
    """The filters for requests to a gateway's listeners, those of the Gateway ``name``."""
    return _http(_selected(scope, lambda target: target.kind == "Gateway" and target.name == name))


def _http(policies: Sequence[AuthorizationPolicy]) -> list[Json]:
    return [
        extension(f"envoy.filters.http.rbac{name}", pb.message(_HTTP)(**fields))
        for name, fields in _filters(policies, http=True)
    ]


def _selected(scope: Scope, targeted: Targeted) -> list[AuthorizationPolicy]:
    """The policies for the proxy's workload. Those of the root namespace are for the whole mesh."""
    proxy, root = scope.proxy, scope.store.options.root_namespace
    found = []
    for one in scope.store.policies:
        if one.namespace not in (proxy.namespace, root):
            continue
        selector = one.spec.selector
        if one.spec.target_refs:
            if one.namespace == proxy.namespace and any(map(targeted, one.spec.target_refs)):
                found.append(one)
        elif selector is None or selector.selects(proxy.labels):
            found.append(one)
    return found


def _is_served(scope: Scope, target: TargetRef) -> bool:
    return target.kind == "Service" and scope.serves(target.name)


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
            yield f".{action.lower()}", fields


def _rules(policies: Sequence[AuthorizationPolicy], action: str, *, http: bool) -> Json:
    made: dict[str, Json] = {}
    for one in policies:
        for number, rule in enumerate(one.spec.rules):
            policy = _policy(one, rule, http=http)
            if policy is not None:
                made[f"ns[{one.namespace}]-policy[{one.name}]-rule[{number}]"] = policy
    return {"action": action, "policies": made}


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
            *self._is(one.namespaces, one.not_namespaces, _namespace),
            *self._is(one.service_accounts, one.not_service_accounts, self._account),
            *self._is(one.trust_domains, one.not_trust_domains, _trust_domain),
            *self._is(one.ip_blocks, one.not_ip_blocks, lambda value: {"direct_remote_ip": _network(value)}),
            *self._is(one.remote_ip_blocks, one.not_remote_ip_blocks, lambda value: {"remote_ip": _network(value)}),
        ]

    def _condition(self, one: Condition, of: Sequence[str]) -> list[Json]:
        """The parts of a condition, if it is one of these."""
        kind = "request.headers" if one.header else one.key
        if kind not in of:
            return []
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
        self, some: Sequence[str], none: Sequence[str], make: Callable[[str], Json], *, of_http: bool = False
    ) -> list[Json]:
        return self._parts(some, none, make, ("or_rules", "rules", "not_rule"), of_http=of_http)

    def _is(
        self, some: Sequence[str], none: Sequence[str], make: Callable[[str], Json], *, of_http: bool = False
    ) -> list[Json]:
        return self._parts(some, none, make, ("or_ids", "ids", "not_id"), of_http=of_http)

    def _parts(
        self,
        some: Sequence[str],
        none: Sequence[str],
        make: Callable[[str], Json],
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
_PRINCIPALS = (*_WHO, "source.serviceAccount", "request.headers")
_PERMISSIONS = tuple(_WHAT)
