"""Speaks first, as mail and database servers do: greets with its version, then gives back every line. Plain TCP."""

import os
import socketserver


class Lines(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(f"hello from {os.environ['VERSION']}\n".encode())
        for line in self.rfile:
            self.wfile.write(line)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    request_queue_size = 128
    daemon_threads = True


Server(("127.0.0.1", int(os.environ["PORT"])), Lines).serve_forever()
