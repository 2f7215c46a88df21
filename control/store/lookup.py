"""What one reference means: a service, or a port of it; an error with a remedy if there is none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from pymesh.control.resources.decode import Located
from pymesh.control.resources.diagnostics import Report
from pymesh.control.store.services import Port, Service

if TYPE_CHECKING:
    from pymesh.control.store.store import Store


def service(store: Store, owner: Located, field: str, host: str, namespace: str, report: Report) -> Service | None:
    """The service that ``host`` means, or None and an error."""
    found = store.service(host, namespace)
    if found is None:
        hint = report.closest(host, lambda: _known(store, namespace))
        report.error(owner.place(field), f"there is no service {host!r}", hint)
    elif not found.is_visible(namespace):
        report.error(
            owner.place(field),
            f"{found.host!r} is not exported to namespace {namespace!r}",
            f"add it to exportTo of the service at {found.at}",
        )
    return found


def _known(store: Store, namespace: str) -> Iterator[str]:
    for one in store.services.values():
        yield one.host
        yield from _names(one, namespace)


def _names(one: Service, namespace: str) -> Iterable[str]:
    return one.aliases if one.namespace == namespace else one.aliases[1:]


def check_port(
    owner: Service, port: Port | None, place: Located, field: str, number: int, http: bool, report: Report
) -> bool:
    """Whether there is such a port, and requests can be routed there if they shall be; an error if not."""
    if port is None:
        numbers = ", ".join(str(known.number) for known in owner.ports)
        report.error(place.place(field), f"{owner.host!r} has no port {number}", f"known: {numbers}")
        return False
    if http and not (port.is_http or port.is_sniffed):
        report.error(
            place.place(field),
            f"port {number} of {owner.host!r} is {port.protocol}, not HTTP",
            "begin the port's name with 'http', or set appProtocol",
        )
        return False
    return True
