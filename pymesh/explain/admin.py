"""A mesh from a running control plane: the proxies that are connected, and what each of them was sent.

Read from its admin pages. Secrets are not on them, so TLS that a gateway terminates cannot be looked into this way.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from google.protobuf import json_format

from pymesh.control.config import DEFAULT_TRUST_DOMAIN
from pymesh.control.identity.spiffe import Identity
from pymesh.control.xds import pb
from pymesh.explain.source import Member, Messages, SourceError, Written

_TIMEOUT_SECONDS = 10.0


class AdminSource:
    """The mesh of a control plane at ``HOST:PORT``."""

    def __init__(self, address: str) -> None:
        """Ask who is connected. Raises :class:`SourceError`."""
        self._address = address
        self._members = [_member(one) for one in self._page("/debug/syncz")]
        if not self._members:
            raise SourceError(f"no proxy is connected to the control plane at {address}")
        self._dumps: dict[Member, Messages] = {}

    @property
    def trust_domain(self) -> str:
        """That of its identities."""
        named = (one.identity.split("/")[2] for one in self._members if one.identity)
        return next(named, DEFAULT_TRUST_DOMAIN)

    def members(self) -> Sequence[Member]:
        """Its proxies, by name."""
        return sorted(self._members, key=lambda one: (one.namespace, one.name))

    def messages(self, member: Member) -> Messages:
        """What a proxy was sent. Raises :class:`SourceError`."""
        if member not in self._dumps:
            dump = self._page(f"/debug/config_dump?proxyID={quote(member.node_id)}")
            self._dumps[member] = {url: _decoded(url, kind["resources"]) for url, kind in dump["types"].items()}
        return self._dumps[member]

    def stranger(self, identity: Identity) -> Member | None:
        """What would be sent to somebody who is not connected is not known."""
        return None

    def why_not(self, name: str) -> str | None:
        """Of workloads without a proxy nothing is known."""
        return None

    def written(self) -> Sequence[Written]:
        """The resources in use."""
        return [
            Written(one["kind"], one["namespace"], one["name"], one["at"])
            for one in self._page("/debug/configz")["resources"]
        ]

    def _page(self, path: str) -> Any:
        url = f"http://{self._address}{path}"
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as answered:
                return json.loads(answered.read())
        except urllib.error.HTTPError as error:
            raise SourceError(f"{url}: {error.code} {error.reason}") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            hint = "hint: --admin is the control plane's admin address, as in 127.0.0.1:15014"
            raise SourceError(f"{url}: {reason}\n{hint}") from None


def _member(shown: dict[str, Any]) -> Member:
    kind, address, title, _ = shown["proxy"].split("~")
    name, _, namespace = title.rpartition(".")
    return Member("router" if kind == "router" else "sidecar", name, namespace, address, shown["identity"])


def _decoded(url: str, resources: Sequence[dict[str, Any]]) -> dict[str, Any]:
    found = {}
    for one in resources:
        if "resource" in one:
            try:
                found[one["name"]] = pb.from_json(url.removeprefix(pb.TYPE_PREFIX), one["resource"])
            except json_format.ParseError as error:
                hint = "hint: is the control plane of another version than this command?"
                raise SourceError(f"{one['name']}: {error}\n{hint}") from None
    return found
