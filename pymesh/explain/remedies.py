"""Why requests are answered as they are, by the words in which proxies say so (Envoy's response code details), and what
would have to change for another answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pymesh.explain.places import Rule
from pymesh.explain.source import Member

_OWNER = frozenset({"claim[iss]", "claim[sub]"})
_REQUEST_PRINCIPAL = "request principal"
#: Why, and what to change.
Remedy = tuple[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a request at the proxy that answered it."""

    host: str
    port: int
    member: Member
    #: What that proxy logged.
    record: Mapping[str, Any]
    location: str | None

    @property
    def peer(self) -> str | None:
        """Who the client is, as far as it has shown."""
        peer = self.record.get("peer")
        return str(peer) if peer else None

    @property
    def path(self) -> str:
        """What policies see of the target."""
        return str(self.record.get("path") or "").partition("?")[0]


def no_way(sender: Member, host: str, port: int, sidecar: str) -> Remedy:
    """The sender's sidecar has no listener for a service."""
    where = sidecar or f"the Sidecar resource of {sender.title}"
    return (
        f"no listener of {sender.title}'s sidecar leads to {host}:{port}",
        [f"name the service in an egress listener of {where}; in a mesh file, in the app's `calls`"],
    )


def closed(member: Member, failures: Sequence[str], peers: Sequence[str]) -> Remedy:
    """The connection to a proxy was closed before there was a request."""
    if any("InvalidContentType" in one or "corrupt message" in one for one in failures):
        policies = ", ".join(filter(None, peers)) or "there is no PeerAuthentication: STRICT is the default"
        return (
            f"{member.title} takes mutual TLS only, and the client speaks plain text",
            [
                "call it through a sidecar or a gateway of the mesh",
                f"or allow plain text with mtls.mode: PERMISSIVE in a PeerAuthentication ({policies})",
            ],
        )
    if failures:
        return f"the handshake with {member.title} failed: {failures[-1]}", ()
    return f"{member.title} closed the connection: it has no filter chain for it", ()


def closest(facts: Facts, rule: Rule, lacking: Sequence[str]) -> Remedy:
    """No rule allows, and one came closest."""
    why = f"no AuthorizationPolicy allows it; closest is {rule.title}, which lacks: {', '.join(lacking)}"
    if set(lacking) >= _OWNER:
        # Together they are what resources call a request principal.
        lacking = [_REQUEST_PRINCIPAL, *(one for one in lacking if one not in _OWNER)]
    return why, [f"in {rule.title}{rule.place}: {_for_condition(one, facts)}" for one in lacking]


def nothing_allowed(member: Member) -> Remedy:
    """There are policies that allow, and no rule in any of them."""
    return (
        f"AuthorizationPolicies for {member.title} allow, and none of them has a rule: nobody is let in",
        ["add a rule to one of them, or another AuthorizationPolicy that allows the request"],
    )


def denied(rule: Rule) -> Remedy:
    """A rule denies."""
    return f"{rule.title} denies it", [f"narrow that rule{rule.place}, or remove it: what is denied cannot be allowed"]


def nobody_to_ask(rule: Rule) -> Remedy:
    """A rule of action CUSTOM whose provider is not there."""
    change = "define its provider in extensionProviders of the ConfigMap istio, or name another one"
    return f"{rule.title} would ask a provider that cannot be asked, so it denies", [f"{change}{rule.place}"]


def token_refused(facts: Facts, details: str, written: Sequence[str]) -> Remedy:
    """A RequestAuthentication does not take the token of a request."""
    reason = details.partition("{")[2].removesuffix("}").replace("_", " ")
    where = f"; see {', '.join(written)}" if written else ""
    return (
        f"{facts.member.title} does not take the request's token: {reason or details}",
        [f"bring a token that its jwtRules take (issuer, audiences, time, key){where}"],
    )


