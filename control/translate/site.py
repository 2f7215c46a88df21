"""What one server of a gateway serves, whichever resource wrote it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from pymesh.control.resources.diagnostics import Position
from pymesh.control.resources.gateway import ServerTls
from pymesh.control.translate.l4 import L4Rule

ANY_ADDRESS: Final = "0.0.0.0"
_NOWHERE = Position("<built in>")


@dataclass(slots=True)
class Site:
    """What one server serves."""

    gateway: str
    namespace: str
    name: str
    bind: str
    port: int
    protocol: str
    tls: ServerTls | None
    #: Host -> its routes.
    hosts: dict[str, list[Any]] = field(default_factory=dict)
    #: Where connections go, if the protocol is not HTTP.
    rules: list[L4Rule] = field(default_factory=list)
    server_names: tuple[str, ...] = ()
    #: Namespace and name of the Secrets that it needs.
    secrets: tuple[tuple[str, str], ...] = ()
    #: Of the Gateway API's listeners: requests for hosts within this pattern are for it, before any wider one.
    listener_host: str = ""
    #: What describes it.
    at: Position = _NOWHERE
    #: Where the proxy listens, if that is not ``port``: where the Service before it leads.
    bound: int = 0

    @property
    def listens_at(self) -> int:
        """The port that the proxy binds."""
        return self.bound or self.port

    @property
    def terminates(self) -> bool:
        """Whether the site speaks TLS."""
        return self.tls is not None and self.tls.terminates

    @property
    def passes_on(self) -> bool:
        """Whether TLS goes through to whoever is behind."""
        return self.tls is not None and self.tls.mode == "PASSTHROUGH"

    @property
    def is_http(self) -> bool:
        """Whether requests are routed."""
        return self.protocol in ("HTTP", "HTTP2", "GRPC", "HTTPS") and not self.passes_on
