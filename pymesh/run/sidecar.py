"""The proxy beside an application.

```text
started --its first configuration is in force--> ready --drain--> draining --finish--> gone
            ^                                       |
            +------- back-off <----- crashed -------+
```
A drain tells the proxy's clients to go elsewhere; new connections are still taken, for those who have not heard of it,
and for the application, which may have something to say before it ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pymesh.control.identity import private_files
from pymesh.local import bootstrap, http, process
from pymesh.local.errors import LocalMeshError
from pymesh.local.process import Command, Process
from pymesh.run.settings import Settings

_POLL_S = 0.05
#: The first restart comes soon, later ones rarely; one that has lived for a while counts as the first again.
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S, _STABLE_S = 0.5, 30.0, 60.0
_ACTIVE = re.compile(r"^listener\.(?!admin\.)\S+\.downstream_cx_active: ([1-9]\d*)\r?$", re.MULTILINE)


class NotReadyError(LocalMeshError):
    """The sidecar does not serve: what it waits for, or how it ended."""


@dataclass(slots=True)
class Sidecar:
    """See the module."""

    settings: Settings
    folder: Path
    tell: Callable[[str], None]
    _process: Process | None = None
    _draining: bool = False
    #: Seconds of the event loop's clock.
    _since: float = 0.0
    _backoff: float = field(default=_FIRST_BACKOFF_S)

    async def start(self) -> None:
        """Start it."""
        workload, times = self.settings.workload, self.settings.times
        file = self.folder / "bootstrap.json"
        written = bootstrap.for_pymesh(workload, self.settings.control, self.settings.token)
        private_files.write(file, json.dumps(written, indent=1).encode())
        longest = str(times.notice + times.grace + times.drain + 60)
        argv = [sys.executable, "-m", "pymesh", "proxy", "-c", str(file)]
        argv += ["--concurrency", str(self.settings.concurrency)]
        # We end the drain ourselves, when the application is gone.
        argv += ["--drain-time-s", longest, "--drain-accept-time-s", longest]
        log = self.settings.log or self.folder / "proxy.log"
        self._since = asyncio.get_running_loop().time()
        self._process = await process.start(Command("the sidecar", argv, log, self.folder))

    async def ready(self) -> None:
        """Until its first configuration is in force. Raises :class:`NotReadyError`."""
        assert self._process is not None
        loop, patience = asyncio.get_running_loop(), self.settings.times.ready
        deadline = loop.time() + patience
        said = False
        while not await self._is_ready():
            if self._process.returncode is not None:
                raise NotReadyError(self._process.ended())
            if loop.time() > deadline:
                tail = self._process.tail()
                text = f"the sidecar is not ready after {patience:g} s: it waits for {await self._awaited()}"
                raise NotReadyError(f"{text}\n{tail}" if tail else text)
            if not said and loop.time() > self._since + 2:
                said = True
                self.tell(f"waiting for {await self._awaited()}")
            await asyncio.sleep(_POLL_S)

    async def crashed(self) -> str:
        """Until it ends without being told to; how it did."""
        assert self._process is not None
        await self._process.wait()
        if self._draining:
            await asyncio.Event().wait()
        return self._process.ended()

    async def keep(self) -> None:
        """Start it again as often as it crashes, with back-off. Never returns."""
        loop = asyncio.get_running_loop()
        while True:
            how = await self.crashed()
            if loop.time() - self._since > _STABLE_S:
                self._backoff = _FIRST_BACKOFF_S
            self.tell(f"{how}\nthe application goes on; the sidecar is started again in {self._backoff:g} s")
            await asyncio.sleep(self._backoff)
            self._backoff = min(self._backoff * 2, _LONGEST_BACKOFF_S)
            if not self._draining:
                await self.start()

    def drain(self) -> None:
        """Tell its clients that it is going to end."""
        if self._process is not None and not self._draining:
            self._draining = True
            self._process.send(signal.SIGTERM)

    async def finish(self) -> None:
        """End it with its last connection, or when they have had their time."""
        if self._process is None:
            return
        self.drain()
        with suppress(http.HttpError, TimeoutError):
            async with asyncio.timeout(self.settings.times.drain):
                await self._last_connection()
        await self._process.stop()

    def kill(self) -> None:
        """End it now."""
        self._draining = True
        if self._process is not None:
            self._process.kill()

    async def gone(self) -> None:
        """Until there is no process of it."""
        if self._process is not None:
            await self._process.wait()

    async def _last_connection(self) -> None:
        """Take no new ones, and wait until the last is closed."""
        admin = http.Connection(self.settings.workload.admin_port)
        try:
            await admin.request("POST", "/drain_listeners")
            while True:
                if not _ACTIVE.search((await admin.get("/stats")).body.decode()):
                    return
                await asyncio.sleep(_POLL_S)
        finally:
            await admin.close()

    async def _is_ready(self) -> bool:
        workload = self.settings.workload
        with suppress(http.HttpError):
            if (await http.get(workload.admin_port, "/ready")).status == 200:
                # What a registration says may come a moment after the first configuration.
                opened = (await http.get(workload.admin_port, "/listeners")).body.decode().split()
                wanted = [*(port.sidecar for port in workload.inbound), *workload.outbound.values()]
                return all(any(one.endswith(f":{port}") for one in opened) for port in wanted)
        return False

    async def _awaited(self) -> str:
        """What it waits for, as far as that can be seen from here."""
        control = self.settings.control
        where = f"{control.host}:{control.port}"
        workload = self.settings.workload
        try:
            async with asyncio.timeout(2):
                _, writer = await asyncio.open_connection(control.host, control.port)
            writer.close()
        except OSError as error:  # TimeoutError among them
            why = os.strerror(error.errno) if error.errno else "no answer"
            return f"the control plane at {where}: {why}"
        with suppress(http.HttpError, ValueError, KeyError):
            found = json.loads((await http.get(workload.admin_port, "/certs")).body)["certificates"]
            if not any(one.get("cert_chain") for one in found):
                return f"a certificate for {workload.spiffe_id} from the control plane at {where}"
        return f"its configuration from the control plane at {where}"