def _for_condition(kind: str, facts: Facts) -> str:
    if kind.startswith("not_"):
        return f"the request is among what it excludes ({kind})"
    match kind:
        case "principal" if facts.peer is None:
            return "it asks for an identity, and the client has shown none: call through a sidecar, by mutual TLS"
        case "principal":
            name = str(facts.peer).removeprefix("spiffe://")
            return f"add {name!r} to from[].source.principals (or its namespace to namespaces)"
        case "request principal":
            return "its requestPrincipals do not name the owner of the client's token, or there is no valid token"
        case "method":
            return f"add {str(facts.record.get('method'))!r} to to[].operation.methods"
        case "path":
            return f"add {facts.path!r} to to[].operation.paths"
        case "host":
            return f"add {str(facts.record.get('authority'))!r} to to[].operation.hosts"
        case "destination_port":
            return f"add {str(facts.record.get('local')).rpartition(':')[2]!r} to to[].operation.ports"
        case "source_ip":
            return "add the client's address to from[].source.ipBlocks"
        case "remote_ip":
            return "add the client's address to from[].source.remoteIpBlocks"
        case "server_name":
            return "its condition connection.sni does not hold"
        case "destination_ip":
            return "its condition destination.ip does not hold"
    if kind.startswith("claim["):
        name = kind.removeprefix("claim[").removesuffix("]")
        return f"the claim {name!r} of the client's token is not one that it asks for, or there is no valid token"
    if kind.startswith("header["):
        return f"its condition request.headers{kind.removeprefix('header')} does not hold"
    return f"its condition on {kind} does not hold"


def of_details(facts: Facts, details: str) -> Remedy:
    """By what the proxy says of its answer."""
    record, who = facts.record, facts.member.title
    if details == "direct_response" and facts.location:
        return f"route {record.get('route')!r} of {who} redirects to {facts.location}", ()
    if details == "direct_response" and record.get("route") == "blackhole":
        hint = "name the host in a VirtualService for the Gateway, and in the Gateway's server, or ask for another host"
        return f"no route of {who} is for host {record.get('authority')!r}", [hint]
    if details == "direct_response" and record.get("route") == "block_all":
        hint = "ask for a service that the sidecar knows, or add a ServiceEntry"
        return f"{who} knows no service {record.get('authority')!r} and lets nothing else out", [hint]
    if details == "via_upstream":
        return _passed_on(facts)
    for start, why, change in _KNOWN:
        if details.startswith(start):
            shown = {**record, "who": who, "host": facts.host, "port": facts.port}
            return why.format_map(_Shown(shown)), [one.format_map(_Shown(shown)) for one in change]
    if not details and not record.get("method"):
        return "the connection is passed on as it is: what is answered, the application says", ()
    return f"{who} says: {details or 'nothing'}", ()


def _passed_on(facts: Facts) -> Remedy:
    if facts.record.get("cluster") == "PassthroughCluster":
        return f"{facts.member.title} knows no such service and passes the request on to where it was sent", ()
    return "every proxy lets it pass: the application answers (200 here, in its stead)", ()


class _Shown(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return "-"


#: How details begin, why, and what to change.
_KNOWN: Sequence[tuple[str, str, Sequence[str]]] = (
    (
        "route_not_found",
        "no route of {who} matches host {authority} and path {path}",
        ["add a route for it to the VirtualService or HTTPRoute, or ask for another host or path"],
    ),
    (
        "direct_response",
        "route {route!r} of {who} answers itself",
        ["change the directResponse of that route"],
    ),
    (
        "cluster_not_found",
        "route {route!r} of {who} leads to {cluster}, which is not there",
        ["check host, subset and port of its destination"],
    ),
    (
        "no_healthy_upstream",
        "{cluster} has no endpoint",
        ["start a workload with the labels that the service (and its subset) selects"],
    ),
    (
        "upstream_reset_before_response_started",
        "{who} could not get an answer from {upstream}: {transport_failure}",
        ["make both sides agree about TLS: the DestinationRule's tls.mode and the workload's PeerAuthentication"],
    ),
    ("ext_authz_denied", "the external authorizer of {who} refuses", ["see what it says to this request"]),
    ("ext_authz_error", "the external authorizer of {who} cannot be asked, so it refuses", ["see whether it runs"]),
    ("fault_filter_abort", "route {route!r} of {who} injects a failure", ["remove the fault of that route"]),
    ("local_rate_limited", "{who} takes no more requests now", ["raise the LocalRateLimit"]),
    ("cors_response", "{who} answers the CORS preflight itself", ()),
    ("filter_reply", "a Python filter of {who} answers", ["see the PythonFilter among its filters above"]),
    ("filter_failed", "a Python filter of {who} has failed, and fails closed", ["see the error that it raised"]),
    ("path_normalization_failed", "{who} cannot make sense of the path, and refuses it", ["write the path plainly"]),
    (
        "response_timeout",
        "no answer came within the route's timeout",
        ["raise the timeout of the route, or shorten its delay"],
    ),
)
