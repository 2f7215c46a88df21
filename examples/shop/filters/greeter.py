"""A filter of the shop: greets every request, and does not serve one user."""

from dataclasses import dataclass

from pymesh.filters import Context, HttpFilter, Reply, Request, Response


@dataclass
class Settings:
    """What the PythonFilter's `config` may say."""

    header: str = "x-greeting"
    greeting: str = "welcome"
    refuse: tuple[str, ...] = ()


class Greeter(HttpFilter[Settings]):
    """Adds a header on the way in and on the way out; answers 403 to users that are not welcome."""

    Config = Settings

    def on_request_headers(self, request: Request, ctx: Context) -> Reply | None:
        user = request.headers.get("x-user", "guest") or "guest"
        if user in self.config.refuse:
            return Reply(403, f"{user} is not welcome here\n".encode())
        ctx["user"] = user
        request.headers[self.config.header] = f"{self.config.greeting}, {user}"
        return None

    def on_response_headers(self, response: Response, ctx: Context) -> Reply | None:
        response.headers[self.config.header] = f"{self.config.greeting}, {ctx['user']}"
        return None
