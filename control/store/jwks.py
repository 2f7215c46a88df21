"""Where a RequestAuthentication's keys are fetched.

Who can change the keys on their way decides whose tokens are good. So they come over the mesh's mutual TLS from a
service of the mesh (`http://` and its host), and over TLS, with the server's name verified, from anywhere else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.request_authentication import JwtRule, RequestAuthentication
from pymesh.control.store import lookup
from pymesh.control.store.services import Service

if TYPE_CHECKING:
    from pymesh.control.store.store import Store


def port(rule: JwtRule) -> int:
    """The port that ``jwksUri`` means."""
    return rule.uri.port or (443 if rule.uri.scheme == "https" else 80)


def service(store: Store, rule: JwtRule, namespace: str) -> Service | None:
    """The service that ``jwksUri`` names, if it names one."""
    return store.service(rule.uri.hostname or "", namespace)


def check(store: Store, one: RequestAuthentication, report: Report) -> None:
    """Report keys that could not be fetched, or not without somebody in between."""
    for rule in one.spec.jwt_rules:
        if not rule.jwks_uri:
            continue
        found = service(store, rule, one.namespace)
        if rule.uri.scheme == "http":
            _in_the_mesh(store, rule, one, found, report)
        elif found is not None:
            _over_tls(store, rule, found, report)


def _in_the_mesh(
    store: Store, rule: JwtRule, one: RequestAuthentication, found: Service | None, report: Report
) -> None:
    if found is None or found.external:
        report.error(
            rule.place("jwksUri"),
            f"keys from {rule.jwks_uri!r} would come from outside of the mesh without TLS: anybody could exchange them",
            "use https://, or name a service of the mesh",
        )
        return
    if lookup.service(store, rule, "jwksUri", found.host, one.namespace, report) is None:
        return
    number = port(rule)
    lookup.check_port(found, found.port(number), rule, "jwksUri", number, True, report)
    if any(not store.peers.accepts_mutual_tls(backend) for backend in found.backends.get(number, ())):
        report.warning(
            rule.place("jwksUri"),
            f"keys from {found.host!r} come in plain text: not all of its endpoints speak mutual TLS",
            "give all of them a proxy, or use https://",
        )


def _over_tls(store: Store, rule: JwtRule, found: Service, report: Report) -> None:
    number = port(rule)
    lookup.check_port(found, found.port(number), rule, "jwksUri", number, False, report)
    if any(map(store.peers.accepts_mutual_tls, found.backends.get(number, ()))):
        report.error(
            rule.place("jwksUri"),
            f"{found.host!r} is in the mesh, where connections are mutual TLS already",
            "write http:// and the number of an HTTP port",
        )
