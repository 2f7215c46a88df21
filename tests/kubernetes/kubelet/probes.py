"""Probes of a container: asked from the node, or run inside, at their periods and thresholds."""

from __future__ import annotations

import http.client
import ssl
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.kubernetes.api import Object
from tests.kubernetes.kubelet.network import Network
from tests.kubernetes.kubelet.volumes import only

#: Kubelets verify nobody.
_ANYBODY = ssl.create_default_context()
_ANYBODY.check_hostname, _ANYBODY.verify_mode = False, ssl.CERT_NONE
#: Runs a command in the container; its exit code.
Run = Callable[[Sequence[str], float], int]


@dataclass
class Probe:
    """One probe, and how it has gone so far."""

    spec: Object
    address: str
    ports: dict[str, int]
    network: Network
    run: Run
    #: None: it has not said anything yet.
    is_good: bool | None = None
    _streak: int = 0
    _last: bool | None = None
    _due: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        timing = {"initialDelaySeconds", "periodSeconds", "timeoutSeconds", "successThreshold", "failureThreshold"}
        only("probe", self.spec, timing | {"httpGet", "tcpSocket", "exec", "terminationGracePeriodSeconds"})
        self._due += self.spec.get("initialDelaySeconds", 0)

    def turn(self) -> None:
        """Ask, if it is time."""
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + self.spec.get("periodSeconds", 10)
        said = self._ask(self.spec.get("timeoutSeconds", 1))
        self._streak = self._streak + 1 if said == self._last else 1
        self._last = said
        needed = self.spec.get("successThreshold", 1) if said else self.spec.get("failureThreshold", 3)
        if self._streak >= needed:
            self.is_good = said
        elif not said and not self.is_good:
            # A test waits for what becomes ready: a kubelet's second is too long for it.
            self._due = min(self._due, now + 0.2)

    def _ask(self, timeout: float) -> bool:
        try:
            if "httpGet" in self.spec:
                return self._http(self.spec["httpGet"], timeout)
            if "tcpSocket" in self.spec:
                self.network.from_node(self.address, self._port(self.spec["tcpSocket"]["port"]), timeout).close()
                return True
            return self.run(self.spec["exec"]["command"], timeout) == 0
        except (OSError, http.client.HTTPException, subprocess.TimeoutExpired):
            return False

    def _http(self, wanted: Object, timeout: float) -> bool:
        only("httpGet", wanted, {"path", "port", "scheme", "httpHeaders"})
        connection = http.client.HTTPConnection(self.address, self._port(wanted["port"]), timeout=timeout)
        connection.sock = self.network.from_node(self.address, self._port(wanted["port"]), timeout)
        if wanted.get("scheme", "HTTP") == "HTTPS":
            connection.sock = _ANYBODY.wrap_socket(connection.sock)
        headers = {one["name"]: one["value"] for one in wanted.get("httpHeaders", ())}
        try:
            connection.request("GET", wanted.get("path", "/"), headers=headers)
            return 200 <= connection.getresponse().status < 400
        finally:
            connection.close()

    def _port(self, written: int | str) -> int:
        return written if isinstance(written, int) else self.ports[written]
