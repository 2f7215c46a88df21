"""An endpoint that joins begins with a part of its share, which grows by the same curve with ours and with Envoy.

Time is real here, so only shares are judged: each request by what the curve says of the moment at which it was sent.
The curve itself is held in virtual time (`rust/engine/src/cluster/balance/slow_start.rs`).
"""

from __future__ import annotations

import http.client
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from tests.proxy.bootstrap import Json, bootstrap, cluster, http_listener, to_cluster, virtual_host
from tests.proxy.controlled import Counted
from tests.proxy.running import Proxy, eventually, proxy
from tests.tools.ports import free_port

KINDS = ["envoy", "pymesh"]
CURVES = [("ROUND_ROBIN", 1.0), ("LEAST_REQUEST", 2.0)]
WINDOW_S = 4.0
#: Parts of the window: while it warms up, and when it is warm.
PARTS = [(0.0, 0.25), (0.25, 0.5), (0.5, 1.0), (1.0, 1.25)]
#: A share may be off by so much: the first moment is not known exactly, and weights count from turn to turn.
TOLERANCE = 0.1
CHECK: Json = {
    "timeout": "5s",
    "interval": "0.1s",
    "no_traffic_interval": "0.1s",
    "unhealthy_threshold": 1,
    "healthy_threshold": 1,
    "tcp_health_check": {},
}


def _config(kind: str, ports: list[int], policy: str, aggression: float) -> Json:
    slow: Json = {
        "slow_start_window": f"{WINDOW_S}s",
        "min_weight_percent": {"value": 10},
        "aggression": {"default_value": aggression, "runtime_key": "aggression"},
    }
    settings: Json = {f"{policy.lower()}_lb_config": {"slow_start_config": slow}}
    if kind == "envoy":
        # Its workers learn of it at once, as ours do, and not within a second.
        settings["common_lb_config"] = {"update_merge_window": "0s"}
    some = cluster("some", ports, health_checks=[CHECK], lb_policy=policy, **settings)
    listener = http_listener(free_port(), [virtual_host("all", [to_cluster("some")])])
    return bootstrap([listener], [some], free_port())


def _seen(started: Proxy, began: float) -> list[tuple[float, bool]]:
    """Of each request after the endpoint has joined: when it was sent, and whether that endpoint has answered."""
    seen = []
    connection = http.client.HTTPConnection("127.0.0.1", started.port, timeout=60)
    while (now := time.monotonic() - began) < WINDOW_S * PARTS[-1][1]:
        connection.request("GET", "/")
        seen.append((now, connection.getresponse().read().startswith(b"new")))
        time.sleep(0.003)
    connection.close()
    return seen


def test_a_share_grows_by_the_same_curve() -> None:
    with ExitStack() as stack:
        old = stack.enter_context(Counted("old").serving())
        new = Counted("new", port=free_port())
        started = [
            stack.enter_context(proxy(kind, _config(kind, [old.port, new.port], policy, aggression)))
            for policy, aggression in CURVES
            for kind in KINDS
        ]
        # Both have looked, and found one endpoint.
        for one in started:
            assert eventually(lambda one=one: one.stats()["cluster.some.membership_healthy"] == 1, 60)
        # The other one was new, too.
        time.sleep(WINDOW_S)
        stack.enter_context(new.serving())
        began = time.monotonic()
        with ThreadPoolExecutor(len(started)) as pool:
            seen = list(pool.map(_seen, started, [began] * len(started)))
    curves = [aggression for _, aggression in CURVES for _ in KINDS]
    shares = [_shares(one, aggression) for one, aggression in zip(seen, curves, strict=True)]
    for one in shares:
        for share, expected in one:
            assert abs(share - expected) <= TOLERANCE, shares


def _shares(seen: list[tuple[float, bool]], aggression: float) -> list[tuple[float, float]]:
    """Of each part of the window: the share of the new endpoint, and what the curve says it should be."""

    def weight(at: float) -> float:
        return float(min(1.0, max(0.1, (at / WINDOW_S) ** (1 / aggression))))

    found = []
    for begin, end in PARTS:
        of_part = [(at, was_new) for at, was_new in seen if begin <= at / WINDOW_S < end]
        if not of_part:
            continue  # the machine has slept through it
        share = sum(was_new for _, was_new in of_part) / len(of_part)
        found.append((share, sum(weight(at) / (1 + weight(at)) for at, _ in of_part) / len(of_part)))
    return found
