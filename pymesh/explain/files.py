"""A mesh from files: folders of resources as ``pymesh control`` reads them, or the mesh file of ``pymesh up``."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pymesh.control.identity.spiffe import Identity
from pymesh.control.resources.diagnostics import Diagnostic, Position, Report, did_you_mean
from pymesh.control.resources.gateway_api import HTTPRoute, KubeGateway
from pymesh.control.resources.gateway_routes import GRPCRoute
from pymesh.control.resources.load import load_text
from pymesh.control.resources.metadata import Resource
from pymesh.control.resources.security import AuthorizationPolicy
from pymesh.control.resources.traffic import VirtualService
from pymesh.control.resources.workloads import WorkloadEntry
from pymesh.control.sources import files
from pymesh.control.store.store import MeshOptions, Store, assemble
from pymesh.control.store.workloads import TLS_MODE_LABEL, Workload, from_entry
from pymesh.control.translate import translate
from pymesh.control.translate.names import spiffe_id
from pymesh.control.translate.proxy import Interception, Proxy
from pymesh.explain.source import Member, Messages, SourceError, Written
from pymesh.local import meshfile, plan
from pymesh.local.errors import LocalMeshError
from pymesh.local.resources import documents

#: Ports of a local mesh, which gets free ones when it is started.
_FIRST_PORT = 20_001


@dataclass(frozen=True, slots=True)
class Change:
    """Resources that no file has: they take the place of those of the same kind and name. Or one that goes."""

    #: What the text is called; of what goes kind and name, as in ``VirtualService shop/reviews``.
    title: str
    #: None: it goes.
    text: str | None

    def made(self, resources: Sequence[Resource], report: Report) -> list[Resource]:
        """The resources after it."""
        newer = load_text(self.title, self.text, report) if self.text is not None else []
        gone = {self.title} if self.text is None else {one.title for one in newer}
        if self.text is None and all(one.title != self.title for one in resources):
            hint = did_you_mean(self.title, [one.title for one in resources])
            report.error(Position("delete"), f"there is no {self.title}", hint)
        return [*(one for one in resources if one.title not in gone), *newer]


class FileSource:
    """The mesh that files describe. A workload is taken to run with the sidecar that its resources say."""

    def __init__(
        self,
        folders: Sequence[Path],
        options: MeshOptions | None = None,
        *,
        changes: Sequence[Change] = (),
    ) -> None:
        """Read everything, then change it. Raises :class:`SourceError`."""
        self._options = options or MeshOptions()
        report = Report()
        resources, local = read(folders, report)
        for change in changes:
            resources = change.made(resources, report)
        self._store = assemble(resources, self._options, report)
        if report.failed:
            raise SourceError("\n".join(str(one) for one in report.diagnostics if one.severity == "error"))
        self._written = [
            Written(one.title.partition(" ")[0], one.namespace, one.name, str(one.at), _parts(one)) for one in resources
        ]
        entries = [from_entry(one) for one in resources if isinstance(one, WorkloadEntry)]
        bare = [one for one in entries if not one.in_mesh]
        self._without_proxy = {name for one in bare for name in (one.name, f"{one.name}.{one.namespace}")}
        self._proxies: dict[Member, Proxy] = {}
        self._messages: dict[Member, Messages] = {}
        for proxy in (*_gateways(self._store, local), *self._sidecars(entries)):
            self._add(proxy)

    @property
    def store(self) -> Store:
        """The resources, as the control plane reads them."""
        return self._store

    @property
    def trust_domain(self) -> str:
        """That of its identities."""
        return self._options.trust_domain

    def warnings(self) -> set[Diagnostic]:
        """What translation warns of, for any of its proxies."""
        return {one for proxy in self._proxies.values() for one in translate(self._store, proxy).warnings}

    def members(self) -> Sequence[Member]:
        """Its proxies, by name."""
        return sorted(self._proxies, key=lambda one: (one.namespace, one.name))

    def messages(self, member: Member) -> Messages:
        """What a proxy is told."""
        if member not in self._messages:
            self._messages[member] = translate(self._store, self._proxies[member]).messages
        return self._messages[member]

    def stranger(self, identity: Identity) -> Member | None:
        """A captured sidecar without labels in the identity's namespace."""
        name = identity.service_account
        proxy = Proxy(
            "sidecar",
            "192.0.2.2",
            name,
            identity.namespace,
            {},
            name,
            interception="REDIRECT",
        )
        return self._add(proxy, str(identity))

    def written(self) -> Sequence[Written]:
        """The resources in use."""
        return self._written

    def why_not(self, name: str) -> str | None:
        """Why a workload of this name is no member, if there is one."""
        if name in self._without_proxy:
            return f"has no proxy: its WorkloadEntry has neither a serviceAccount nor the label {TLS_MODE_LABEL}: istio"
        return None

    def _add(self, proxy: Proxy, identity: str | None = None) -> Member:
        own = spiffe_id(self.trust_domain, proxy.namespace, proxy.service_account)
        member = Member(proxy.kind, proxy.name, proxy.namespace, proxy.address, identity or own)
        self._proxies[member] = proxy
        return member

    def _sidecars(self, entries: Sequence[Workload]) -> Iterator[Proxy]:
        served = (ported for service in self._store.services.values() for ported in service.backends.values())
        backends = (one.workload for ported in served for one in ported)
        seen: set[tuple[str, str]] = set()
        for one in (*entries, *backends):
            if one.in_mesh and (one.namespace, one.name) not in seen:
                seen.add((one.namespace, one.name))
                interception = self._interception(one)
                yield Proxy(
                    "sidecar",
                    one.address,
                    one.name,
                    one.namespace,
                    one.labels,
                    one.service_account or "default",
                    interception=interception,
                    locality=one.locality,
                )

    def _interception(self, workload: Workload) -> Interception:
        """Whose Sidecar lays out explicit ports is not captured; everybody else is."""
        resource = self._store.sidecar(workload.namespace, workload.labels)
        if resource is None:
            return "REDIRECT"
        explicit = [one for one in resource.spec.egress if one.port is not None and one.capture_mode == "NONE"]
        return "NONE" if explicit or any(one.bind for one in resource.spec.ingress) else "REDIRECT"


