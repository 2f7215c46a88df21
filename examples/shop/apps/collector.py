"""Collects traces as an OpenTelemetry collector does (OTLP over HTTP, `POST /v1/traces`), and tells what it has.

`GET /traces` sums up the traces so far, `GET /_forget` begins anew. Of protobuf's wire format and of OTLP's messages
that much is read here that is needed.
"""

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_spans = {}
_lock = threading.Lock()


def fields(message):
    """Field number -> its values, in order: numbers of varints, octets of everything else."""
    found, at = {}, 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            octet = message[at]
            at += 1
            value |= (octet & 0x7F) << shift
            if octet < 0x80:
                return value
            shift += 7

    while at < len(message):
        number, kind = divmod(varint(), 8)
        if kind == 0:
            value = varint()
        else:
            size = {1: 8, 5: 4}.get(kind) or varint()
            value, at = message[at : at + size], at + size
        found.setdefault(number, []).append(value)
    return found


def text(message, number):
    """A field that is text."""
    return message.get(number, [b""])[0].decode()


def attributes(message, number):
    """Attributes whose values are text."""
    pairs = map(fields, message.get(number, ()))
    return {text(pair, 1): text(fields(pair.get(2, [b""])[0]), 1) for pair in pairs}


def take(request):
    """Keep the spans of an ExportTraceServiceRequest."""
    for of_resource in map(fields, fields(request).get(1, ())):
        resource = fields(of_resource.get(1, [b""])[0])
        service = attributes(resource, 1).get("service.name", "")
        for of_scope in map(fields, of_resource.get(2, ())):
            for span in map(fields, of_scope.get(2, ())):
                kept = {
                    "id": span[2][0].hex(),
                    "parent": span.get(4, [b""])[0].hex(),
                    "service": service,
                    "name": text(span, 5),
                    "attributes": attributes(span, 9),
                }
                with _lock:
                    _spans.setdefault(span[1][0].hex(), []).append(kept)


def is_whole(spans):
    """Whether every span but one has its parent among the others."""
    known = {span["id"] for span in spans}
    return sum(span["parent"] not in known for span in spans) == 1


def summary():
    """What the traces have in common, and the largest of them."""
    with _lock:
        traces = list(_spans.values())
    whole = [spans for spans in traces if is_whole(spans)]
    largest = max(whole, key=len, default=[])
    everything = [span for spans in traces for span in spans]
    return {
        "traces": len(traces),
        "whole": len(whole),
        "services": " ".join(sorted({span["service"] for span in everything})),
        "ownSpans": sum(span["service"].startswith("collector.") for span in everything),
        "retries": sum("retry.count" in span["attributes"] for span in everything),
        "largest": {
            "services": " ".join(sorted({span["service"] for span in largest})),
            "spans": len(largest),
            "attributes": {name: value for span in largest for name, value in span["attributes"].items()},
        },
    }


class Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        take(self.body())
        self.send(b"", "application/x-protobuf")

    def do_GET(self):
        if self.path == "/_forget":
            with _lock:
                _spans.clear()
        self.send(json.dumps(summary()).encode(), "application/json")

    def body(self):
        if self.headers["content-length"]:
            return self.rfile.read(int(self.headers["content-length"]))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def send(self, body, kind):
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        """The mesh logs requests."""


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


Server(("127.0.0.1", int(os.environ["PORT"])), Requests).serve_forever()
