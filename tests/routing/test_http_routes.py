"""Random HTTPRoutes: our proxy and Envoy, both led by our control plane, do what the Gateway API's text says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.routing import http_routes
from tests.routing.mesh import GATEWAYS, running, two_ports
from tests.routing.outcome import Local

ROUTES = 30
REQUESTS = 800


def test_as_the_standard_says(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    seed: int = request.config.getoption("--seed")
    ports = two_ports()
    maker = http_routes.Maker(seed, ports)
    documents = maker.documents(ROUTES)
    routes = [one for one in documents if one["kind"] == "HTTPRoute"]
    asked = list(maker.requests(routes, REQUESTS))
    kinds: dict[str, int] = {}
    wrong = []
    with running(tmp_path, documents, ports) as rig:
        for kind in GATEWAYS:
            for one, answer in zip(asked, rig.ask(kind, asked), strict=True):
                wanted = http_routes.expected(documents, one, ports[kind])
                name = "404" if wanted == Local(404) else type(wanted).__name__
                kinds[name] = kinds.get(name, 0) + 1
                for difference in wanted.differs(answer):
                    wrong.append(f"{kind} {one}: {difference}; {wanted}")
    assert not wrong, f"seed {seed}: {len(wrong)} of {len(asked) * 2}:\n" + "\n".join(wrong[:20])
    # The requests must have gone everywhere that routes lead.
    assert min(kinds.get(name, 0) for name in ("Local", "Redirected", "Forwarded")) > len(asked) / 100, kinds
