"""The filter of `stamp.py` as an addon of mitmproxy."""

from mitmproxy.http import HTTPFlow


def request(flow: HTTPFlow) -> None:
    """Say who asked."""
    flow.request.headers["x-asked-by"] = flow.request.headers.get("user-agent", "nobody")


def response(flow: HTTPFlow) -> None:
    """Say that it passed."""
    flow.response.headers["x-stamped"] = "yes"  # type: ignore[union-attr]
