"""Services by DNS whose answers change: ours and Envoy, side by side, behind one DNS server of the test's own.

Addresses come and go without a word to the connections of those that stay; a server that fails costs nothing; a name
that is gone takes its endpoints along.
"""

from __future__ import annotations

import http.client
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from dnslib import AAAA, QTYPE, RCODE, RR, A
from dnslib.server import BaseResolver, DNSLogger, DNSServer

from tests.proxy.controlled import Counted, controlled, write
from tests.proxy.running import eventually
from tests.tools.peers import peer
from tests.tools.ports import free_port

SERVER = "127.77.0.53"
FIRST, SECOND = "127.77.0.1", "127.77.0.2"
FAILS = None
PATIENCE = 120

MESH = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: api, namespace: shop}}
spec:
  hosts: [api.test]
  resolution: DNS
  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {origin}}}]
  endpoints: [{{address: one.test}}, {{address: two.test}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: robin, namespace: shop}}
spec:
  hosts: [robin.test]
  resolution: DNS_ROUND_ROBIN
  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {origin}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: api, namespace: shop}}
spec: {{host: api.test, trafficPolicy: {{loadBalancer: {{simple: ROUND_ROBIN}}}}}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: ingress, namespace: shop}}
spec:
  selector: {{proxy: pymesh}}
  servers: [{{port: {{number: {pymesh}, name: http, protocol: HTTP}}, bind: 127.0.0.1, hosts: ["*"]}}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: other, namespace: shop}}
spec:
  selector: {{proxy: envoy}}
  servers: [{{port: {{number: {envoy}, name: http, protocol: HTTP}}, bind: 127.0.0.1, hosts: ["*"]}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: api, namespace: shop}}
spec:
  hosts: ["*"]
  gateways: [ingress, other]
  http:
    - {{match: [{{uri: {{prefix: /robin}}}}], route: [{{destination: {{host: robin.test}}}}], retries: {{attempts: 0}}}}
    - {{route: [{{destination: {{host: api.test}}}}], retries: {{attempts: 0}}}}
"""


@dataclass
class Names(BaseResolver):  # type: ignore[misc]
    """What each name answers: addresses; none, that it does not exist; `FAILS`, that the server has failed."""

    answers: dict[str, list[str] | None] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)

    def resolve(self, request, handler):  # type: ignore[no-untyped-def]
        name = str(request.q.qname).rstrip(".")
        reply = request.reply()
        found = self.answers.get(name, [])
        self.asked[name] += 1
        if found is FAILS:
            reply.header.rcode = RCODE.SERVFAIL
        elif not found:
            reply.header.rcode = RCODE.NXDOMAIN
        for address in found or []:
            if (":" in address, QTYPE[request.q.qtype]) in ((False, "A"), (True, "AAAA")):
                data = AAAA(address) if ":" in address else A(address)
                reply.add_answer(RR(name, request.q.qtype, ttl=1, rdata=data))
        return reply


@contextmanager
def name_server(names: Names) -> Iterator[None]:
    """A DNS server on its own loopback address, at the port that resolvers ask."""
    server = DNSServer(names, address=SERVER, port=53, logger=DNSLogger(log="", prefix=False))
    thread = threading.Thread(target=server.server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.server.shutdown()
        server.server.server_close()
        thread.join()


def asks(file: Path) -> list[str]:
    """What makes a command ask the test's DNS server: a file system in which resolv.conf says so."""
    file.write_text(f"nameserver {SERVER}\noptions timeout:1 attempts:2\n")
    return [peer("unshare"), "--mount", "sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"', str(file)]


def ask(port: int, path: str = "/") -> str:
    """Who answers, or the status of who does not."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path, headers={"host": "any.test"})
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return body.split()[0] if answer.status == 200 else str(answer.status)


def _answers(port: int, path: str, wanted: Callable[[set[str]], bool]) -> bool:
    return wanted({ask(port, path) for _ in range(6)})


def test_endpoints_follow_the_answers(tmp_path: Path) -> None:
    ports = {"pymesh": free_port(), "envoy": free_port()}
    origin = free_port()
    names = Names({"one.test": [FIRST], "two.test": FAILS, "robin.test": [FIRST, SECOND]})
    with ExitStack() as stack:
        first = stack.enter_context(Counted("first", FIRST, origin).serving())
        second = stack.enter_context(Counted("second", SECOND, origin).serving())
        stack.enter_context(name_server(names))
        write(tmp_path, "mesh.yaml", MESH.format(origin=origin, **ports))
        prefix = asks(tmp_path / "resolv.conf")
        for kind in ports:
            node = f"router~127.0.0.1~{kind}.shop~shop.svc.cluster.local"
            stack.enter_context(controlled(kind, tmp_path, node, {"proxy": kind}, prefix=prefix))

        def both(wanted: Callable[[set[str]], bool], path: str = "/") -> bool:
            """Whether each of the two comes to answer so."""
            return all(eventually(partial(_answers, port, path, wanted), PATIENCE) for port in ports.values())

        # One name that cannot be looked up keeps nothing from the other.
        assert both(lambda seen: seen == {"first"}), names.asked
        held = first.connections
        names.answers["one.test"] = [FIRST, SECOND]
        assert both(lambda seen: seen == {"first", "second"})
        assert first.connections == held, "the connections to who stays go on"
        # A server that fails says nothing about the endpoints.
        names.answers["one.test"] = FAILS
        asked = names.asked["one.test"]
        assert eventually(lambda: names.asked["one.test"] >= asked + 12, PATIENCE)
        assert both(lambda seen: seen == {"first", "second"})
        held = second.connections
        names.answers["one.test"] = [SECOND]
        assert both(lambda seen: seen == {"second"})
        assert second.connections == held
        names.answers["one.test"] = []
        assert both(lambda seen: seen == {"503"})
        names.answers["one.test"] = [FIRST]
        assert both(lambda seen: seen == {"first"})

        # Of several addresses one is used, and one only.
        assert both(lambda seen: seen in ({"first"}, {"second"}), "/robin")
        names.answers["robin.test"] = [SECOND]
        assert both(lambda seen: seen == {"second"}, "/robin")
