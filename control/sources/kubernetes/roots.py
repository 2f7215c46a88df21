"""The roots that a pod trusts at first: a ConfigMap in each namespace, by Istio's name, kept as the authority's are.

A pod's proxy begins with these and is told of changes on its stream; so they matter to those that start. Namespaces are
independent: one whose map cannot be written (it is immutable, a webhook forbids it, the namespace ends) keeps none of
the others from theirs, is told of once, and is tried again at each look around.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from pymesh.control.sources.kubernetes.client import APPLY, ApiClient, ApiError
from pymesh.control.sources.kubernetes.status import Leader
from pymesh.control.waiting import changed_within

log = logging.getLogger(__name__)

CONFIG_MAP: Final = "istio-ca-root-cert"
KEY: Final = "root-cert.pem"
_MANAGER = "pymesh-control"
#: Nobody's workloads are there.
_LEFT_OUT = frozenset({"kube-system", "kube-public", "kube-node-lease"})
#: A map that somebody removed is back after this long.
RESYNC_SECONDS = 30.0
_RETRY_SECONDS = 2.0


@dataclass(slots=True)
class RootsWriter:
    """Keeps the maps, while this control plane holds the Lease."""

    api: ApiClient
    leader: Leader
    namespaces: Callable[[], Iterable[str]]
    #: PEM.
    bundle: Callable[[], str]
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    #: Namespace -> why its map is not as it should be.
    _told: dict[str, str] = field(default_factory=dict)
    #: The bundle and the namespaces that it was written to, as far as it could be.
    _done: tuple[str, frozenset[str]] | None = None

    def changed(self) -> None:
        """There is a new namespace, or a new root."""
        self._changed.set()

    async def run(self) -> None:
        """Write until cancelled."""
        wait = RESYNC_SECONDS
        while True:
            has_changed = await changed_within(self._changed, wait)
            wait = RESYNC_SECONDS
            if has_changed and self._done == self._wanted():
                continue  # something else has
            if self.leader.leads:
                try:
                    if not await self.round():
                        wait = _RETRY_SECONDS
                except ApiError as error:
                    log.warning("the roots are not written yet", extra={"reason": str(error)})
                    wait = _RETRY_SECONDS

    async def round(self) -> bool:
        """Write those that are missing or old; False: some are worth another try soon.

        Raises :class:`ApiError` if nobody can tell which they are.
        """
        only = {"fieldSelector": f"metadata.name={CONFIG_MAP}"}
        answer = await self.api.request("GET", "/api/v1/configmaps", query=only)
        known = {one["metadata"]["namespace"]: one.get("data") or {} for one in answer.get("items") or ()}
        bundle, namespaces = wanted = self._wanted()
        wrong: dict[str, str] = {}
        is_done = True
        for namespace in sorted(namespaces):
            if known.get(namespace, {}).get(KEY) == bundle or not self.leader.leads:
                continue
            try:
                await self._apply(namespace, bundle)
            except ApiError as error:
                is_done &= _is_final(error)
                wrong[namespace] = str(error)
                if self._told.get(namespace) != wrong[namespace]:
                    log.warning("no roots there", extra={"namespace": namespace, "reason": str(error)})
        self._told, self._done = wrong, wanted if is_done and self.leader.leads else None
        return is_done

    def _wanted(self) -> tuple[str, frozenset[str]]:
        return self.bundle(), frozenset(self.namespaces()) - _LEFT_OUT

    async def _apply(self, namespace: str, bundle: str) -> None:
        path = f"/api/v1/namespaces/{namespace}/configmaps/{CONFIG_MAP}"
        wanted = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": CONFIG_MAP, "namespace": namespace},
            "data": {KEY: bundle},
        }
        query = {"fieldManager": _MANAGER, "force": "true"}
        await self.api.request("PATCH", path, wanted, query=query, content_type=APPLY)


def _is_final(error: ApiError) -> bool:
    """Whether the same would be answered in a moment: the server has understood, and refuses."""
    return 400 <= error.code < 500 and error.code not in (408, 409, 429)
