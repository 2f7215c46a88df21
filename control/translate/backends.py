"""Where a backend of the Gateway API's routes is reached."""

from __future__ import annotations

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.gateway_api import Backend
from pymesh.control.store.parents import Route
from pymesh.control.store.route_references import check_backend
from pymesh.control.translate.scope import Scope

#: No proxy has a cluster of this name: what is sent there fails.
UNRESOLVED = "outbound|0||unresolved"


def cluster(scope: Scope, route: Route, backend: Backend, *, tcp: bool = False) -> str:
    """The cluster of a backend, with ``tcp`` that for connections. What is not there, or not to be used by the route,
    gets its share of failures, which is told where the store is made.
    """
    if check_backend(scope.store, route, backend, Report(searches=0)) is not None:
        return UNRESOLVED
    owner = backend.namespace or route.namespace
    return scope.cluster(backend.name, owner, "", backend.port, None, backend.at, tcp=tcp) or UNRESOLVED
