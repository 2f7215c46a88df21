"""Delegation: a VirtualService's rule that names another VirtualService is replaced by that one's rules.

As with Istio, each rule of the delegate takes what it does not say itself from the rule that delegates, and its
matches must be narrower than those there. A rule for which that does not hold can never apply; it is left out.

Its destinations and gateways are those of its own namespace: whoever wrote `host: web` there meant the `web` there.

What a delegate that is not there would have taken is answered with 503. Istio leaves such a rule out, so that the
requests go to whatever rule comes next, which somebody wrote for others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pymesh.control.resources import visibility
from pymesh.control.resources.diagnostics import Report, did_you_mean
from pymesh.control.resources.traffic import (
    Destination,
    DirectResponse,
    HeaderMatch,
    HttpMatch,
    HttpRoute,
    StringMatch,
    VirtualService,
)
from pymesh.control.store.references import gateway_key
from pymesh.control.store.route_conflicts import MESH

#: What a delegate's rule takes over if it has none: YAML key -> attribute.
_INHERITED: Mapping[str, str] = {
    "directResponse": "direct_response",
    "rewrite": "rewrite",
    "timeout": "timeout",
    "retries": "retries",
    "fault": "fault",
    "mirror": "mirror",
    "mirrors": "mirrors",
    "mirrorPercentage": "mirror_percentage",
    "mirrorPercent": "mirror_percent",
    "corsPolicy": "cors_policy",
    "headers": "headers",
}


def resolve(written: Sequence[VirtualService], report: Report) -> list[VirtualService]:
    """The VirtualServices that have hosts, with every delegation replaced by rules."""
    delegates = {(one.namespace, one.name): one for one in written if not one.spec.hosts}
    used: set[tuple[str, str]] = set()
    found = []
    for virtual in written:
        if not virtual.spec.hosts:
            continue
        if any(rule.delegate is not None for rule in virtual.spec.http):
            rules = [one for rule in virtual.spec.http for one in _resolved(virtual, rule, delegates, used, report)]
            virtual = replace(virtual, spec=replace(virtual.spec, http=tuple(rules)))
        found.append(virtual)
    for key, unused in delegates.items():
        if key not in used:
            report.warning(
                unused.spec.at,
                f"{unused.title} has no hosts and nothing delegates to it",
                "name its hosts, or name it as delegate in another VirtualService",
            )
    return found


def _resolved(
    root: VirtualService,
    rule: HttpRoute,
    delegates: Mapping[tuple[str, str], VirtualService],
    used: set[tuple[str, str]],
    report: Report,
) -> list[HttpRoute]:
    wanted = rule.delegate
    if wanted is None:
        return [rule]
    key = (wanted.namespace or root.namespace, wanted.name)
    delegate = delegates.get(key)
    lost = report.part()
    if delegate is None:
        known = [f"{namespace}/{name}" for namespace, name in delegates]
        lost.error(
            wanted.place("name"),
            f"there is no VirtualService {key[0]}/{key[1]} without hosts",
            did_you_mean(f"{key[0]}/{key[1]}", known, otherwise="a delegate is a VirtualService without `hosts`"),
        )
    elif not visibility.sees(root.namespace, delegate.spec.export_to, delegate.namespace):
        lost.error(
            wanted.place("name"),
            f"{delegate.title} is not exported to namespace {root.namespace!r}",
            f"add it to exportTo at {delegate.spec.place('exportTo')}",
        )
    report.add_dangling(lost)
    if delegate is None or lost.failed:
        return [replace(rule, delegate=None, direct_response=DirectResponse(status=503))]
    used.add(key)
    outer = tuple(_at_its_gateways(one, root.namespace) for one in rule.match)
    merged = []
    for number, written in enumerate(delegate.spec.http):
        inner = _at_home(written, delegate.namespace)
        matches = _matches(outer, inner.match)
        if matches is None:
            report.warning(
                inner.place("match"),
                f"http[{number}] of {delegate.title} matches more than the rule at {rule.at} that delegates to it",
                "make its matches narrower than those there; the rule is left out",
            )
            continue
        merged.append(_merged(rule, inner, matches))
    return merged


def _at_home(rule: HttpRoute, namespace: str) -> HttpRoute:
    """A delegate's rule, whose destinations and gateways keep its namespace where they stand in for others."""

    def placed(one: Destination) -> Destination:
        return replace(one, home=namespace)

    return replace(
        rule,
        match=tuple(_at_its_gateways(one, namespace) for one in rule.match),
        route=tuple(replace(one, destination=placed(one.destination)) for one in rule.route),
        mirror=placed(rule.mirror) if rule.mirror is not None else None,
        mirrors=tuple(replace(one, destination=placed(one.destination)) for one in rule.mirrors),
    )


