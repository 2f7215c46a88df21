"""Says every message again, after its own version: WebSocket (RFC 6455), as far as short messages need it."""

import base64
import hashlib
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
VERSION = os.environ["VERSION"]
TEXT, CLOSE = 0x81, 0x88


class Chat(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.headers.get("upgrade", "").lower() != "websocket":
            self.send_error(426)
            return
        key = self.headers["sec-websocket-key"] + GUID
        self.send_response(101)
        self.send_header("connection", "Upgrade")
        self.send_header("upgrade", "websocket")
        self.send_header("sec-websocket-accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        self.close_connection = True
        while head := self.rfile.read(2):
            size = head[1] & 0x7F
            if head[0] != TEXT or size > 100:
                break
            mask = self.rfile.read(4)
            said = bytes(octet ^ mask[at % 4] for at, octet in enumerate(self.rfile.read(size)))
            answer = f"{VERSION}: {self.path} {said.decode()}".encode()[:125]
            self.wfile.write(bytes([TEXT, len(answer)]) + answer)
        self.wfile.write(bytes([CLOSE, 0]))

    def log_message(self, format, *args):
        """The mesh logs requests."""


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


Server(("127.0.0.1", int(os.environ["PORT"])), Chat).serve_forever()
