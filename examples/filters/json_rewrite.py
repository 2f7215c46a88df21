"""Fields of JSON objects that are set, renamed or left out on their way, in requests and in answers.

Bodies are seen whole, up to `max_body` octets: the proxy answers a longer request 413.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from pymesh.filters import Context, HttpFilter, Reply, Request, Response


@dataclass
class Changes:
    """What becomes of an object's fields, in this order."""

    drop: tuple[str, ...] = ()
    rename: dict[str, str] = field(default_factory=dict)
    set: dict[str, Any] = field(default_factory=dict)

    def apply(self, value: Any) -> Any:
        """The value with each of its objects changed; lists are looked into."""
        if isinstance(value, list):
            return [self.apply(one) for one in value]
        if not isinstance(value, dict):
            return value
        return {self.rename.get(name, name): self.apply(one) for name, one in value.items() if name not in self.drop}

    def changed(self, body: bytes) -> bytes:
        """The whole document. Raises `ValueError` if it is no JSON."""
        value = self.apply(json.loads(body))
        if isinstance(value, dict):
            value |= self.set
        return json.dumps(value, separators=(",", ":")).encode()


@dataclass
class Settings:
    """For each direction."""

    request: Changes = field(default_factory=Changes)
    response: Changes = field(default_factory=Changes)


class JsonRewrite(HttpFilter[Settings]):
    """Changes bodies that say they are JSON, and no others."""

    Config = Settings
    max_body = 256 * 1024

    def on_request_body(self, request: Request, body: bytes, ctx: Context) -> bytes | Reply | None:
        if not body or not _is_json(request):
            return None
        try:
            return self.config.request.changed(body)
        except ValueError:
            return Reply(400, b"the body is not JSON\n")

    def on_response_body(self, response: Response, body: bytes, ctx: Context) -> bytes | Reply | None:
        if not body or not _is_json(response) or response.headers.get("content-encoding"):
            return None
        try:
            return self.config.response.changed(body)
        except ValueError:
            # What the service has sent is not this filter's to judge.
            return None


def _is_json(message: Request | Response) -> bool:
    kind = (message.headers.get("content-type") or "").partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")
