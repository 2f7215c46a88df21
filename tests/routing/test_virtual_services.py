"""Random VirtualServices: our proxy and Envoy, both led by our control plane, do what Istio's documentation says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.routing import virtual_services
from tests.routing.mesh import GATEWAYS, running, two_ports
from tests.routing.outcome import Asked, Local

HOSTS = 40
REQUESTS = 20


def test_as_documented(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    seed: int = request.config.getoption("--seed")
    ports = two_ports()
    maker = virtual_services.Maker(seed, ports)
    documents = maker.documents(HOSTS)
    asked = [
        wanted
        for virtual in documents
        if virtual["kind"] == "VirtualService" and "hosts" in virtual["spec"]
        for wanted in maker.requests(virtual, REQUESTS)
    ]
    asked.append(Asked("nobody.test", "/"))
    kinds: dict[str, int] = {}
    wrong = []
    with running(tmp_path, documents, ports) as rig:
        for kind in GATEWAYS:
            for one, answer in zip(asked, rig.ask(kind, asked), strict=True):
                wanted = virtual_services.expected(documents, one, kind, ports[kind])
                name = "404" if wanted == Local(404) else type(wanted).__name__
                kinds[name] = kinds.get(name, 0) + 1
                for difference in wanted.differs(answer):
                    wrong.append(f"{kind} {one}: {difference}; {wanted}")
    assert not wrong, f"seed {seed}: {len(wrong)} of {len(asked) * 2}:\n" + "\n".join(wrong[:20])
    # The requests must have gone everywhere that routes lead.
    assert min(kinds[name] for name in ("Local", "Redirected", "Forwarded")) > len(asked) / 20, kinds
