"""Messages on the wire, with h2 as the client: whole, and never more than its windows and frames allow."""

from __future__ import annotations

import asyncio
import random
import socket

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest

from pymesh.control.xds.grpc import Call, GrpcServer, Method

PARTS = tuple(random.Random(n).randbytes(n * n * 7) for n in range(40))
MESSAGE = b"\0" + sum(map(len, PARTS)).to_bytes(4, "big") + b"".join(PARTS)


async def _three_messages(call: Call) -> None:
    await call.receive()
    await call.send(*PARTS)
    await call.send()
    await call.send(MESSAGE)


EXPECTED = MESSAGE + b"\0" * 5 + b"\0" + len(MESSAGE).to_bytes(4, "big") + MESSAGE


class Client:
    """Some calls on one connection, and what was heard of each."""

    def __init__(self, seed: int, window: int) -> None:
        self.rng = random.Random(seed)
        self.heard: dict[int, bytearray] = {}
        self.ended: set[int] = set()
        self.frames: set[int] = set()
        self.owed: dict[int, int] = {}
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.h2.local_settings = h2.settings.Settings(
            client=True, initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window}
        )
        self.h2.initiate_connection()

    def call(self, stream: int) -> None:
        headers = [(":method", "POST"), (":scheme", "http"), (":path", "/a/B"), (":authority", "a")]
        headers += [("te", "trailers"), ("content-type", "application/grpc")]
        self.h2.send_headers(stream, headers)
        self.h2.send_data(stream, b"\0" * 5, end_stream=True)
        self.heard[stream] = bytearray()

    def receive(self, octets: bytes) -> None:
        """Raises for a frame that is longer than windows or frames may be."""
        for event in self.h2.receive_data(octets):
            if isinstance(event, h2.events.DataReceived):
                assert event.data is not None
                assert event.stream_id is not None
                self.heard[event.stream_id] += event.data
                self.frames.add(len(event.data))
                for stream in (0, event.stream_id):
                    self.owed[stream] = self.owed.get(stream, 0) + len(event.data)
            elif isinstance(event, h2.events.StreamEnded):
                assert event.stream_id is not None
                self.ended.add(event.stream_id)
                self.owed.pop(event.stream_id, None)

    def give_back(self) -> None:
        """What was heard, in pieces."""
        for stream, owed in self.owed.items():
            first = self.rng.randrange(owed + 1)
            for given in filter(None, (first, owed - first)):
                self.h2.increment_flow_control_window(given, stream or None)
        self.owed.clear()


@pytest.mark.parametrize("window", [300, 20_000, 65_535, 1 << 20])
def test_messages_arrive_whole_within_the_windows_of_the_client(window: int) -> None:
    async def main() -> Client:
        sock = socket.create_server(("127.0.0.1", 0))
        server = GrpcServer({"/a/B": Method(_three_messages, streaming=True)})
        await server.start(sock)
        reader, writer = await asyncio.open_connection(*sock.getsockname())
        client = Client(window, max(window, 1000))
        for stream in (1, 3, 5):
            client.call(stream)
        is_shrunk = window >= 1000
        while len(client.ended) < 3:
            writer.write(client.h2.data_to_send())
            octets = await asyncio.wait_for(reader.read(1 << 16), 60)
            assert octets, "the server has closed the connection"
            client.receive(octets)
            if not is_shrunk and client.owed:  # what the server may send becomes less than nothing
                client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
                is_shrunk = True
            client.give_back()
        writer.close()
        await server.stop()
        return client

    client = asyncio.run(main())
    assert {stream: bytes(heard) == EXPECTED for stream, heard in client.heard.items()} == {1: True, 3: True, 5: True}
    assert max(client.frames) <= 16_384


def test_a_stream_that_the_client_resets_ends_and_leaves_the_others_alone() -> None:
    async def main() -> tuple[list[str], bytes]:
        ends: list[str] = []

        async def handle(call: Call) -> None:
            try:
                await _three_messages(call)
                ends.append("sent")
            except BaseException as error:
                ends.append(type(error).__name__)
                raise

        sock = socket.create_server(("127.0.0.1", 0))
        server = GrpcServer({"/a/B": Method(handle, streaming=True)})
        await server.start(sock)
        reader, writer = await asyncio.open_connection(*sock.getsockname())
        client = Client(1, 1000)
        client.call(1)
        while not client.heard[1]:
            writer.write(client.h2.data_to_send())
            client.receive(await asyncio.wait_for(reader.read(1 << 16), 60))
        client.h2.reset_stream(1)
        client.call(3)
        while 3 not in client.ended:
            writer.write(client.h2.data_to_send())
            client.receive(await asyncio.wait_for(reader.read(1 << 16), 60))
            client.owed.pop(1, None)
            client.give_back()
        writer.close()
        await server.stop()
        return ends, bytes(client.heard[3])

    ends, heard = asyncio.run(main())
    assert ends[0] != "sent"
    assert ends[1] == "sent"
    assert heard == EXPECTED
