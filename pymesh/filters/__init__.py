"""The filter contract: what a filter author imports. See `SPEC.md` beside this file.

This package imports the standard library only, so that a filter can be written, typed and tested where no
proxy is installed.
"""

from pymesh.filters.api import (
    CONTRACT_VERSION,
    Answer,
    CallError,
    Context,
    Headers,
    HttpFilter,
    LogRecord,
    Reply,
    Request,
    Response,
    When,
)

__all__ = [
    "CONTRACT_VERSION",
    "Answer",
    "CallError",
    "Context",
    "Headers",
    "HttpFilter",
    "LogRecord",
    "Reply",
    "Request",
    "Response",
    "When",
]
