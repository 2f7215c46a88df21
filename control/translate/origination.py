"""The Secrets behind TLS that a proxy begins: those of its own namespace that its identity may read, as with Istio."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pymesh.control.resources.destination import ClientTls
from pymesh.control.resources.diagnostics import Diagnostic, Report
from pymesh.control.store import credentials
from pymesh.control.store.services import Port, Service
from pymesh.control.store.store import Store
from pymesh.control.translate import tls
from pymesh.control.translate.proxy import Proxy
from pymesh.control.translate.scope import Scope


def is_lacking(store: Store, proxy: Proxy, wanted: ClientTls | None) -> bool:
    """Whether a policy asks for a Secret that the proxy's namespace does not have, or that the proxy may not have, or
    that cannot be used.

    Without a certificate, or with nobody to judge the other side, it is better not to connect.
    """
    if wanted is None or not wanted.credential_name:
        return False
    if not proxy.reads_secrets:
        return True
    key = ("lacking", proxy.namespace, wanted.credential_name, wanted.mode, wanted.insecure_skip_verify)
    known = store.memo.get(key)
    if known is None:
        known = store.memo[key] = bool(_problems(store, proxy.namespace, wanted))
    return bool(known)


def _problems(store: Store, namespace: str, wanted: ClientTls) -> list[Diagnostic]:
    report = Report(searches=0)
    credentials.check_client(store.secrets, namespace, wanted, report)
    return report.errors()


def secrets(scope: Scope, service: Service, port: Port) -> dict[str, Any]:
    """What a proxy is given for the policies of a port, with a warning for what it lacks."""
    made: dict[str, Any] = {}
    for wanted in _named(scope, service, port):
        if not scope.proxy.reads_secrets:
            scope.report.warning(
                wanted.place("credentialName"),
                f"service account {scope.proxy.service_account!r} of namespace {scope.proxy.namespace!r} may not "
                f"list Secrets: {scope.proxy.name} has no {wanted.credential_name!r} and cannot reach {service.host!r}",
                "let it by a Role, or begin TLS at an egress gateway",
            )
            continue
        if is_lacking(scope.store, scope.proxy, wanted):
            scope.report.warning(
                wanted.place("credentialName"),
                f"namespace {scope.proxy.namespace!r} has no Secret {wanted.credential_name!r} for {service.host!r}: "
                f"{scope.proxy.name} cannot reach it",
                "put the Secret there, or narrow the rule with exportTo",
            )
            continue
        found = credentials.find(scope.store.secrets, scope.proxy.namespace, wanted.credential_name)
        made |= tls.secrets(scope.proxy.namespace, wanted.credential_name, found) if found is not None else {}
    return made


def _named(scope: Scope, service: Service, port: Port) -> Iterator[ClientTls]:
    rule = scope.store.destination_rule(service, scope.proxy.namespace)
    if rule is None:
        return
    for policy in (rule.spec.traffic_policy, *(subset.traffic_policy for subset in rule.spec.subsets)):
        if policy is None:
            continue
        ported = [one for one in policy.port_level_settings if one.port.number == port.number]
        for wanted in [one.tls for one in ported] or [policy.tls]:
            if wanted is not None and wanted.credential_name:
                yield wanted
