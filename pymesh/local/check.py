"""`pymesh up --check`: the promises of the shop, held against a running mesh.

Each promise is one function that returns what was seen, or raises :class:`Broken`. Traffic runs all the while where a
promise says that no request fails. The promises speak of the shop's services by name; they are its test, not a
general one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pymesh.local import config, http, stats, traffic
from pymesh.local.meshfile import Traffic
from pymesh.local.runner import RUN_VARIABLE, Runner
from pymesh.local.traffic import Tally

REQUESTS = 2000
_RATE = 60
_FOLLOWS_S = 1.0


class Broken(Exception):  # noqa: N818 - a promise is broken
    """A promise does not hold: what was seen."""


@dataclass(frozen=True, slots=True)
class Result:
    """One promise, and what was seen."""

    promise: str
    kept: bool
    seen: str


Promise = Callable[["Check"], Awaitable[str]]


@dataclass(slots=True)
class Check:
    """A mesh under check."""

    runner: Runner
    traffic: Traffic

    @property
    def port(self) -> int:
        """The gateway's."""
        return self.runner.gateway_ports[self.traffic.gateway]

    async def run(self, done: Callable[[Result], None]) -> bool:
        """Go through all promises; `done` is called after each. True if all hold."""
        kept = True
        for text, promise in PROMISES:
            try:
                result = Result(text, True, await promise(self))
            except (Broken, http.HttpError, OSError, KeyError) as error:
                result = Result(text, False, str(error) or repr(error))
            kept &= result.kept
            done(result)
        return kept

    @asynccontextmanager
    async def load(self) -> AsyncIterator[Tally]:
        """Steady traffic; at the end no request may have failed."""
        tally = Tally()
        task = asyncio.create_task(traffic.steady(self.port, self.traffic.path, _RATE, tally))
        try:
            yield tally
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        if tally.failed:
            raise Broken(f"{tally.failed} of {tally.total} requests failed, the first with {tally.first_failure}")

    def weigh(self, v1: int, v2: int) -> None:
        """Write new weights into the routing file."""
        config.set_weights(self.runner.config, "reviews", {"v1": v1, "v2": v2})

    async def follows(self, tally: Tally, v1: float, within: float = _FOLLOWS_S) -> str:
        """Wait as long as a change may take, then see whether the split is `v1` to the rest."""
        await asyncio.sleep(within)
        before = tally.copy()
        await asyncio.sleep(2.0)
        seen = tally - before
        share = seen.share("v1")
        # Four standard deviations of a fair draw; none at the ends, where the split is exact.
        spread = 4 * (v1 * (1 - v1) / max(seen.versions.total(), 1)) ** 0.5
        if not seen.versions.total() or abs(share - v1) > spread:
            raise Broken(f"{share:.0%} of {seen.versions.total()} went to v1, not {v1:.0%}")
        return f"{share:.0%} to v1"


async def _all_answered(check: Check) -> str:
    tally = await traffic.burst(check.port, check.traffic.path, REQUESTS)
    if tally.failed:
        raise Broken(f"{tally.failed} of {tally.total} failed, the first with {tally.first_failure}")
    share = tally.share("v1")
    spread = 4 * (0.8 * 0.2 / tally.total) ** 0.5
    if abs(share - 0.8) > spread:
        raise Broken(f"{share:.1%} went to v1 of the reviews, not 80 %")
    return f"{tally.total} of 200, {share:.1%} to v1 of the reviews (80 % asked for)"


async def _weights_follow(check: Check) -> str:
    seen = []
    async with check.load() as tally:
        for v1, v2 in ((100, 0), (50, 50), (0, 100), (80, 20)):
            check.weigh(v1, v2)
            seen.append(f"{v1}/{v2}: {await check.follows(tally, v1 / 100)}")
    return f"{'; '.join(seen)}; {tally.total} requests, none failed"


async def _replica_dies(check: Check) -> str:
    async with check.load() as tally:
        await asyncio.sleep(0.5)
        check.runner.process("catalog-0").kill()
        await asyncio.sleep(0.5)
        # Its sidecar goes as well, as when a machine dies.
        check.runner.process("catalog-0.proxy").kill()
        await asyncio.sleep(2.5)
    return f"{tally.total} requests, none failed"


async def _control_dies(check: Check) -> str:
    async with check.load() as tally:
        await asyncio.sleep(0.3)
        check.runner.process("control").kill()
        await asyncio.sleep(2.0)
        without = tally.total
        check.weigh(50, 50)
        await check.runner.start_control()
        # Proxies reconnect with back-off; the change that was made meanwhile must arrive.
        for _ in range(20):
            try:
                seen = await check.follows(tally, 0.5)
                break
            except Broken:
                continue
        else:
            raise Broken("the proxies did not take the change that was made while the control plane was away")
    return f"{without} requests without a control plane, none failed; resynced: {seen}"


async def _filter_works(check: Check) -> str:
    refused = await http.get(check.port, check.traffic.path, {"x-user": "mallory"})
    if refused.status != 403:
        raise Broken(f"mallory was answered {refused.status}")
    welcome = await http.get(check.port, check.traffic.path, {"x-user": "alice"})
    greeting = welcome.headers.get("x-greeting")
    if (welcome.status, greeting) != (200, "welcome, alice"):
        raise Broken(f"alice was answered {welcome.status} with x-greeting {greeting!r}")
    return f"mallory: 403; alice: 200, x-greeting: {greeting}"


async def _mutual_tls(check: Check) -> str:
    policies: dict[str, int] = {}
    for page in await stats.scrape(check.runner.plan):
        for name, labels, value in stats.samples(page):
            if name == "istio_requests_total" and labels.get("reporter") == "destination":
                policy = labels["connection_security_policy"]
                policies[policy] = policies.get(policy, 0) + int(value)
    if set(policies) != {"mutual_tls"}:
        raise Broken(f"requests by connection_security_policy: {policies}")
    return f"{policies['mutual_tls']} requests between sidecars, all over mutual TLS"


PROMISES: tuple[tuple[str, Promise], ...] = (
    (f"{REQUESTS} requests through the gateway are answered", _all_answered),
    ("a filter greets alice and refuses mallory", _filter_works),
    ("new weights take effect within a second, and no request fails", _weights_follow),
    ("sidecars speak mutual TLS to each other", _mutual_tls),
    ("the control plane dies and comes back, and no request fails", _control_dies),
    ("a replica dies, and no request fails", _replica_dies),
)


def leftovers(folder: Path) -> list[str]:
    """Processes that still run out of a run's folder, apps and what they started among them."""
    found = []
    mark = f"{RUN_VARIABLE}={folder}".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    found.append(f"{entry.name}: {command.strip()}")
    return found
