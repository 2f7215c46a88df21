"""What a good token says, as dynamic metadata: where its filter leaves it, and how policies and routes ask for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

#: The filter, whose name is its namespace of dynamic metadata, and the key in it. Istio's.
FILTER: Final = "envoy.filters.http.jwt_authn"
PAYLOAD: Final = "payload"


def matcher(path: Sequence[str], match: dict[str, Any], *, invert: bool = False) -> dict[str, Any]:
    """``MetadataMatcher`` of a claim that matches, or is a list of which one does."""
    return {
        "filter": FILTER,
        "path": [{"key": key} for key in (PAYLOAD, *path)],
        "value": {"or_match": {"value_matchers": [{"list_match": {"one_of": match}}, match]}},
        "invert": invert,
    }
