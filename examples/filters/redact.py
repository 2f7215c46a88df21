"""Words that must not leave the mesh are blotted out of answers while these stream.

A word may begin in one piece of the body and end in another: what may be its beginning waits for the next piece, and
nothing else does. So memory is bounded by the longest word, however long the answer.
"""

import re
from dataclasses import dataclass

from pymesh.filters import Context, HttpFilter, Reply, Request


@dataclass
class Settings:
    """The words, and what stands in place of each of their octets."""

    words: tuple[str, ...]
    blot: str = "*"

    def __post_init__(self) -> None:
        if not all(self.words) or not self.words:
            raise ValueError("at least one word is needed, and none may be empty")
        if len(self.blot.encode()) != 1:
            raise ValueError("blot must be one octet")


class Redact(HttpFilter[Settings]):
    """Blots words out of answers."""

    Config = Settings

    def __init__(self, config: Settings) -> None:
        super().__init__(config)
        # Of two words that begin alike the longer one is looked for first.
        self._words = sorted((word.encode() for word in config.words), key=len, reverse=True)
        self._pattern = re.compile(b"|".join(map(re.escape, self._words)))
        self._blot = config.blot.encode()

    def on_request_headers(self, request: Request, ctx: Context) -> Reply | None:
        # Compressed octets show no words.
        request.headers["accept-encoding"] = "identity"
        return None

    def on_response_chunk(self, chunk: bytes, end: bool, ctx: Context) -> bytes | None:
        passed, left = self.scan(ctx.get("left", b"") + chunk, end)
        ctx["left"] = left
        return passed

    def scan(self, text: bytes, end: bool) -> tuple[bytes, bytes]:
        """What may pass, and what has to wait."""
        passed, at = b"", 0
        while True:
            waits = len(text) if end else self._waits_from(text, at)
            found = self._pattern.search(text, at)
            if found is None or found.start() >= waits:
                return passed + text[at:waits], text[waits:]
            passed += text[at : found.start()] + self._blot * (found.end() - found.start())
            at = found.end()

    def _waits_from(self, text: bytes, at: int) -> int:
        """Where the first end of the text begins that a word may begin with."""
        longest = len(self._words[0])
        for begin in range(max(at, len(text) - longest + 1), len(text)):
            tail = text[begin:]
            if any(len(word) > len(tail) and word.startswith(tail) for word in self._words):
                return begin
        return len(text)
