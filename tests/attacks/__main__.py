"""`python -m tests.attacks [--seconds 30] [--proxy envoy]`: every class for so long, and a table of what came of it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.attacks.classes import ATTACKS
from tests.attacks.judge import Outcome, battlefield, judge
from tests.proxy.bootstrap import Json
from tests.proxy.running import Proxy, proxy


def main() -> int:
    """Run them all; 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.attacks")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--proxy", choices=["pymesh", "envoy"], default="pymesh")
    parser.add_argument("--only", nargs="*", help="names of classes")
    options = parser.parse_args()

    @contextmanager
    def run_proxy(config: Json) -> Iterator[Proxy]:
        with proxy(options.proxy, config) as started:
            yield started

    broken = 0
    print("| class | connections | MiB before | MiB at most | honest success | recovery s | counted | told |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for attack in ATTACKS:
        if options.only and attack.name not in options.only:
            continue
        # Each on a fresh proxy, so that figures do not depend on the order.
        with battlefield(run_proxy) as attacked:
            outcome = judge(attack, attacked, options.seconds)
        print(_row(outcome), flush=True)
        for failure in outcome.failures():
            broken += 1
            print(f"{attack.name}: {failure}", file=sys.stderr)
    return min(broken, 1)


def _row(outcome: Outcome) -> str:
    told = ", ".join(f"{code} x{times}" for code, times in outcome.told.items() if code != "connections")
    recovery = "-" if outcome.recovery is None else f"{outcome.recovery:.1f}"
    cells = [
        outcome.attack.name,
        outcome.told.get("connections", 0),
        f"{outcome.baseline_kib / 1024:.1f}",
        f"{outcome.peak_kib / 1024:.1f}",
        f"{outcome.success:.2%} of {outcome.good + len(outcome.bad)}",
        recovery,
        outcome.counted,
        told or "-",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    raise SystemExit(main())
