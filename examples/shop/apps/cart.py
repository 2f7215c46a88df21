"""The cart, over gRPC: every method says which version was called, by what name, and gives the message back."""

import asyncio
import os

from grpclib.const import Cardinality, Handler, Status
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import GRPCError
from grpclib.server import Server

VERSION = os.environ["VERSION"]


class Octets(CodecBase):
    __content_subtype__ = "proto"

    def encode(self, message, message_type):
        return message

    def decode(self, data, message_type):
        return data


class Cart:
    def __mapping__(self):
        methods = {"Get": self.say, "Put": self.say, "Break": self.fail}
        return {
            f"/shop.Cart/{name}": Handler(method, Cardinality.UNARY_UNARY, bytes, bytes)
            for name, method in methods.items()
        }

    async def say(self, stream):
        message = await stream.recv_message()
        await stream.send_message(f"{VERSION}: ".encode() + message)

    async def fail(self, stream):
        raise GRPCError(Status.UNAVAILABLE, "the cart is broken")


async def main():
    server = Server([Cart()], codec=Octets())
    await server.start("127.0.0.1", int(os.environ["PORT"]))
    await server.wait_closed()


asyncio.run(main())
