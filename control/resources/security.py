"""Istio's security resources: whom workloads let in.

PeerAuthentication: whether connections must, may or cannot be mutual TLS.
AuthorizationPolicy: who may do what.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Any, ClassVar, Literal

from pymesh.control.resources.decode import Located, Problem, camel, key, model
from pymesh.control.resources.kubernetes import is_network
from pymesh.control.resources.metadata import Resource

#: UNSET: as the next wider policy says.
MtlsMode = Literal["UNSET", "DISABLE", "PERMISSIVE", "STRICT"]


@model
class Selector(Located):
    """Labels that a workload must have, all of them."""

    match_labels: Mapping[str, str] = field(default_factory=dict)

    def problems(self) -> Iterator[Problem]:
        for name, value in self.match_labels.items():
            if "*" in name + value:
                yield Problem("matchLabels", f"{name}: {value} has a wildcard", "name the label's value")

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Whether a workload with these labels is meant."""
        return self.match_labels.items() <= labels.items()


@model
class Mtls(Located):
    """Whether connections are mutual TLS."""

    mode: MtlsMode = "UNSET"


@model
class PeerAuthenticationSpec(Located):
    """For all workloads of the namespace (of the mesh, in the root namespace), or for those that it selects."""

    selector: Selector | None = None
    mtls: Mtls = Mtls()
    #: Port of the workload -> in place of ``mtls`` there.
    port_level_mtls: Mapping[str, Mtls] = field(default_factory=dict)

    def problems(self) -> Iterator[Problem]:
        if self.port_level_mtls and (self.selector is None or not self.selector.match_labels):
            yield Problem(
                "portLevelMtls", "ports belong to workloads, and none is selected", "add selector.matchLabels"
            )
        for port in self.port_level_mtls:
            if not port.isdecimal() or not 0 < int(port) < 65536:
                yield Problem("portLevelMtls", f"{port!r} is not a port", "write the number of the workload's port")


@model
class PeerAuthentication(Resource):
    """``security.istio.io`` PeerAuthentication."""

    spec: PeerAuthenticationSpec = PeerAuthenticationSpec()
    status: Any = None


#: What a condition may ask for.
CONDITIONS = (
    *("source.ip", "remote.ip", "source.namespace", "source.principal", "source.serviceAccount"),
    *("destination.ip", "destination.port", "connection.sni", "request.headers[NAME]"),
    *("request.auth.principal", "request.auth.audiences", "request.auth.presenter", "request.auth.claims[NAME]"),
)
_CLAIMS_CONDITION = re.compile(r"request\.auth\.claims((?:\[[^\[\]]+\])+)")
_HEADER_CONDITION = re.compile(r"request\.headers\[([!#$%&'*+.^_`|~0-9A-Za-z-]+)\]")


@model
class Source(Located):
    """Who asks: all of what is given must hold, of each list one."""

    principals: tuple[str, ...] = ()
    not_principals: tuple[str, ...] = ()
    #: ISSUER/SUBJECT of a token that a RequestAuthentication has found good.
    request_principals: tuple[str, ...] = ()
    not_request_principals: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    not_namespaces: tuple[str, ...] = ()
    #: SERVICEACCOUNT, in the policy's namespace, or NAMESPACE/SERVICEACCOUNT.
    service_accounts: tuple[str, ...] = ()
    not_service_accounts: tuple[str, ...] = ()
    trust_domains: tuple[str, ...] = ()
    not_trust_domains: tuple[str, ...] = ()
    #: The peer of the socket.
    ip_blocks: tuple[str, ...] = ()
    not_ip_blocks: tuple[str, ...] = ()
    #: The client, as far as proxies in front are believed.
    remote_ip_blocks: tuple[str, ...] = ()
    not_remote_ip_blocks: tuple[str, ...] = ()

    def problems(self) -> Iterator[Problem]:
        if not self.where:
            yield Problem("", "a source that says nothing", "remove it, or name who is meant")
        for name in ("ip_blocks", "not_ip_blocks", "remote_ip_blocks", "not_remote_ip_blocks"):
            yield from _network_problems(camel(name), getattr(self, name))
        for name in ("principals", "not_principals", "namespaces", "not_namespaces", "trust_domains"):
            yield from _pattern_problems(camel(name), getattr(self, name))
        for name in ("request_principals", "not_request_principals"):
            yield from _request_principal_problems(camel(name), getattr(self, name))
        for name in ("service_accounts", "not_service_accounts"):
            for value in getattr(self, name):
                if not re.fullmatch(r"(?:[a-z0-9.-]+/)?[a-z0-9.-]+", value):
                    hint = "SERVICEACCOUNT, or NAMESPACE/SERVICEACCOUNT; there are no wildcards"
                    yield Problem(camel(name), f"{value!r} is no service account", hint)


