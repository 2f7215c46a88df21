"""What a request to an API server proves itself with, and where that comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


class CredentialsError(Exception):
    """The API server cannot be found, or we have nothing to show there: what, where, and how to mend it."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What a request proves itself with."""

    token: str = field(default="", repr=False)
    #: Certificate and key as PEM.
    certificate: tuple[str, str] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Raises CredentialsError."""
        if not all("!" <= one <= "~" for one in self.token):
            raise CredentialsError(
                "the token has a character that no header can have; hint: it is damaged, or no token"
            )


class Credential(Protocol):
    """Who we are, as often as it changes."""

    async def shown(self) -> Shown:
        """What to show now. Raises CredentialsError."""

    def refused(self) -> None:
        """The server did not take it: find another, if there can be one."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """It does not change."""

    value: Shown = Shown()

    async def shown(self) -> Shown:
        """Always the same."""
        return self.value

    def refused(self) -> None:
        """There is no other."""


@dataclass(frozen=True, slots=True)
class TokenFile:
    """A token that somebody keeps fresh, as the kubelet does. A file of a kilobyte: it is read for each request."""

    path: Path

    async def shown(self) -> Shown:
        """What is in the file."""
        try:
            token = self.path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise CredentialsError(f"token file {self.path}: {reason}") from error
        if not token:
            raise CredentialsError(f"token file {self.path}: it is empty")
        return Shown(token)

    def refused(self) -> None:
        """The next request reads it again anyway."""
