"""Whom the API server trusts when it calls the webhooks: the mesh's roots, as `caBundle` of both configurations.

Written when the control plane starts, when the roots change, and when somebody else has changed the configurations (an
installation that is made anew has none): it is looked at again and again, since nothing else would tell.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from pymesh.control.install.webhooks import injector_name, validator_name

log = logging.getLogger(__name__)

RESYNC_SECONDS = 30.0
RETRY_SECONDS = 1.0
_ROOT: Final = "/apis/admissionregistration.k8s.io/v1"
_JSON_PATCH: Final = "application/json-patch+json"


class Api(Protocol):
    """Requests to the API server."""

    async def request(self, method: str, path: str, body: Any = None, *, content_type: str = ...) -> dict[str, Any]:
        """The document of the answer."""


@dataclass(slots=True)
class TrustKeeper:
    """See the module."""

    api: Api
    #: Of the installation.
    namespace: str
    #: PEM.
    bundle: Callable[[], str]
    #: What the API raises when it cannot be asked, or refuses.
    failure: type[Exception]
    resync_seconds: float = RESYNC_SECONDS
    retry_seconds: float = RETRY_SECONDS
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _told: str = ""

    def changed(self) -> None:
        """There are other roots."""
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._changed.clear()
            wait = self.resync_seconds
            try:
                await self.round()
                self._told = ""
            except self.failure as error:
                wait = self.retry_seconds
                if str(error) != self._told:
                    self._told = str(error)
                    log.warning("the webhooks' authorities are not written yet", extra={"reason": str(error)})
            try:
                async with asyncio.timeout(wait):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def round(self) -> None:
        """Write what is missing or old."""
        for kind, name in (
            ("mutatingwebhookconfigurations", injector_name(self.namespace)),
            ("validatingwebhookconfigurations", validator_name(self.namespace)),
        ):
            path = f"{_ROOT}/{kind}/{name}"
            found = await self.api.request("GET", path)
            patch = patch_of(found, self.bundle())
            if patch:
                await self.api.request("PATCH", path, patch, content_type=_JSON_PATCH)
                log.info("the API server trusts our authorities", extra={"configuration": name})


def patch_of(configuration: dict[str, Any], bundle: str) -> list[dict[str, Any]]:
    """What is to be changed; empty if every webhook has the bundle. For the webhooks as they were read."""
    wanted = base64.b64encode(bundle.encode()).decode()
    made: list[dict[str, Any]] = []
    for number, one in enumerate(configuration.get("webhooks") or ()):
        if one.get("clientConfig", {}).get("caBundle") != wanted:
            made += [
                {"op": "test", "path": f"/webhooks/{number}/name", "value": one["name"]},
                {"op": "add", "path": f"/webhooks/{number}/clientConfig/caBundle", "value": wanted},
            ]
    return made
