"""Where what a proxy names was written: rules of policies and routes by the names that the control plane gives them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pymesh.explain.source import Member, Written

#: Istio's name of a rule, which the control plane gives to the policies of a filter. Before a rule of action CUSTOM
#: stands its provider, and behind it if that is not there to be asked.
_RULE = re.compile(
    r"(?P<custom>istio-ext-authz-.+-)?ns\[(?P<namespace>[^\]]*)\]-policy\[(?P<name>[^\]]*)\]-rule\[(?P<rule>\d+)\]"
    r"(?P<unasked>-deny-due-to-bad-CUSTOM-action)?"
)
_ROUTES = ("VirtualService", "HTTPRoute", "GRPCRoute")
_ROOT_NAMESPACE = "istio-system"


@dataclass(frozen=True, slots=True)
class Rule:
    """A filter's policy as the rule that it is."""

    title: str
    #: Where it stands; empty if that is not known.
    at: str = ""
    #: Whether its provider is asked about what it matches.
    asks: bool = False
    #: Whether its provider is not there to be asked.
    lacks_provider: bool = False

    @property
    def place(self) -> str:
        """Its place, to be put behind something."""
        return f" ({self.at})" if self.at else ""


class Places:
    """The resources of a mesh, by their names."""

    def __init__(self, written: Iterable[Written]) -> None:
        self._written = {(one.kind, one.namespace, one.name): one for one in written}

    def rule(self, policy: str) -> Rule:
        """The rule that a filter's policy is."""
        found = _RULE.fullmatch(policy)
        if found is None:
            return Rule(policy)
        one = self._written.get(("AuthorizationPolicy", found["namespace"], found["name"]))
        return Rule(
            f"AuthorizationPolicy {found['namespace']}/{found['name']} rule {found['rule']}",
            one.parts.get(found["rule"], one.at) if one else "",
            asks=found["custom"] is not None and found["unasked"] is None,
            lacks_provider=found["unasked"] is not None,
        )

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
