"""Where what a proxy names was written: rules of policies and routes by the names that the control plane gives them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pymesh.explain.source import Member, Written

#: Istio's name of a rule, which the control plane gives to the policies of a filter. Before a rule of action CUSTOM
#: stands its provider, and behind it if that is not there to be asked.
_RULE = re.compile(
    r"(?P<custom>istio-ext-authz-.+-)?ns\[(?P<namespace>[^\]]*)\]-policy\[(?P<name>[^\]]*)\]-rule\[(?P<rule>\d+)\]"
    r"(?P<unasked>-deny-due-to-bad-CUSTOM-action)?"
)
_ROUTES = ("VirtualService", "HTTPRoute", "GRPCRoute")
_ROOT_NAMESPACE = "istio-system"


class Places:
    """The resources of a mesh, by their names."""

    def __init__(self, written: Iterable[Written]) -> None:
        self._written = {(one.kind, one.namespace, one.name): one for one in written}

    def rule(self, policy: str) -> str:
        """A filter's policy as the rule that it is."""
        found = _RULE.fullmatch(policy)
        if found is None:
            return policy
        return f"AuthorizationPolicy {found['namespace']}/{found['name']} rule {found['rule']}"

    def of_rule(self, policy: str) -> str:
        """Where the rule stands; empty if that is not known."""
        found = _RULE.fullmatch(policy)
        if found is None:
            return ""
        one = self._written.get(("AuthorizationPolicy", found["namespace"], found["name"]))
        return one.parts.get(found["rule"], one.at) if one else ""

    def asks(self, policy: str) -> bool:
        """Whether the rule's provider is asked about what it matches."""
        found = _RULE.fullmatch(policy)
        return found is not None and found["custom"] is not None and found["unasked"] is None

    def lacks_provider(self, policy: str) -> bool:
        """Whether the rule's provider is not there to be asked."""
        found = _RULE.fullmatch(policy)
        return found is not None and found["unasked"] is not None

    def of_route(self, route: str) -> str:
        """Where a route of this name stands; there may be several."""
        places = [one.parts[route] for one in self._written.values() if one.kind in _ROUTES and route in one.parts]
        return ", ".join(places)

    def named(self, kind: str, namespace: str, name: str) -> str:
        """A resource with its place; empty if there is none."""
        one = self._written.get((kind, namespace, name))
        return _shown(one) if one else ""

    def around(self, kind: str, member: Member) -> list[str]:
        """The resources of a kind that may be for a workload."""
        namespaces = (member.namespace, _ROOT_NAMESPACE)
        return [_shown(one) for one in self._written.values() if one.kind == kind and one.namespace in namespaces]


def _shown(one: Written) -> str:
    return f"{one.kind} {one.namespace}/{one.name} ({one.at})"
