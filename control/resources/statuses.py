"""Statuses of answers that refuse."""

from __future__ import annotations

from typing import Final

#: Those that Envoy knows, from 400 on.
REFUSALS: Final = (*range(400, 418), 421, 422, 423, 424, 426, 428, 429, 431, *range(500, 509), 510, 511)