@model
class Operation(Located):
    """What is asked for: all of what is given must hold, of each list one."""

    hosts: tuple[str, ...] = ()
    not_hosts: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    not_ports: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    not_methods: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    not_paths: tuple[str, ...] = ()

    def problems(self) -> Iterator[Problem]:
        if not self.where:
            yield Problem("", "an operation that says nothing", "remove it, or name what is meant")
        for name in ("ports", "not_ports"):
            for value in getattr(self, name):
                if not value.isdecimal() or not 0 < int(value) < 65536:
                    yield Problem(camel(name), f"{value!r} is not a port", 'write its number as text, as in "8080"')
        for name in ("hosts", "not_hosts", "methods", "not_methods"):
            yield from _pattern_problems(camel(name), getattr(self, name))
        for name in ("paths", "not_paths"):
            for value in getattr(self, name):
                yield from _path_problems(camel(name), value)


@model
class From(Located):
    """A source."""

    source: Source


@model
class To(Located):
    """An operation."""

    operation: Operation


@model
class Condition(Located):
    """Something else that must hold."""

    key: str
    values: tuple[str, ...] = ()
    not_values: tuple[str, ...] = ()

    def problems(self) -> Iterator[Problem]:
        if not self.values and not self.not_values:
            yield Problem("", "a condition needs 'values' or 'notValues'")
        if self.key.startswith("request.auth.claims"):
            if not _CLAIMS_CONDITION.fullmatch(self.key):
                hint = "write it as in request.auth.claims[groups] or request.auth.claims[user][name]"
                yield Problem("key", f"{self.key!r} names no claim", hint)
        elif self.key.startswith("request.headers"):
            if not _HEADER_CONDITION.fullmatch(self.key):
                yield Problem("key", f"{self.key!r} names no header", "write it as in request.headers[x-user]")
        elif self.key not in CONDITIONS:
            yield Problem("key", f"{self.key!r} is no condition", f"known: {', '.join(CONDITIONS)}")
        for name in ("values", "notValues"):
            values = self.values if name == "values" else self.not_values
            if self.key in ("source.ip", "remote.ip", "destination.ip"):
                yield from _network_problems(name, values)
            elif self.key == "destination.port":
                for value in values:
                    if not value.isdecimal() or not 0 < int(value) < 65536:
                        yield Problem(name, f"{value!r} is not a port", "write its number as text")
            elif self.key == "request.auth.principal":
                yield from _request_principal_problems(name, values)
            else:
                yield from _pattern_problems(name, values)

    @property
    def header(self) -> str | None:
        """The header that it looks at."""
        found = _HEADER_CONDITION.fullmatch(self.key)
        return found[1] if found else None

    @property
    def claims(self) -> tuple[str, ...]:
        """The claim of a token that it looks at, behind those in which it lies."""
        if self.key == "request.auth.audiences":
            return ("aud",)
        if self.key == "request.auth.presenter":
            return ("azp",)
        found = _CLAIMS_CONDITION.fullmatch(self.key)
        return tuple(found[1][1:-1].split("][")) if found else ()


@model
class Rule(Located):
    """One of the sources does one of the operations, and all conditions hold; what is left out holds always."""

    from_: tuple[From, ...] = key("from", default=())
    to: tuple[To, ...] = ()
    when: tuple[Condition, ...] = ()

    def problems(self) -> Iterator[Problem]:
        for name in ("from", "to"):
            if name in self.where and not (self.from_ if name == "from" else self.to):
                yield Problem(name, f"{name!r} is empty: nothing would ever match", "remove it")


@model
class TargetRef(Located):
    """A Gateway of the Gateway API, or a Service whose workloads are meant."""

    kind: Literal["Gateway", "Service"]
    name: str
    group: Literal["", "gateway.networking.k8s.io"] = ""

    def problems(self) -> Iterator[Problem]:
        group = "gateway.networking.k8s.io" if self.kind == "Gateway" else ""
        if self.group != group:
            yield Problem("group", f"a {self.kind} is not in group {self.group!r}", f'group: "{group}"')


@model
class ProviderRef(Located):
    """An extension provider of the mesh's configuration."""

    name: str


