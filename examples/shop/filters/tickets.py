"""A filter of the shop: asks another service, through the mesh, whether a request may pass."""

from dataclasses import dataclass

from pymesh.filters import CallError, Context, HttpFilter, Reply, Request, When


@dataclass
class Settings:
    """What the PythonFilter's `config` may say."""

    usher: str


class Tickets(HttpFilter[Settings]):
    """Shows the ticket of a request to the usher; who has none is sent away."""

    Config = Settings
    lane = "async"
    when = (When(":path", "prefix", "/hall"),)

    async def on_request_headers(self, request: Request, ctx: Context) -> Reply | None:
        ticket = request.headers.get("x-ticket", "") or ""
        try:
            answer = await ctx.call(self.config.usher, "GET", "/check" + request.path, {"x-ticket": ticket})
        except CallError as error:
            return Reply(503, f"the usher does not answer: {error.flags or error.reason}\n".encode())
        if answer.status != 200:
            return Reply(answer.status, b"a ticket, please\n")
        request.headers["x-guest"] = answer.headers["x-guest"]
        return None
