"""Half of the users see the new shop, and each goes on seeing the one that it saw first.

The filter only says which variant a user has, in a header that routes match on (`match: [{headers: {x-variant: ...}}]`)
and in a cookie that the user brings along the next time.
"""

import random
from dataclasses import dataclass
from datetime import timedelta
from http.cookies import CookieError, SimpleCookie

from pymesh.filters import Context, HttpFilter, Reply, Request, Response


@dataclass
class Settings:
    """The variants, each with its weight."""

    variants: dict[str, int]
    cookie: str = "variant"
    header: str = "x-variant"
    remembered: timedelta = timedelta(days=30)

    def __post_init__(self) -> None:
        if sum(self.variants.values()) <= 0 or min(self.variants.values()) < 0:
            raise ValueError("the weights must be positive")


class AbCookie(HttpFilter[Settings]):
    """Chooses a variant for who has none."""

    Config = Settings

    def on_request_headers(self, request: Request, ctx: Context) -> Reply | None:
        variant = self._told(request)
        if variant is None:
            (variant,) = random.choices([*self.config.variants], [*self.config.variants.values()])
            ctx["chosen"] = variant
        # Whatever a client has written there itself is replaced.
        request.headers[self.config.header] = variant
        return None

    def on_response_headers(self, response: Response, ctx: Context) -> Reply | None:
        chosen = ctx.get("chosen")
        if chosen is not None:
            age = int(self.config.remembered.total_seconds())
            cookie = f"{self.config.cookie}={chosen}; Max-Age={age}; Path=/; HttpOnly; SameSite=Lax"
            response.headers.add("set-cookie", cookie)
        return None

    def _told(self, request: Request) -> str | None:
        """The variant that the user has brought along, if there still is one of that name."""
        cookies: SimpleCookie = SimpleCookie()
        try:
            for line in request.headers.getall("cookie"):
                cookies.load(line)
        except CookieError:
            return None
        told = cookies.get(self.config.cookie)
        return told.value if told is not None and told.value in self.config.variants else None
