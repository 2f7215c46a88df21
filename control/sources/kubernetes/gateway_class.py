"""The GatewayClass that the Gateways of this mesh name: made where the cluster has the Gateway API, if nobody has."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from pymesh.control.resources.gateway_api import GROUP
from pymesh.control.sources.kubernetes.client import ApiClient, ApiError
from pymesh.control.sources.kubernetes.kinds import Kind
from pymesh.control.sources.kubernetes.reflector import Reflector
from pymesh.control.sources.kubernetes.status import Leader
from pymesh.control.status.gateways import CLASS, CONTROLLER
from pymesh.control.status.objects import Object

log = logging.getLogger(__name__)

_KIND = Kind(GROUP, "GatewayClass", ("v1", "v1beta1"), "gatewayclasses", f"metadata.name={CLASS}")
_MADE: Final[dict[str, Any]] = {
    "apiVersion": f"{GROUP}/v1",
    "kind": "GatewayClass",
    "metadata": {"name": CLASS},
    "spec": {"controllerName": CONTROLLER, "description": "Gateways that pymesh's proxies run"},
}
_RESYNC_SECONDS = 30.0


@dataclass(slots=True)
class GatewayClass:
    """Follows the class, and makes it while this control plane holds the Lease."""

    api: ApiClient
    leader: Leader
    #: Called when the class has changed.
    told: Callable[[], None]
    _reflector: Reflector = field(init=False)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._reflector = Reflector(self.api, _KIND, self._seen)

    @property
    def objects(self) -> list[Object]:
        """The class, if it is there."""
        found = self._reflector.objects.values()
        return [Object(str(one["apiVersion"]), str(one["kind"]), one) for one in found]

    def changed(self) -> None:
        """It may be our turn."""
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._reflector.run())
            group.create_task(self._keep())

    def _seen(self) -> None:
        self._changed.set()
        self.told()

    async def _keep(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_RESYNC_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            if self.leader.leads and self._reflector.is_synced and not self._reflector.objects:
                await self._make()

    async def _make(self) -> None:
        try:
            await self.api.request("POST", _KIND.path("v1"), _MADE)
        except ApiError as error:
            # 404: this cluster has no Gateway API. 409: it is there, and will be seen.
            if error.code not in (404, 409):
                log.warning("the GatewayClass is not made", extra={"class": CLASS, "reason": str(error)})
