"""The filter whose cost is measured: one header read and one set on the request, one set on the response."""

from pymesh.filters import Context, HttpFilter, Request, Response


class Stamp(HttpFilter):
    """Marks what passes."""

    def on_request_headers(self, request: Request, ctx: Context) -> None:
        """Say who asked."""
        request.headers["x-asked-by"] = request.headers.get("user-agent", "nobody")

    def on_response_headers(self, response: Response, ctx: Context) -> None:
        """Say that it passed."""
        response.headers["x-stamped"] = "yes"
