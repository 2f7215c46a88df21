"""A trace in words: what each proxy did, who answered and why, and what would change it.

Every statement comes from what the proxies decided and logged; the resources are only asked where something is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pymesh.control.xds import pb
from pymesh.explain import remedies
from pymesh.explain.places import Places
from pymesh.explain.prepare import Names
from pymesh.explain.remedies import Facts
from pymesh.explain.source import Member, Source
from pymesh.explain.walk import Passage, Record, Trace

_DENIED = "rbac_access_denied_matched_policy"
_CLOSEST = re.compile(rf"{_DENIED}\[none\]\{{(?P<policy>ns\[.*?\]-rule\[\d+\]|[^:]*):(?P<lacking>.*)\}}")
#: Names of claims and headers in the list of what is lacking stand in brackets.
_COMMA = re.compile(r",(?![^\[]*\])")
_FILTER_STEPS = {"continues": "passes", "waits": "waits", "answers": "ANSWERS", "fails": "FAILS"}


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that a proxy did, with the place in the resources that made it do so."""

    what: str
    text: str
    at: str = ""


@dataclass(frozen=True, slots=True)
class Hop:
    """One proxy."""

    proxy: str
    kind: str
    identity: str | None
    steps: Sequence[Step]
    #: Its access log.
    records: Sequence[Record]
    #: Whether it is on the way to the answer; others were asked by a filter, got copies, or were tried in vain.
    is_on_the_way: bool


@dataclass(frozen=True, slots=True)
class Story:
    """The explanation."""

    request: dict[str, Any]
    hops: Sequence[Hop]
    #: None: the connection is closed without an answer.
    status: int | None
    #: How long it takes, if nothing but the proxies takes time.
    seconds: float
    body: str
    #: What the answering proxy says of it, in Envoy's words.
    details: str
    flags: str
    #: The proxy that answered; ``application`` if none did.
    answered_by: str
    why: str
    change: Sequence[str]


def tell(trace: Trace, source: Source, names: Names) -> Story:
    """The story of a trace."""
    told = _Teller(trace, source, names)
    way = told.way()
    hops = [told.hop(one, is_on_the_way=one in way) for one in trace.passages]
    decider, record = told.decider(way)
    details = str(record.get("details") or record.get("termination") or "") if record else ""
    why, change = told.reason(way, decider, record)
    is_passed_on = details == "via_upstream" or (trace.reached and not details)
    answered_by = "application" if is_passed_on else decider.member.title if decider else "nobody"
    body = trace.answer.body.decode("utf-8", "replace") if trace.answer else ""
    status = trace.answer.status if trace.answer else None
    flags = str(record.get("flags") or "") if record else ""
    return Story(told.request(), hops, status, round(trace.seconds, 3), body, details, flags, answered_by, why, change)


