"""Tells what it was asked, and which copy of it was: what scenarios look at. It counts requests, by path."""

import os
from collections import Counter

from service import body, serve

_seen = Counter()


def page(path, headers):
    _seen[path] += 1
    if path == "/_seen":
        return {"seen": dict(_seen), "total": _seen.total() - _seen["/_seen"]}
    return {
        "replica": os.environ["REPLICA"],
        "version": os.environ["VERSION"],
        "path": path,
        "body": body(),
        "headers": {name.lower(): value for name, value in headers.items()},
    }


serve(page)
