"""Requests to a Kubernetes API server, with the standard library alone: no part of what is tested.

Where a kind is served is asked of the server, so that kinds of CRDs are no different from others.
"""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import yaml

Object = dict[str, Any]
_FIELD_MANAGER = "test"


class ApiRefused(Exception):
    """The server's answer was no."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        self.code, self.reason, self.message = code, reason, message
        super().__init__(f"{code} {reason}: {message}")


class Api:
    """A client with one identity."""

    def __init__(self, url: str, ca: Path, token: str) -> None:
        self.url = url
        self.token = token
        self._address = urlsplit(url).netloc
        self._tls = ssl.create_default_context(cafile=str(ca))
        #: (apiVersion, kind) -> its name in paths, and whether it is in a namespace.
        self._kinds: dict[tuple[str, str], tuple[str, bool]] = {}

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        token: str | None = None,
        timeout: float = 60,
    ) -> Any:
        """The answer's document, or its text where that is too deep for one; `body` may be octets.

        Raises `ApiRefused`, or `OSError` where there is no server.
        """
        connection = http.client.HTTPSConnection(self._address, context=self._tls, timeout=timeout)
        shown = self.token if token is None else token
        headers = {"Accept": "application/json", "Content-Type": content_type}
        if shown:
            headers["Authorization"] = f"Bearer {shown}"
        try:
            target = f"{path}?{urlencode(query)}" if query else path
            connection.request(
                method, target, body if body is None or isinstance(body, bytes) else json.dumps(body), headers
            )
            answer = connection.getresponse()
            text = answer.read().decode()
        except http.client.HTTPException as error:
            raise OSError(f"no answer: {error!r}") from error
        finally:
            connection.close()
        try:
            told = json.loads(text) if text.startswith("{") else text
        except RecursionError:
            told = text
        if answer.status >= 400:
            known = told if isinstance(told, dict) else {}
            raise ApiRefused(answer.status, known.get("reason", ""), known.get("message", str(told)))
        return told

    def apply(self, wanted: str | Iterable[Object], *, dry_run: bool = False) -> list[Object]:
        """Server-side apply of YAML documents or objects, in their order; what the server made of them."""
        objects = [one for one in yaml.safe_load_all(wanted) if one] if isinstance(wanted, str) else list(wanted)
        query = {"fieldManager": _FIELD_MANAGER, "force": "true", "fieldValidation": "Strict"}
        if dry_run:
            query["dryRun"] = "All"
        made = []
        for one in objects:
            meta = one["metadata"]
            path = self.path(one["apiVersion"], one["kind"], meta["name"], meta.get("namespace", "default"))
            made.append(self.request("PATCH", path, one, query=query, content_type="application/apply-patch+yaml"))
        return made

    def get(self, version: str, kind: str, name: str, namespace: str = "default") -> Object | None:
        """An object, or None."""
        try:
            found: Object = self.request("GET", self.path(version, kind, name, namespace))
        except ApiRefused as error:
            if error.code == 404:
                return None
            raise
        return found

    def list(self, version: str, kind: str, namespace: str = "") -> list[Object]:
        """All of a kind in a namespace; in all namespaces if none is named. They have their kind and version."""
        answer = self.request("GET", self.path(version, kind, "", namespace))
        return [{"apiVersion": version, "kind": kind, **one} for one in answer["items"]]

    def delete(self, version: str, kind: str, name: str, namespace: str = "default") -> None:
        """Remove it, without grace; it may be gone already."""
        try:
            self.request("DELETE", self.path(version, kind, name, namespace), query={"gracePeriodSeconds": "0"})
        except ApiRefused as error:
            if error.code != 404:
                raise

    def status(self, version: str, kind: str, name: str, namespace: str, status: Object) -> Object:
        """Merge into an object's status."""
        path = f"{self.path(version, kind, name, namespace)}/status"
        made: Object = self.request("PATCH", path, {"status": status}, content_type="application/merge-patch+json")
        return made

    def clear(self, namespace: str) -> None:
        """Remove every object in a namespace, whatever its kind."""
        for version, resources in self._served():
            for one in resources:
                if one["namespaced"] and {"list", "deletecollection"} <= set(one["verbs"]) and "/" not in one["name"]:
                    self._clear(f"{_root(version)}/namespaces/{namespace}/{one['name']}")

    def _clear(self, path: str, patience: float = 180) -> None:
        # For each kind a server finds etcd again by itself, minutes after; meanwhile it hangs up.
        deadline = time.monotonic() + patience
        while True:
            try:
                self.request("DELETE", path, query={"gracePeriodSeconds": "0", "propagationPolicy": "Background"})
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.5)

    def wait_established(self, crd: str) -> None:
        """Wait until a CRD's kind is served."""
        deadline = time.monotonic() + 60
        while True:
            found = self.get("apiextensions.k8s.io/v1", "CustomResourceDefinition", crd) or {}
            conditions = found.get("status", {}).get("conditions", ())
            if any(one["type"] == "Established" and one["status"] == "True" for one in conditions):
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"{crd} is not established: {conditions}")
            time.sleep(0.02)

    def path(self, version: str, kind: str, name: str = "", namespace: str = "default") -> str:
        """Where an object is, or all of a kind."""
        if (version, kind) not in self._kinds:
            # A CRD's kind is served a moment after it is established.
            deadline = time.monotonic() + 10
            while not self._learn(version, kind):
                if time.monotonic() > deadline:
                    raise LookupError(f"the server has no {kind} in {version}")
                time.sleep(0.05)
        plural, namespaced = self._kinds[version, kind]
        place = f"/namespaces/{namespace}" if namespaced and namespace else ""
        return f"{_root(version)}{place}/{plural}" + (f"/{name}" if name else "")

    def _learn(self, version: str, kind: str) -> bool:
        try:
            resources = self.request("GET", _root(version))["resources"]
        except ApiRefused as error:
            if error.code == 404:
                return False
            raise
        for one in resources:
            if "/" not in one["name"]:
                self._kinds[version, one["kind"]] = (one["name"], one["namespaced"])
        return (version, kind) in self._kinds

    def _served(self) -> Iterable[tuple[str, list[Object]]]:
        versions = ["v1"]
        for group in self.request("GET", "/apis")["groups"]:
            versions.append(group["preferredVersion"]["groupVersion"])
        for version in versions:
            yield version, self.request("GET", _root(version))["resources"]


def _root(version: str) -> str:
    return f"/apis/{version}" if "/" in version else f"/api/{version}"