class _Teller:
    def __init__(self, trace: Trace, source: Source, names: Names) -> None:
        self._trace = trace
        self._source = source
        self._names = names
        self._places = Places(source.written())

    def request(self) -> dict[str, Any]:
        """What was asked."""
        question, sender = self._trace.question, self._trace.sender
        return {
            "method": question.method,
            "target": question.target,
            "headers": [list(one) for one in question.headers],
            "host": question.host or self._trace.host,
            "service": self._trace.host,
            "port": self._trace.port,
            "from": sender.title if sender else "outside",
            "claims": dict(question.claims) if question.claims is not None else None,
            "identity": sender.identity if sender and sender.kind == "sidecar" else None,
        }

    # --- the way --------------------------------------------------------------------------------------------------

    def way(self) -> list[Passage]:
        """The proxies from the client to who answered: each one's endpoint is where the next took the request."""
        passages = list(self._trace.passages)
        if not passages:
            return []
        way = [passages.pop(0)]
        while True:
            upstream = _last(way[-1]).get("upstream")
            following = [one for one in passages if any(record.get("local") == upstream for record in one.records)]
            if not following and upstream and _is_tls_failure(_last(way[-1])):
                # It closed the connection before there was anything to log.
                following = [one for one in passages if not one.records and one.decisions]
            if not upstream or not following:
                return way
            way.append(following[0])
            passages.remove(following[0])

    def decider(self, way: Sequence[Passage]) -> tuple[Passage | None, Record | None]:
        """The proxy that answered, and what it logged; None and None if that is not known."""
        for one in reversed(way):
            for record in reversed(one.records):
                is_passed_on = record.get("details") == "via_upstream"
                if not is_passed_on or one is way[-1]:
                    return one, record
        return (way[-1], None) if way else (None, None)

    # --- what each did --------------------------------------------------------------------------------------------

    def hop(self, passage: Passage, *, is_on_the_way: bool) -> Hop:
        """What one proxy did."""
        member = passage.member
        told = list(self._decisions(passage))
        where = [one for one in told if one.what == "listener"]
        steps = [*where, *self._client(passage), *(one for one in told if one.what != "listener")]
        for record in passage.records:
            steps += self._request(passage, record)
        return Hop(member.title, _kind(member), member.identity, steps, passage.records, is_on_the_way)

    def _client(self, passage: Passage) -> Iterator[Step]:
        record = _last(passage)
        if self._is_entered(passage) and passage.member.kind == "sidecar":
            return  # its own application
        if record.get("peer"):
            yield Step("client", f"{record['peer']} by mutual TLS ({record.get('tls')})")
        elif record.get("tls"):
            yield Step("client", f"TLS without a certificate ({record['tls']})")
        elif record:
            yield Step("client", "plain text")

    def _decisions(self, passage: Passage) -> Iterator[Step]:
        asked = ""
        for one in passage.decisions:
            match one["kind"]:
                case "chain" if one["tls"] is None:
                    yield Step("CLOSES", f"no filter chain of listener {one['listener']} is for this connection")
                case "chain":
                    yield Step("listener", one["listener"] + (", TLS" if one["tls"] else ""))
                case "failed":
                    yield Step("CLOSES", one["reason"])
                case "access":
                    yield self._access(passage, one)
                case "asks":
                    asked = one["cluster"]
                case "filter" if one["step"] == "waits" and asked:
                    yield Step("asks", f"{one['filter']}: {asked}, which lets it pass here")
                    asked = ""
                case "filter" if "rbac" not in one["filter"]:
                    yield Step(_FILTER_STEPS[one["step"]], one["filter"])

    def _access(self, passage: Passage, one: Mapping[str, Any]) -> Step:
        name, policy = one["filter"], one["policy"]
        what = "counts" if not one["enforced"] else "passes" if one["allowed"] else "REFUSES"
        if policy:
            rule = self._places.rule(policy)
            if rule.asks:
                return Step("matches", f"{name}: {rule.title}, whose provider is asked", rule.at)
            return Step(what, f"{name}: {rule.title} {'matches' if one['allowed'] else 'refuses'}", rule.at)
        closest = _CLOSEST.search(_said(_last(passage))) if not one["allowed"] and one["enforced"] else None
        if closest is None:
            return Step(what, f"{name}: no rule matches")
        lacking = ", ".join(_COMMA.split(closest["lacking"]))
        rule = self._places.rule(closest["policy"])
        return Step(what, f"{name}: no rule matches; {rule.title} is closest and lacks: {lacking}", rule.at)

    def _request(self, passage: Passage, record: Record) -> Iterator[Step]:
        is_entered = self._is_entered(passage)
        if record.get("route") and is_entered:
            yield Step("route", record["route"], self._places.of_route(record["route"]))
        if record.get("cluster") and (record.get("upstream") or _ROUTED.match(_said(record))):
            share = self._share(passage.member, record["route"], record["cluster"]) if is_entered else ""
            yield Step("cluster", record["cluster"] + share)
        if is_entered and record.get("path") != record.get("original_path"):
            yield Step("rewrites", f"{record['original_path']} to {record['path']}")
        if record.get("upstream"):
            who = self._who(record["upstream"], passage)
            tries = f", {record['attempts']} tries" if (record.get("attempts") or 0) > 1 else ""
            yield Step("endpoint", f"{self._names.shown(record['upstream'])}{who}{tries}")
        if record.get("transport_failure"):
            yield Step("FAILS", record["transport_failure"])
        if record.get("method"):
            yield Step("answer", f"{record['status']} {record.get('details') or ''}".rstrip())
        elif record.get("termination"):
            yield Step("closes", record["termination"])

    def _who(self, upstream: str, passage: Passage) -> str:
        for one in self._trace.passages:
            if one is not passage and any(record.get("local") == upstream for record in one.records):
                return f" ({one.member.title})"
        if str(_last(passage).get("cluster")).startswith("inbound|"):
            return " (the application)"
        return " (no proxy of the mesh)" if any(one.get("local") == upstream for one in self._trace.reached) else ""

    def _is_entered(self, passage: Passage) -> bool:
        """Whether a request enters the mesh by this proxy."""
        return passage is self._trace.passages[0] and self._trace.sender is not None

    def _share(self, member: Member, route: str | None, cluster: str) -> str:
        """Which part of a route's requests the cluster gets, where there are several."""
        for table in self._source.messages(member).get(pb.ROUTES, {}).values():
            for one in (one for host in table.virtual_hosts for one in host.routes):
                shares = {share.name: share.weight.value for share in one.route.weighted_clusters.clusters}
                if one.name == route and len(shares) > 1 and cluster in shares:
                    return f", by chance: {shares[cluster]} of {sum(shares.values())}"
        return ""

    # --- why ------------------------------------------------------------------------------------------------------

    def reason(
        self, way: Sequence[Passage], decider: Passage | None, record: Record | None
    ) -> tuple[str, Sequence[str]]:
        """Why it is answered so, and what would change that."""
        sender = self._trace.sender
        if self._trace.entrance is None and sender is not None:
            at = self._places.named("Sidecar", sender.namespace, sender.name)
            return remedies.no_way(sender, self._trace.host, self._trace.port, at)
        if decider is None and self._trace.reached:
            return f"{self._trace.entrance} has no proxy of the mesh: nothing stands before the application", ()
        if decider is None:
            return "the connection was refused", ()
        facts = Facts(
            self._trace.host,
            self._trace.port,
            decider.member,
            record or {},
            self._trace.answer.header("location") if self._trace.answer else None,
        )
        failures = [one["reason"] for one in decider.decisions if one["kind"] == "failed"]
        if record is None:
            return remedies.closed(decider.member, failures, self._places.around("PeerAuthentication", decider.member))
        said = _said(record)
        closest = _CLOSEST.search(said)
        if closest is not None:
            lacking = _COMMA.split(closest["lacking"])
            return remedies.closest(facts, self._places.rule(closest["policy"]), lacking)
        if said.startswith(f"{_DENIED}[none]"):
            return remedies.nothing_allowed(decider.member)
        if said.startswith(_DENIED):
            rule = self._places.rule(said.removeprefix(f"{_DENIED}[").removesuffix("]"))
            return remedies.nobody_to_ask(rule) if rule.lacks_provider else remedies.denied(rule)
        if said.startswith("jwt_authn_access_denied"):
            return remedies.token_refused(facts, said, self._places.around("RequestAuthentication", decider.member))
        return remedies.of_details(facts, said)


#: Details of requests that got as far as their cluster.
_ROUTED = re.compile("cluster_not_found|no_healthy_upstream|upstream_|response_timeout")


def _kind(member: Member) -> str:
    return "gateway" if member.kind == "router" else "sidecar"


def _last(passage: Passage) -> Record:
    return passage.records[-1] if passage.records else {}


def _said(record: Record) -> str:
    return str(record.get("details") or record.get("termination") or "")


def _is_tls_failure(record: Record) -> bool:
    return record.get("details") != "via_upstream" and "UF" in str(record.get("flags") or "")
