"""A case in a proxy's engine, without sockets and clock."""

from __future__ import annotations

import contextlib
import io
import json

from pymesh._bridge.simulated import SimulatedProxy
from pymesh.simulated import answer as answers
from pymesh.simulated.http1 import Http1Server, Respond, request_octets
from pymesh.simulated.messages import Answered, Asked
from pymesh.simulated.network import Dialled, Landing, Network, Node, Serving
from pymesh.testing.pieces import pieces
from tests.contract.case import Case, Lane, Outcome
from tests.contract.proxies import LOG_LINE, listener, name, outcome
from tests.proxy.bootstrap import bootstrap, cluster

_LOG = {
    "name": "log",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
        "log_format": {"text_format_source": {"inline_string": LOG_LINE}},
    },
}
_PORT, _UPSTREAM, _ADMIN = 80, 8080, 15000
_SECONDS = 60.0


def run(case: Case, lane: Lane = "inline") -> Outcome:
    """What comes of it."""
    config = bootstrap([listener(case, lane, 0, _PORT, _LOG)], [cluster(name(0), [_UPSTREAM])], _ADMIN)
    node = Node("proxy", "127.0.0.1", SimulatedProxy(json.dumps(config), seed=1, unix_nanos=0))
    reached: list[Asked] = []

    def handle(asked: Asked, respond: Respond) -> None:
        reached.append(asked)
        respond(case.answer)

    network = Network(lambda _, __: Serving("upstream", lambda peer: Http1Server(peer, handle)))
    dialled = network.dial(Landing(node, node.proxy.listeners[0].key, f"127.0.0.1:{_PORT}"), "192.0.2.1")
    output = io.StringIO()
    with contextlib.redirect_stderr(output):
        answer = _exchange(case, network, dialled)
    line = node.proxy.take_log().decode().strip()
    asked = reached[0] if reached else None
    return outcome(0, line, node.proxy.stats, upstream=asked, client=answer, output=output.getvalue())


def _exchange(case: Case, network: Network, dialled: Dialled) -> Answered:
    for octets in request_octets(case.request, pieces(case.request.body, case.split or None)):
        dialled.send(octets)
        network.run(lambda: False, 0)

    def is_done() -> bool:
        return answers.read(bytes(dialled.received), case.request.method, is_over=dialled.is_over) is not None

    assert network.run(is_done, _SECONDS), f"no answer: {bytes(dialled.received)!r}"
    answer = answers.read(bytes(dialled.received), case.request.method, is_over=dialled.is_over)
    dialled.close()
    network.run(lambda: False, _SECONDS)
    assert answer is not None
    return answer
