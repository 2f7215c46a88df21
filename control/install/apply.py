"""Puts objects into a cluster by server-side apply, and takes them out again.

Applying is repeatable: what is there already is made to be as wanted, what others have set besides (a `caBundle`, a
scale) stays. Every object is tried, so that all that is wrong is told at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from pymesh.control.install.remains import found

Json = dict[str, Any]

MANAGER: Final = "pymesh-install"
_APPLY: Final = "application/apply-patch+yaml"
#: Kind -> its plural, for kinds of an installation, and whether it is in a namespace.
_KINDS: Final[Mapping[str, tuple[str, bool]]] = {
    "Namespace": ("namespaces", False),
    "CustomResourceDefinition": ("customresourcedefinitions", False),
    "ServiceAccount": ("serviceaccounts", True),
    "ClusterRole": ("clusterroles", False),
    "ClusterRoleBinding": ("clusterrolebindings", False),
    "Role": ("roles", True),
    "RoleBinding": ("rolebindings", True),
    "ConfigMap": ("configmaps", True),
    "PersistentVolumeClaim": ("persistentvolumeclaims", True),
    "Service": ("services", True),
    "Deployment": ("deployments", True),
    "MutatingWebhookConfiguration": ("mutatingwebhookconfigurations", False),
    "ValidatingWebhookConfiguration": ("validatingwebhookconfigurations", False),
    "GatewayClass": ("gatewayclasses", False),
}
#: What only `uninstall --purge` removes: with them goes what users have written, and the mesh's root.
_KEPT: Final = ("CustomResourceDefinition", "Namespace", "PersistentVolumeClaim")


class Api(Protocol):
    """Requests to the API server."""

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, str] | None = ...,
        content_type: str = ...,
    ) -> Json:
        """The document of the answer."""


class RefusedError(Exception):
    """The API server has not taken some of the objects. Each argument is one line."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster to install into."""

    api: Api
    #: What the API raises; its `code` is the status, or 0.
    failure: type[Exception]
    #: A line for the person who installs.
    tell: Callable[[str], None]

    async def apply(self, objects: Sequence[Json], *, check_only: bool = False) -> None:
        """All of them, in their order. Raises :class:`RefusedError`."""
        query = {"fieldManager": MANAGER, "force": "true", "fieldValidation": "Strict"}
        missing = ""
        if check_only:
            query["dryRun"] = "All"
            missing = await self._missing_namespace(objects)
        refused = []
        for one in objects:
            sent = _moved(one) if missing and one["metadata"].get("namespace") == missing else one
            try:
                await self.api.request("PATCH", path(sent), sent, query=query, content_type=_APPLY)
            except self.failure as error:
                if _code(error) in (0, 401):
                    raise RefusedError(str(error)) from error  # it will not be otherwise for the next
                refused.append(f"{title(one)}: {error}")
            else:
                self.tell(f"{title(one)} {'would be applied' if check_only else 'applied'}")
        if refused:
            raise RefusedError(*refused)

    async def remove(self, objects: Sequence[Json], *, purge: bool) -> None:
        """All of them but what is kept, the last first, and with ``purge`` what the mesh has made since.

        Raises :class:`RefusedError`.
        """
        refused: list[str] = []
        for one in reversed(objects):
            if one["kind"] in _KEPT and not purge:
                self.tell(f"{title(one)} kept; --purge removes it")
                continue
            if one["kind"] == "Namespace":
                # By now nobody is left who could make them anew.
                await self._remove_remains(refused)
            await self._remove(one, refused)
        if refused:
            raise RefusedError(*refused)

    async def _remove_remains(self, refused: list[str]) -> None:
        try:
            remains = await found(self._get)
        except self.failure as error:
            refused.append(f"what the control plane has made: {error}")
            return
        for one in remains:
            await self._remove(one, refused)

    async def _remove(self, one: Json, refused: list[str]) -> None:
        try:
            await self.api.request("DELETE", path(one), query={"propagationPolicy": "Background"})
        except self.failure as error:
            if _code(error) in (0, 401):
                raise RefusedError(str(error)) from error
            if _code(error) != 404:
                refused.append(f"{title(one)}: {error}")
        else:
            self.tell(f"{title(one)} removed")

    async def _get(self, at: str, query: Mapping[str, str]) -> Json:
        try:
            return await self.api.request("GET", at, query=query)
        except self.failure as error:
            if _code(error) != 404:
                raise
            return {}

    async def _missing_namespace(self, objects: Sequence[Json]) -> str:
        """The namespace of the installation, if it is to be made first; empty if it is there."""
        for one in objects:
            if one["kind"] == "Namespace":
                try:
                    await self.api.request("GET", path(one))
                except self.failure as error:
                    if _code(error) == 404:
                        return str(one["metadata"]["name"])
        return ""

    async def missing_apis(self, wanted: Mapping[str, str]) -> list[str]:
        """Of API groups, with what they are for: those that the cluster does not have."""
        found = await self.api.request("GET", "/apis")
        groups = {str(one.get("name")) for one in found.get("groups") or ()}
        return [f"{group} ({what})" for group, what in wanted.items() if group not in groups]


def path(one: Json) -> str:
    """Where the API server has the object."""
    version, metadata = str(one["apiVersion"]), one["metadata"]
    plural, is_namespaced = _KINDS[one["kind"]]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    place = f"/namespaces/{metadata['namespace']}" if is_namespaced else ""
    return f"{root}{place}/{plural}/{metadata['name']}"


def title(one: Json) -> str:
    """For people: kind, namespace and name."""
    metadata = one["metadata"]
    return f"{one['kind']} " + "/".join(filter(None, (metadata.get("namespace"), metadata["name"])))


def _moved(one: Json) -> Json:
    """In a namespace that every cluster has: only so a dry run can judge what is for one that is still to come."""
    return {**one, "metadata": {**one["metadata"], "namespace": "default"}}


def _code(error: Exception) -> int:
    return int(getattr(error, "code", 0))
