"""Half of `stamp.py`: one hook, which reads one header and sets one."""

from pymesh.filters import Context, HttpFilter, Request


class Ask(HttpFilter):
    """Marks what comes."""

    def on_request_headers(self, request: Request, ctx: Context) -> None:
        """Say who asked."""
        request.headers["x-asked-by"] = request.headers.get("user-agent", "nobody")
