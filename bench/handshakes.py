"""A TLS client that makes a connection for each request: `handshakes.py PORT SECONDS CONNECTIONS new|resumed`.

Prints a JSON object: requests, per_second, and the latencies p50 and p99 in milliseconds, connecting included.
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
import time
from concurrent.futures import ThreadPoolExecutor

REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"


def ask(context: ssl.SSLContext, port: int, session: ssl.SSLSession | None) -> ssl.SSLSession | None:
    """One connection and one request; returns the session that another may continue."""
    plain = socket.create_connection(("127.0.0.1", port), timeout=30)
    with context.wrap_socket(plain, server_hostname="bench.test", session=session) as stream:
        stream.sendall(REQUEST)
        answer = b""
        while piece := stream.recv(65536):
            answer += piece
        if not answer.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"not answered with 200: {answer[:80]!r}")
        if stream.version() != "TLSv1.3" or (session and not stream.session_reused):
            raise SystemExit(f"{stream.version()}, resumed: {stream.session_reused}")
        return stream.session


def connections(port: int, seconds: float, resume: bool) -> list[float]:
    """Ask for so long; returns the durations in seconds, that of the first connection too."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    until, session, durations = time.monotonic() + seconds, None, []
    while not durations or time.monotonic() < until:
        start = time.monotonic()
        # TLS 1.3 tickets are meant for one use (RFC 8446 appendix C.4): each answer brings the next.
        session = ask(context, port, session if resume else None)
        durations.append(time.monotonic() - start)
    return durations


def main() -> None:
    """Several connections at a time, each in a thread: handshakes run without the interpreter's lock."""
    port, seconds, count, kind = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    with ThreadPoolExecutor(count) as pool:
        runs = [pool.submit(connections, port, seconds, kind == "resumed") for _ in range(count)]
        durations = sorted(one for run in runs for one in run.result())
    p50, p99 = (durations[int(len(durations) * share)] * 1000 for share in (0.50, 0.99))
    print(json.dumps({"requests": len(durations), "per_second": len(durations) / seconds, "p50": p50, "p99": p99}))


if __name__ == "__main__":
    main()
