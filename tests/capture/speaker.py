"""A server that speaks first: `hello` with the address that it was called by and the caller's; then it says back what
it is told, line by line. Its arguments are the ports."""

import selectors
import socket
import sys
import threading


def name(address: tuple[str, int]) -> str:
    """As people write it."""
    return address[0].removeprefix("::ffff:")


def serve(connection: socket.socket) -> None:
    """One client, to its end."""
    with connection:
        lines = connection.makefile("rwb")
        local, remote = connection.getsockname(), connection.getpeername()
        lines.write(f"hello {name(local)} {local[1]} {name(remote)}\n".encode())
        lines.flush()
        for line in lines:
            lines.write(line)
            lines.flush()


def main() -> None:
    """Until it is ended."""
    waiting = selectors.DefaultSelector()
    for port in sys.argv[1:]:
        listener = socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True)
        waiting.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in waiting.select():
            assert isinstance(key.fileobj, socket.socket)
            connection, _ = key.fileobj.accept()
            threading.Thread(target=serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