def read(folders: Sequence[Path], report: Report) -> tuple[list[Resource], list[plan.Workload]]:
    """The resources in folders, and the workloads of their mesh files. Raises :class:`SourceError` for one of those."""
    local: list[plan.Workload] = []
    next_port = itertools.count(_FIRST_PORT).__next__
    paths: list[Path] = []
    resources: list[Resource] = []
    for folder in folders:
        if (folder / meshfile.FILE_NAME).is_file():
            try:
                mesh = meshfile.read(folder)
            except LocalMeshError as error:
                raise SourceError(str(error)) from None
            placed = plan.workloads(mesh, next_port)
            resources += load_text(f"generated from {folder / meshfile.FILE_NAME}", documents(placed), report)
            local += placed
            # As they were named, for people: the mesh file's own are absolute.
            paths += [folder / one.relative_to(mesh.folder) for one in mesh.config]
        else:
            paths.append(folder)
    resources += files.read(paths, report)
    return resources, local


def _parts(one: Resource) -> dict[str, str]:
    """Where the rules of a resource stand: those of policies by number, routes by their name."""
    if isinstance(one, AuthorizationPolicy):
        return {str(number): str(rule.at) for number, rule in enumerate(one.spec.rules)}
    if isinstance(one, VirtualService):
        return {rule.name or f"{one.name}.{number}": str(rule.at) for number, rule in enumerate(one.spec.http)}
    if isinstance(one, HTTPRoute):
        return {rule.name or f"{one.name}.{number}": str(rule.at) for number, rule in enumerate(one.spec.rules)}
    if isinstance(one, GRPCRoute):
        return {rule.name or f"{one.name}.{number}": str(rule.at) for number, rule in enumerate(one.spec.rules)}
    return {}


def _gateways(store: Store, local: Sequence[plan.Workload]) -> Iterator[Proxy]:
    """Those of the mesh file; else one for each Gateway that no proxy is named for, with the labels that it selects."""
    known = [one for one in local if one.gateway]
    for one in known:
        yield Proxy("router", plan.ADDRESS, one.name, one.namespace, one.labels, one.service_account)
    for gateway in store.gateways:
        if not any(gateway.spec.selector.items() <= one.labels.items() for one in known):
            yield Proxy("router", plan.ADDRESS, gateway.name, gateway.namespace, gateway.spec.selector, gateway.name)
    for kube in store.kube_gateways:
        if not any(one.labels.get(KubeGateway.PROXY_LABEL) == kube.name for one in known):
            labels = {KubeGateway.PROXY_LABEL: kube.name}
            yield Proxy("router", plan.ADDRESS, kube.name, kube.namespace, labels, kube.name)
