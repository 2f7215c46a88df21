"""Runs the Gateways of our class: each has a Deployment and a Service, as long as it is there and nobody else runs it.

```text
Gateways, Services --wanted--> objects --server-side apply--> API server
what is labelled as ours, and of no Gateway or of one that somebody else runs --delete--> API server
```
Somebody else runs a Gateway when a Service that is not ours selects the proxies that carry its name, as that of
`pymesh install` does. A Gateway that cannot be read keeps what it has; of one that can be read in part the listeners
are run that can. What was written is not remembered: everything is applied again when a Gateway has changed, and now
and then, so that a change by hand does not last.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pymesh.control.injection.settings import InjectionSettings
from pymesh.control.install import gateways
from pymesh.control.resources.gateway_api import GROUP, KubeGateway
from pymesh.control.resources.objects import Object
from pymesh.control.resources.reduced import readable
from pymesh.control.sources.kubernetes.client import APPLY, JSON, ApiClient, ApiError
from pymesh.control.sources.kubernetes.kinds import plural
from pymesh.control.sources.kubernetes.status import Leader
from pymesh.control.status.gateways import CLASS
from pymesh.control.waiting import changed_within

log = logging.getLogger(__name__)

_MANAGER: Final = "pymesh-gateways"
RESYNC_SECONDS: Final = 60.0
_RETRY_SECONDS: Final = 2.0
#: Version and kind of what there may be, in the order in which it goes.
_MADE: Final = (("v1", "Service"), ("apps/v1", "Deployment"), ("v1", "ServiceAccount"))

Key = tuple[str, str]


@dataclass(slots=True)
class GatewayDeployments:
    """See the module. Writes while this control plane holds the Lease."""

    api: ApiClient
    leader: Leader
    #: All Gateways of the Gateway API and all Services, as the API server has them.
    present: Callable[[], tuple[Sequence[Object], Sequence[Object]]]
    settings: Callable[[], InjectionSettings]
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    #: What the last round was about that did everything.
    _done: object = None

    def changed(self) -> None:
        """There may be something to do."""
        self._changed.set()

    def runs(self, namespace: str, account: str) -> bool:
        """Whether a service account is that of proxies that run a Gateway here, be it one that cannot be read: those
        go on with its last good listeners.
        """
        # Asked for every proxy, again and again: nothing is decoded for it.
        documents, services = self.present()
        name = gateways.of_account(account, CLASS)
        key = namespace, name
        is_ours = any(_key(one) == key and _class(one) == CLASS for one in documents) if name else False
        return is_ours and key not in set(_run_by_others(services))

    async def run(self) -> None:
        """Until cancelled."""
        wait = RESYNC_SECONDS
        while True:
            if not await changed_within(self._changed, wait):
                self._done = None
            wait = RESYNC_SECONDS
            if self.leader.leads and not await self.round():
                wait = _RETRY_SECONDS

    async def round(self) -> bool:
        """Do what is not yet done; whether all of it is."""
        wanted, others = self._wanted()
        settings = self.settings()
        about = (wanted, others, settings)
        if about == self._done:
            return True
        made = {
            _path(one): one
            for key, gateway in wanted.items()
            if gateway is not None and key not in others
            for one in gateways.objects(gateway, settings)
        }
        done = True
        for path, one in made.items():
            query = {"fieldManager": _MANAGER, "force": "true"}
            done &= await self._asked("PATCH", path, one, query=query, content_type=APPLY)
        try:
            async for one in self._superfluous(made, wanted, others):
                precondition = {"preconditions": {"uid": one["metadata"]["uid"]}}
                done &= await self._asked("DELETE", _path(one), precondition, content_type=JSON)
        except ApiError as error:
            log.warning("what runs Gateways cannot be seen", extra={"reason": str(error)})
            done = False
        self._done = about if done else None
        return done

    def _wanted(self) -> tuple[dict[Key, KubeGateway | None], set[Key]]:
        """The Gateways of our class (None: it cannot be read), and those that somebody else runs."""
        documents, services = self.present()
        found: dict[Key, KubeGateway | None] = {}
        for one in documents:
            if _class(one) == CLASS:
                read = readable(one)
                found[_key(one)] = read if isinstance(read, KubeGateway) else None
        return found, set(_run_by_others(services)) if found else set()

    async def _superfluous(
        self, made: Mapping[str, Object], wanted: Mapping[Key, KubeGateway | None], others: set[Key]
    ) -> Any:
        for version, kind in _MADE:
            root = f"/apis/{version}" if "/" in version else f"/api/{version}"
            query = {"labelSelector": f"{gateways.MANAGED_LABEL}={gateways.MANAGED}"}
            answer = await self.api.request("GET", f"{root}/{plural(kind)}", query=query)
            for item in answer.get("items") or ():
                one = {**item, "apiVersion": version, "kind": kind}
                name = (one["metadata"].get("labels") or {}).get(KubeGateway.PROXY_LABEL, "")
                key = one["metadata"]["namespace"], name
                if _path(one) in made or one["metadata"].get("deletionTimestamp"):
                    continue
                if key in others or (key not in wanted and await self._is_gone(key)):
                    yield one

    async def _is_gone(self, key: Key) -> bool:
        """Whether there is no such Gateway of our class, as the API server says now. A server that has just started may
        not serve the kind yet (404): to us it has no Gateways then, and those that run must not go for it.
        """
        namespace, name = key
        path, only = f"/apis/{GROUP}/v1/namespaces/{namespace}/gateways", {"fieldSelector": f"metadata.name={name}"}
        try:
            answer = await self.api.request("GET", path, query=only)
        except ApiError as error:
            log.warning("it is not known whether the Gateway is gone", extra={"path": path, "reason": str(error)})
            return False
        return not any(_class(one) == CLASS for one in answer.get("items") or ())

    async def _asked(self, method: str, path: str, body: Any, **how: Any) -> bool:
        if not self.leader.leads:
            return False
        try:
            await self.api.request(method, path, body, **how)
        except ApiError as error:
            if method == "DELETE" and error.code in (404, 409):
                return True  # it is gone, or another by now
            log.warning("what runs a Gateway is not as it should be", extra={"path": path, "reason": str(error)})
            # Trying again mends nothing that the server finds wrong, nor a namespace that ends.
            return error.code in (400, 404, 422)
        return True


def _run_by_others(services: Sequence[Object]) -> Iterator[Key]:
    for one in services:
        selected = ((one.get("spec") or {}).get("selector") or {}).get(KubeGateway.PROXY_LABEL)
        labels = one["metadata"].get("labels") or {}
        if selected and labels.get(gateways.MANAGED_LABEL) != gateways.MANAGED:
            yield one["metadata"]["namespace"], selected


def _path(one: Object) -> str:
    version, meta = one["apiVersion"], one["metadata"]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    return f"{root}/namespaces/{meta['namespace']}/{plural(one['kind'])}/{meta['name']}"


def _class(one: Object) -> str:
    return str((one.get("spec") or {}).get("gatewayClassName", ""))


def _key(one: Object) -> Key:
    return one["metadata"]["namespace"], one["metadata"]["name"]
