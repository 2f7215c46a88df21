"""A relay that keeps every byte it passes on, in both directions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from tests.tools.serving import serving


class Recorder:
    """`seen` is everything that went through."""

    def __init__(self, port: int) -> None:
        self.target, self.port = port, 0
        self.seen = bytearray()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one connection."""
        onward, back = await asyncio.open_connection("127.0.0.1", self.target)
        await asyncio.gather(self._pass(reader, back), self._pass(onward, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(65536):
                self.seen += piece
                writer.write(piece)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


@contextmanager
def recorder(port: int) -> Iterator[Recorder]:
    """A relay to a port on loopback, for the length of the block."""
    running = Recorder(port)
    with serving([running.connected]) as ports:
        running.port = ports[0]
        yield running
