"""An external authorizer over gRPC, by Envoy's API `envoy.service.auth.v3`: the same tickets as `authorizer.py`.

Of the API's messages those fields stand here that are needed. It answers plain HTTP nowhere: whether it runs is seen by
its port.
"""

import asyncio
import os

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpclib.const import Cardinality, Handler
from grpclib.server import Server

GUESTS = {"gold": "alice", "silver": "bob"}
OK, PERMISSION_DENIED = 0, 7

#: Message -> its fields: name, number, type; a type with a capital is another message of these.
API = {
    "CheckRequest": [("attributes", 1, "Attributes")],
    "Attributes": [("source", 1, "Peer"), ("request", 4, "Request")],
    "Peer": [("principal", 4, "string")],
    "Request": [("http", 2, "Http")],
    "Http": [("method", 2, "string"), ("headers", 3, "[Header]"), ("path", 4, "string"), ("host", 5, "string")],
    "Header": [("key", 1, "string"), ("value", 2, "string")],
    "Option": [("header", 1, "Header")],
    "Status": [("code", 1, "int32"), ("message", 2, "string")],
    "Denied": [("status", 1, "Status"), ("headers", 2, "[Option]"), ("body", 3, "string")],
    "Allowed": [("headers", 2, "[Option]")],
    "CheckResponse": [("status", 1, "Status"), ("denied", 2, "Denied"), ("allowed", 3, "Allowed")],
}


def messages():
    """The classes of the API's messages."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="auth.proto", package="auth", syntax="proto3")
    for name, fields in API.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            made = message.field.add(name=field, number=number, label=kinds.LABEL_OPTIONAL)
            if kind.startswith("["):
                made.label = kinds.LABEL_REPEATED
            if kind in ("string", "int32"):
                made.type = kinds.TYPE_STRING if kind == "string" else kinds.TYPE_INT32
            else:
                made.type, made.type_name = kinds.TYPE_MESSAGE, f".auth.{kind.strip('[]')}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"auth.{name}")) for name in API}


MESSAGES = messages()


def decided(request):
    """The answer to a check."""
    http = request.attributes.request.http
    headers = {one.key: one.value for one in http.headers}
    response = MESSAGES["CheckResponse"]()
    guest = GUESTS.get(headers.get("x-ticket", ""))
    if not http.path:
        # A raw connection: who is at its other end is all there is to judge.
        response.status.code = OK if request.attributes.source.principal else PERMISSION_DENIED
    elif guest is None or (http.path.startswith("/admin") and guest != "alice"):
        response.status.code = PERMISSION_DENIED
        response.denied.status.code = 401 if guest is None else 403
        response.denied.headers.add(header={"key": "x-reason", "value": "no ticket" if guest is None else "not you"})
        response.denied.body = "a ticket, please\n"
    else:
        response.allowed.headers.add(header={"key": "x-guest", "value": guest})
        response.allowed.headers.add(header={"key": "x-principal", "value": request.attributes.source.principal})
    return response


class Authorization:
    """The service."""

    async def check(self, stream):
        await stream.send_message(decided(await stream.recv_message()))

    def __mapping__(self):
        kinds = MESSAGES["CheckRequest"], MESSAGES["CheckResponse"]
        return {"/envoy.service.auth.v3.Authorization/Check": Handler(self.check, Cardinality.UNARY_UNARY, *kinds)}


async def main():
    server = Server([Authorization()])
    await server.start("127.0.0.1", int(os.environ["PORT"]))
    await server.wait_closed()


asyncio.run(main())
