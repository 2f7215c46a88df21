"""Two of these keep books together over plain TCP: each takes lines, gives them back, and writes some to the other.

A connection carries ten lines, then comes the next one; those that are short and those that last are both seen.
"""

import os
import socket
import socketserver
import threading
import time
from contextlib import suppress

THEIRS = os.environ["OTHER"].upper()


class Lines(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def write():
    address = os.environ[f"{THEIRS}_SERVICE_HOST"], int(os.environ[f"{THEIRS}_SERVICE_PORT"])
    while True:
        # The other one may not be there yet.
        with suppress(OSError), socket.create_connection(address, 10) as connection:
            for _ in range(10):
                connection.sendall(b"three of those, two of these\n")
                if not connection.recv(4096):
                    break
                time.sleep(0.05)
        time.sleep(0.05)


threading.Thread(target=write, daemon=True).start()
Server(("127.0.0.1", int(os.environ["PORT"])), Lines).serve_forever()
