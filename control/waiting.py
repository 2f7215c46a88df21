"""Waiting of those who go round: until something changes, or it is time to look again."""

from __future__ import annotations

import asyncio


async def changed_within(changed: asyncio.Event, seconds: float) -> bool:
    """Wait for a change, which is then taken note of; False if there was none in so many seconds.

    Not `wait_for`: until Python 3.12 it may forget a cancellation when what it waits for comes true.
    """
    try:
        async with asyncio.timeout(seconds):
            await changed.wait()
    except TimeoutError:
        return False
    changed.clear()
    return True
