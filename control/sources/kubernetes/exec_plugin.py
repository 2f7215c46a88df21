"""Credentials from a program, as kubeconfig's `exec` names it (`client.authentication.k8s.io`).

It is run when there is nothing to show, when that has expired, or when the server did not take it; never twice at once.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from pymesh.control.sources.kubernetes.credential import CredentialsError, Shown

VERSIONS: Final = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
#: A credential is asked for anew so long before it expires.
_BEFORE: Final = timedelta(seconds=30)
_TIMEOUT: Final = 60.0


@dataclass(slots=True)
class ExecPlugin:
    """The program, and what it said last."""

    command: tuple[str, ...]
    version: str
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    #: What it is told of the cluster, if it wants that.
    cluster: Mapping[str, Any] | None = field(default=None, repr=False)
    install_hint: str = ""
    _known: Shown | None = field(default=None, repr=False)
    _expires: datetime | None = None
    _running: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    @classmethod
    def parse(cls, written: Any, folder: Path, cluster: Mapping[str, Any]) -> ExecPlugin:
        """From a kubeconfig in ``folder``. Raises ValueError."""
        if not isinstance(written, Mapping) or not isinstance(written.get("command"), str):
            raise ValueError("'command' is missing")
        version = str(written.get("apiVersion", ""))
        if version not in VERSIONS:
            raise ValueError(f"apiVersion {version!r} is not supported; hint: {VERSIONS[0]}")
        if written.get("interactiveMode") == "Always":
            raise ValueError("interactiveMode: Always needs a person; hint: IfAvailable or Never")
        command = written["command"]
        if "/" in command:
            command = str(folder / command)
        return cls(
            (command, *map(str, written.get("args") or ())),
            version,
            {str(one["name"]): str(one.get("value") or "") for one in written.get("env") or ()},
            cluster if written.get("provideClusterInfo") else None,
            str(written.get("installHint") or ""),
        )

    async def shown(self) -> Shown:
        """What the program said last, if that still holds; else what it says now. Raises CredentialsError."""
        async with self._running:
            if self._known is None or (self._expires is not None and datetime.now(UTC) >= self._expires - _BEFORE):
                self._known, self._expires = await self._ask()
            return self._known

    def refused(self) -> None:
        """Ask it again."""
        self._known = None

    async def _ask(self) -> tuple[Shown, datetime | None]:
        title = f"credential plugin {self.command[0]}"
        if shutil.which(self.command[0]) is None:
            hint = f"; hint: {self.install_hint}" if self.install_hint else ""
            raise CredentialsError(f"{title}: it is not installed{hint}")
        spec: dict[str, Any] = {"interactive": False}
        if self.cluster is not None:
            spec["cluster"] = self.cluster
        info = json.dumps({"apiVersion": self.version, "kind": "ExecCredential", "spec": spec})
        try:
            process = await asyncio.create_subprocess_exec(
                *self.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=sys.stderr,
                env={**os.environ, **self.environment, "KUBERNETES_EXEC_INFO": info},
            )
        except OSError as error:  # a script whose interpreter is missing, another machine's program
            raise CredentialsError(f"{title}: it cannot be run ({error.strerror})") from error
        try:
            async with asyncio.timeout(_TIMEOUT):
                output, _ = await process.communicate()
        except TimeoutError as error:
            raise CredentialsError(f"{title}: no answer for {_TIMEOUT:.0f} s") from error
        finally:
            # Also when who asked has given up: the next one runs it again.
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            raise CredentialsError(f"{title}: it ended with {process.returncode}")
        try:
            return self._read(json.loads(output))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CredentialsError(f"{title}: its output is no ExecCredential of {self.version}") from error

    def _read(self, answer: Any) -> tuple[Shown, datetime | None]:
        status = answer["status"]
        if answer["kind"] != "ExecCredential" or answer["apiVersion"] != self.version:
            raise ValueError("another kind or version")
        chain, key = status.get("clientCertificateData"), status.get("clientKeyData")
        token = status.get("token") or ""
        if bool(chain) != bool(key) or not (chain or token):
            raise ValueError("neither a token nor a certificate with its key")
        stamp = status.get("expirationTimestamp")
        expires = datetime.fromisoformat(stamp) if stamp else None
        if expires is not None and expires.tzinfo is None:
            raise ValueError("a time without a zone is no RFC 3339")
        return Shown(str(token), (str(chain), str(key)) if chain else None), expires
