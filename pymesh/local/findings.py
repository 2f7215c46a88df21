"""What the control plane finds wrong with the configuration, as its admin page tells it."""

from __future__ import annotations

import json

from pymesh.local import http


async def findings(admin_port: int) -> list[str]:
    """Everything wrong with the newest files: `FILE:LINE:COLUMN: error: ...`, with a hint on a line of its own.

    Raises OSError or :class:`http.HttpError` if the control plane does not answer.
    """
    answer = await http.get(admin_port, "/debug/configz")
    return [
        f"{one['at']}: {one['severity']}: {one['message']}" + (f"\n  hint: {one['hint']}" if one["hint"] else "")
        for one in json.loads(answer.body)["diagnostics"]
    ]
