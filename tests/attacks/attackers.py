"""Ten attackers as a process of their own: `python -m tests.attacks.attackers PORT SECONDS NAME`.

Prints as JSON how many connections they made and which error codes they were told. Bounded in number and time.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter

from tests.attacks.classes import ATTACKS, Attack

ATTACKERS = 10
#: Between two connections, so that one attacker makes at most a hundred in a second.
_REST = 0.01


def attack(chosen: Attack, port: int, seconds: float) -> dict[str, int]:
    """Let all of them loose."""
    end = time.monotonic() + seconds
    told: Counter[str] = Counter()
    lock = threading.Lock()

    def run() -> None:
        while time.monotonic() < end:
            try:
                with chosen.act(port, lambda: time.monotonic() < end) as wire:
                    codes = wire.codes
            except OSError:
                codes = Counter()
            with lock:
                told["connections"] += 1
                told.update(codes)
            time.sleep(_REST)

    threads = [threading.Thread(target=run) for _ in range(ATTACKERS * chosen.connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return dict(told)


if __name__ == "__main__":
    port, seconds, name = sys.argv[1:]
    print(json.dumps(attack(next(one for one in ATTACKS if one.name == name), int(port), float(seconds))))