@model
class AuthorizationPolicySpec(Located):
    """Rules for the workloads of a namespace, or for those that are selected."""

    REFUSED: ClassVar = {"targetRef": "write it as an entry of 'targetRefs'"}

    selector: Selector | None = None
    target_refs: tuple[TargetRef, ...] = ()
    action: Literal["ALLOW", "DENY", "AUDIT", "CUSTOM"] = "ALLOW"
    #: Who is asked about what the rules name, with action CUSTOM.
    provider: ProviderRef | None = None
    rules: tuple[Rule, ...] = ()

    def problems(self) -> Iterator[Problem]:
        yield from two_ways_to_select(self)
        if self.action != "ALLOW" and not self.rules:
            hint = "for everything: rules: [{}]"
            yield Problem("rules", f"a policy with action {self.action} and without rules does nothing", hint)
        if self.action == "CUSTOM":
            if self.provider is None:
                hint = "provider: {name: NAME}, of an extension provider of the mesh's configuration"
                yield Problem("", "action CUSTOM needs a 'provider'", hint)
            yield from _early_problems(self.rules)
        elif self.provider is not None:
            yield Problem("provider", f"action {self.action} asks no provider", "use action: CUSTOM")


@model
class AuthorizationPolicy(Resource):
    """``security.istio.io`` AuthorizationPolicy."""

    spec: AuthorizationPolicySpec = AuthorizationPolicySpec()
    status: Any = None

    def problems(self) -> Iterator[Problem]:
        if self.is_dry_run and self.spec.action == "CUSTOM":
            hint = "whoever is asked can let everything through; remove the annotation"
            at = self.metadata.place("annotations")
            yield Problem("", "istio.io/dry-run: an external authorizer cannot be asked only to count", hint, at)

    @property
    def is_dry_run(self) -> bool:
        """Whether it is only counted."""
        return self.metadata.annotations.get("istio.io/dry-run") == "true"


def two_ways_to_select(spec: Located) -> Iterator[Problem]:
    """A policy is for workloads by their labels, or for what it names."""
    if len(spec.present("selector", "targetRefs")) > 1:
        yield Problem("targetRefs", "'selector' and 'targetRefs' exclude each other", "keep one of them")


def _early_problems(rules: tuple[Rule, ...]) -> Iterator[Problem]:
    """As with Istio an external authorizer is asked before tokens are looked at: it may be who issues them."""
    hint = "an authorizer is asked before tokens are checked: let it look at the token, or say this with DENY or ALLOW"
    for rule in rules:
        for one in rule.from_:
            for name in one.source.present("requestPrincipals", "notRequestPrincipals"):
                yield Problem("", f"action CUSTOM knows no {name!r}", hint, one.source.place(name))
        for condition in rule.when:
            if condition.key.startswith("request.auth."):
                yield Problem("", f"action CUSTOM knows no {condition.key!r}", hint, condition.place("key"))


def _request_principal_problems(name: str, values: tuple[str, ...]) -> Iterator[Problem]:
    for value in values:
        if "/" not in value and "*" not in value:
            hint = "write it as in https://issuer.example/alice, ISSUER/* or '*'"
            yield Problem(name, f"{value!r} is not ISSUER/SUBJECT", hint)
            continue
        yield from _pattern_problems(name, (value,))


def _network_problems(name: str, values: tuple[str, ...]) -> Iterator[Problem]:
    for value in values:
        if not is_network(value):
            yield Problem(name, f"{value!r} is no address and no network", "write it as in 10.0.0.0/8 or 10.1.2.3")


def _pattern_problems(name: str, values: tuple[str, ...]) -> Iterator[Problem]:
    """A whole text, ``text*``, ``*text``, or ``*`` for whatever is there."""
    for value in values:
        if not value or "*" in value[1:-1] or (len(value) > 1 and value[0] == value[-1] == "*"):
            yield Problem(name, f"{value!r} is no pattern", "write a whole text, 'text*', '*text', or '*'")


def _path_problems(name: str, value: str) -> Iterator[Problem]:
    bare = value.replace("{**}", "").replace("{*}", "")
    is_template = bare != value
    if is_template and ("*" in bare or "{" in bare or "}" in bare or not value.startswith("/")):
        yield Problem(name, f"{value!r} is no path template", "as in /users/{*}/items or /files/{**}")
    elif is_template and value.find("{**}") not in (-1, len(value) - len("{**}")):
        yield Problem(name, f"{value!r}: '{{**}}' stands for the rest of the path", "put it at the end")
    elif not is_template:
        yield from _pattern_problems(name, (value,))
        if "?" in value or "#" in value:
            yield Problem(name, f"{value!r} is compared to the path without its query", "leave out '?' and '#'")
