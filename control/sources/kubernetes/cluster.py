"""What a control plane does in its cluster beside serving: it has workloads' tokens judged, and writes as long as it
holds the Lease: statuses, Events, the GatewayClass, what runs Gateways, and the roots that pods begin with. Whom the
API server trusts when it calls webhooks, each writes that serves them.

Any number of control planes may run; each judges and serves, one writes.
"""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

from pymesh.control.admin import rejections
from pymesh.control.admission.serving import SettingsFile
from pymesh.control.admission.trust import TrustKeeper
from pymesh.control.identity.rotation import Rotation
from pymesh.control.identity.spiffe import Identity
from pymesh.control.identity.token_review import TokenReviews
from pymesh.control.identity.tokens import UnavailableError
from pymesh.control.resources.gateway_api import GROUP
from pymesh.control.sources.kubernetes.client import ApiClient, ApiError
from pymesh.control.sources.kubernetes.gateway_class import GatewayClass
from pymesh.control.sources.kubernetes.gateway_deployments import GatewayDeployments
from pymesh.control.sources.kubernetes.lease import Lease
from pymesh.control.sources.kubernetes.mesh import KubernetesMesh
from pymesh.control.sources.kubernetes.roots import RootsWriter
from pymesh.control.sources.kubernetes.status import State, StatusWriter, by_resource
from pymesh.control.xds.fleet import Fleet

LEASE: Final = "pymesh-status"


class Plane(Protocol):
    """The control plane that this is beside."""

    @property
    def fleet(self) -> Fleet:
        """Its proxies."""

    @property
    def rotation(self) -> Rotation:
        """Its authority."""


class Cluster:
    """See the module."""

    def __init__(
        self,
        client: ApiClient,
        mesh: KubernetesMesh,
        namespace: str,
        trust_domain: str,
        *,
        has_webhooks: bool = False,
        injection: SettingsFile | None = None,
    ) -> None:
        """``client`` is ours alone, and closed when we have run; ``namespace`` is that of the control plane.

        ``injection`` tells what proxies are to be started with; without it nobody starts those of Gateways.
        """
        self._client = client
        self._mesh = mesh
        self._namespace = namespace
        self._has_webhooks = has_webhooks
        # As client-go's: another process on this machine is another candidate.
        self._identity = f"{socket.gethostname()}_{uuid.uuid4()}"
        self._lease = Lease(client, namespace, LEASE, self._identity)
        self._writers: tuple[StatusWriter | RootsWriter | GatewayClass | GatewayDeployments, ...] = ()
        self._class = GatewayClass(client, self._lease, self._changed)
        self._deployments: GatewayDeployments | None = None
        if injection is not None:
            self._deployments = GatewayDeployments(client, self._lease, self._gateways, injection.current)
        self.authenticator = TokenReviews(self._create, trust_domain, runs_gateway=self._runs_gateway)

    async def run(self, plane: Plane) -> None:
        """Beside a control plane that serves, until cancelled."""
        fleet, rotation = plane.fleet, plane.rotation
        status = StatusWriter(
            self._client, self._lease, self._state, lambda: by_resource(self._refused(fleet)), self._identity
        )
        roots = RootsWriter(self._client, self._lease, self._mesh.namespaces, lambda: rotation.trust.bundle)
        deployments = (self._deployments,) if self._deployments is not None else ()
        self._writers = (status, roots, self._class, *deployments)
        rotation.on_change(roots.changed)
        self._mesh.on_change(self._changed)
        try:
            async with asyncio.TaskGroup() as group:
                for one in self._writers:
                    group.create_task(one.run())
                group.create_task(self._lease.run(self._changed))
                if self._has_webhooks:
                    keeper = TrustKeeper(self._client, self._namespace, lambda: rotation.trust.bundle, ApiError)
                    rotation.on_change(keeper.changed)
                    group.create_task(keeper.run())
        finally:
            self._writers = ()
            await self._client.close()

    def _changed(self) -> None:
        for one in self._writers:
            one.changed()

    def _state(self) -> State:
        state = self._mesh.state()
        return replace(state, objects=[*state.objects, *self._class.objects])

    def _gateways(self) -> tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]]:
        return self._mesh.present("Gateway", GROUP), self._mesh.present("Service")

    def _runs_gateway(self, identity: Identity) -> bool:
        return self._deployments is not None and self._deployments.runs(identity.namespace, identity.service_account)

    def _refused(self, fleet: Fleet) -> Iterator[tuple[str, Sequence[Mapping[str, Any]]]]:
        """What proxies have refused: node, and problems with the resources behind them."""
        for one in fleet.connections():
            for type_url, reason in one.session.rejections():
                yield one.node.id, rejections.traced(one.snapshot.get(type_url), reason, self._mesh.origins(one.node))

    async def _create(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            return await self._client.request("POST", path, body)
        except ApiError as error:
            raise UnavailableError(f"the API server does not judge tokens: {error}") from error