def _at_its_gateways(match: HttpMatch, namespace: str) -> HttpMatch:
    """The match, with gateways that bear their namespace wherever they are read."""
    named = (one if one == MESH else "/".join(gateway_key(one, namespace)) for one in match.gateways)
    return replace(match, gateways=tuple(named))


def _merged(root: HttpRoute, inner: HttpRoute, matches: tuple[HttpMatch, ...]) -> HttpRoute:
    taken = {
        attribute: getattr(root, attribute)
        for key, attribute in _INHERITED.items()
        if key in root.where and key not in inner.where and hasattr(root, attribute)
    }
    return replace(inner, name="-".join(filter(None, (root.name, inner.name))), match=matches, **taken)


def _matches(root: Sequence[HttpMatch], inner: Sequence[HttpMatch]) -> tuple[HttpMatch, ...] | None:
    """Both conditions at once; None if one of the inner ones is in none of the outer ones."""
    if not root or not inner:
        return tuple(inner or root)
    found: list[HttpMatch] = []
    for narrow in inner:
        within = [_both(wide, narrow) for wide in root if not _conflict(wide, narrow)]
        if not within:
            return None
        found += within
    return tuple(found)


def _both(wide: HttpMatch, narrow: HttpMatch) -> HttpMatch:
    return replace(
        narrow,
        name="-".join(filter(None, (wide.name, narrow.name))),
        uri=narrow.uri or wide.uri,
        scheme=narrow.scheme or wide.scheme,
        method=narrow.method or wide.method,
        authority=narrow.authority or wide.authority,
        headers={**wide.headers, **narrow.headers},
        without_headers={**wide.without_headers, **narrow.without_headers},
        query_params={**wide.query_params, **narrow.query_params},
        port=narrow.port or wide.port,
        source_labels={**wide.source_labels, **narrow.source_labels},
        source_namespace=narrow.source_namespace or wide.source_namespace,
        gateways=narrow.gateways or wide.gateways,
    )


def _conflict(wide: HttpMatch, narrow: HttpMatch) -> bool:
    texts = [
        (wide.uri, narrow.uri),
        (wide.scheme, narrow.scheme),
        (wide.method, narrow.method),
        (wide.authority, narrow.authority),
        *((wide.headers.get(name), one) for name, one in narrow.headers.items()),
        *((wide.without_headers.get(name), one) for name, one in narrow.without_headers.items()),
        *((wide.query_params.get(name), one) for name, one in narrow.query_params.items()),
    ]
    return (
        any(_is_wider(outer, inner) for outer, inner in texts)
        or wide.ignore_uri_case != narrow.ignore_uri_case
        or bool(wide.port and narrow.port and wide.port != narrow.port)
        or any(wide.source_labels.get(name, value) != value for name, value in narrow.source_labels.items())
        or wide.source_namespace not in ("", narrow.source_namespace)
        or bool(wide.gateways and not set(narrow.gateways) <= set(wide.gateways))
    )


def _is_wider(outer: StringMatch | HeaderMatch | None, inner: StringMatch | HeaderMatch | None) -> bool:
    """Whether the inner match could hold where the outer one does not."""
    if outer is None or inner is None:
        return False
    if outer.regex is not None or inner.regex is not None:
        return True  # which of two patterns takes more is not looked into
    if outer.exact is not None:
        return inner.exact != outer.exact
    if outer.prefix is not None:
        begins = inner.exact if inner.exact is not None else inner.prefix
        return begins is None or not begins.startswith(outer.prefix)
    return False
