"""Structured logs: one JSON object a line on standard error."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

#: What every record has; the rest came as ``extra``.
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class JsonLines(logging.Formatter):
    """``{"time": ..., "level": ..., "scope": ..., "msg": ..., <extra>}``."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "scope": record.name.removeprefix("pymesh."),
            "msg": record.getMessage(),
        }
        line |= {key: value for key, value in vars(record).items() if key not in _PLAIN}
        if record.exc_info:
            line["stack"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(level: str) -> None:
    """Send this process's logs to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # grpclib logs every cancelled call with a traceback; the services log what matters of it.
    logging.getLogger("grpclib").setLevel(logging.ERROR)
    logging.getLogger("h2").setLevel(logging.ERROR)
    logging.getLogger("hpack").setLevel(logging.ERROR)
    # Every request to an API server is no news.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
