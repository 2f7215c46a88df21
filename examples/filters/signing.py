"""Requests that are signed on their way out, and signatures that are checked on their way in.

The signature is an HMAC (SHA-256) over the time, the method, the path and the body, by a key that both sides have in a
file. A request is good for `window`, so that one that was overheard cannot be sent again tomorrow.
"""

import hmac
import time
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

from pymesh.filters import Context, HttpFilter, Reply, Request

SIGNATURE = "x-signature"
TIME = "x-signature-time"


@dataclass
class Settings:
    """Where the key is: it is read when the filter is loaded, and belongs into no resource."""

    key_file: str
    window: timedelta = timedelta(minutes=5)


class _Keyed(HttpFilter[Settings]):
    Config = Settings
    max_body = 1024 * 1024

    def setup(self) -> None:
        self.key = Path(self.config.key_file).read_bytes().strip()
        if len(self.key) < 32:
            raise ValueError(f"the key in {self.config.key_file} is shorter than 32 octets")

    def signature(self, at: str, request: Request, body: bytes) -> str:
        """Each part is told apart from the next: none of them holds a line break but the body, which is the last."""
        head = "\n".join((at, request.method, request.path)).encode("latin-1")
        return hmac.new(self.key, head + b"\n" + sha256(body).digest(), sha256).hexdigest()


class Sign(_Keyed):
    """For the calling side: `match: [{mode: CLIENT}]`."""

    def on_request_body(self, request: Request, body: bytes, ctx: Context) -> bytes | Reply | None:
        at = str(int(time.time()))
        request.headers[TIME] = at
        request.headers[SIGNATURE] = self.signature(at, request, body)
        return None


class Verify(_Keyed):
    """For the called side: answers 401 to what is not signed, 403 to what is signed wrongly."""

    def on_request_body(self, request: Request, body: bytes, ctx: Context) -> bytes | Reply | None:
        at, told = request.headers.get(TIME), request.headers.get(SIGNATURE)
        if at is None or told is None:
            return Reply(401, b"a signature is needed\n")
        if not at.isdecimal() or abs(time.time() - int(at)) > self.config.window.total_seconds():
            return Reply(403, b"the signature is out of date\n")
        if not hmac.compare_digest(told.encode("latin-1"), self.signature(at, request, body).encode()):
            return Reply(403, b"the signature is wrong\n")
        del request.headers[SIGNATURE]
        del request.headers[TIME]
        return None
