"""The messages that a call is sent, put together from the DATA frames that they come in.

    DATA frames -> add() -> octets -> one whole message -> receive() or the function of each()

The peer gets back its window for what is read, not for what comes: while nobody asks for a message it can send so much
and no more. A discovery stream is read by a function (:meth:`Inbox.each`), in the turn of the event loop in which the
octets come: hundreds of streams acknowledge at once, and a task for each would cost more than what it does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from grpclib.const import Status
from grpclib.exceptions import GRPCError

#: Whether the message is compressed, and how long it is.
PREFIX: Final = 5
#: So much is given back at once: no window is smaller than four times that.
_AT_ONCE: Final = 16 << 10


class Inbox:
    """See the module. It stands where grpclib has its ``Buffer``, and has its ``add``, ``eof`` and ``unacked_size``."""

    def __init__(self, give_back: Callable[[int], None], longest: int) -> None:
        """``give_back`` lets the peer send so many octets more."""
        self._give_back = give_back
        self._longest = longest
        self._octets = bytearray()
        #: How much has come and was not given back: the peer's window is so much smaller.
        self._unread = 0
        self._has_ended = False
        self._is_asked = False
        self._arrived = asyncio.Event()
        self._take: Callable[[bytes], None] | None = None
        self._all_taken: asyncio.Future[None] | None = None

    def add(self, data: bytes, size: int) -> None:
        """A frame's data; with padding it had ``size`` octets."""
        self._octets += data
        self._unread += size
        if not self._is_asked:
            return
        if self._unread >= _AT_ONCE:
            self._give_back(self.unacked_size())
        self._tell()

    def eof(self) -> None:
        """Nothing more comes."""
        self._has_ended = True
        self._tell()

    def unacked_size(self) -> int:
        """How much was not given back, and will not be read any more."""
        size, self._unread = self._unread, 0
        return size

    async def receive(self) -> bytes | None:
        """The next message, None at the end. Raises ``GRPCError`` for one that is broken or too long."""
        self._asked()
        try:
            while (message := self._next()) is None and not self._has_ended:
                self._arrived.clear()
                await self._arrived.wait()
            return message
        finally:
            self._is_asked = False

    async def each(self, take: Callable[[bytes], None]) -> None:
        """Have every message taken, as soon as it is there; returns at the end. Raises what ``take`` raises."""
        self._take, self._all_taken = take, asyncio.get_running_loop().create_future()
        self._asked()
        self._tell()
        try:
            await self._all_taken
        finally:
            self._take, self._is_asked = None, False

    def _asked(self) -> None:
        self._is_asked = True
        if size := self.unacked_size():
            self._give_back(size)

    def _tell(self) -> None:
        if self._take is None or self._all_taken is None:
            self._arrived.set()
            return
        if self._all_taken.done():
            return
        try:
            while (message := self._next()) is not None:
                self._take(message)
        except Exception as error:
            self._all_taken.set_exception(error)
        else:
            if self._has_ended:
                self._all_taken.set_result(None)

    def _next(self) -> bytes | None:
        """The first message, if it is whole. Raises ``GRPCError``."""
        octets = self._octets
        whole = PREFIX
        if len(octets) >= PREFIX:
            if octets[0]:
                raise GRPCError(Status.UNIMPLEMENTED, "compressed messages are not accepted")
            length = int.from_bytes(octets[1:PREFIX], "big")
            if length > self._longest:
                raise GRPCError(Status.RESOURCE_EXHAUSTED, f"a message of {length} bytes; the limit is {self._longest}")
            whole += length
        if len(octets) >= whole:
            message = bytes(octets[PREFIX:whole])
            del octets[:whole]
            return message
        if self._has_ended and octets:
            raise GRPCError(Status.INVALID_ARGUMENT, "the stream ended inside a message")
        return None
