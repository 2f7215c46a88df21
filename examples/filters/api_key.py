"""Only clients with a key get in; the upstream learns who they are, and never sees the key.

The configuration holds digests: whoever reads it cannot ask with it. `printf %s KEY | sha256sum` makes one.
"""

from dataclasses import dataclass
from hashlib import sha256

from pymesh.filters import Context, HttpFilter, Reply, Request


@dataclass
class Settings:
    """Digests of keys (SHA-256, in hexadecimal), each with the name of its client."""

    clients: dict[str, str]
    header: str = "x-api-key"
    tell: str = "x-client"


class ApiKey(HttpFilter[Settings]):
    """Answers 401 to a request without a key that is known."""

    Config = Settings

    def on_request_headers(self, request: Request, ctx: Context) -> Reply | None:
        keys = request.headers.getall(self.config.header)
        # A digest is looked up in a table: how long that takes says nothing about a key.
        client = self.config.clients.get(sha256(keys[0].encode("latin-1")).hexdigest()) if len(keys) == 1 else None
        if client is None:
            return Reply(401, b"a key is needed\n", {"www-authenticate": "ApiKey"})
        del request.headers[self.config.header]
        request.headers[self.config.tell] = client
        return None
