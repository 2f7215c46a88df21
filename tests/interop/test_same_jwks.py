"""Keys that are fetched by URI: whatever becomes of a fetch, ours says what Envoy says, admits nobody, and recovers."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.differential.asking import Ask
from tests.differential.client import ask_all
from tests.differential.running import KINDS, behind
from tests.proxy.bootstrap import Json, bootstrap, cluster, http_listener, to_cluster, virtual_host
from tests.proxy.running import proxy
from tests.tools.ports import free_port, free_ports
from tests.tools.signing import signers

_TYPE = "type.googleapis.com/envoy.extensions.filters.http"
_GOOD = json.dumps({"keys": [{**signers()["rsa"].jwk, "kid": "rsa"}]})
_FAILED = "Jwks remote fetch is failed"
_SLOW_S = 3.0

#: What a server of keys says, by path: status and body, of each of the first answers and of all others.
ANSWERS: dict[str, list[tuple[int, str]]] = {
    "good": [(200, _GOOD)],
    "error": [(500, _GOOD), (200, _GOOD)],
    "gone": [(404, _GOOD), (200, _GOOD)],
    "empty": [(200, ""), (200, _GOOD)],
    "html": [(200, "<html>"), (200, _GOOD)],
    "no-keys": [(200, "{}"), (200, _GOOD)],
    "no-good-keys": [(200, '{"keys":[{"kty":"RSA"},{"kty":"EC","crv":"P-9"}]}'), (200, _GOOD)],
    "other-keys": [(200, json.dumps({"keys": [signers()["rsa2"].jwk]}))],
    "redirect": [(302, ""), (200, _GOOD)],
    "retried": [(503, ""), (503, ""), (200, _GOOD)],
    "slow": [(0, ""), (200, _GOOD)],
    "cut": [(-1, ""), (200, _GOOD)],
}


class Idp:
    """A server of keys; counts how often each is asked for."""

    def __init__(self, delay: float = 0) -> None:
        self.asked: Counter[str] = Counter()
        self._delay = delay
        self.heads: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.heads.append(head)
                name = head.split(" ")[1].removeprefix("/keys/")
                answers = ANSWERS[name]
                status, body = answers[min(self.asked[name], len(answers) - 1)]
                self.asked[name] += 1
                await asyncio.sleep(self._delay or (_SLOW_S if status == 0 else 0))
                if status == -1:
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n{")
                    break
                writer.write(f"HTTP/1.1 {status or 200} X\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    @asynccontextmanager
    async def running(self, port: int) -> AsyncIterator[None]:
        server = await asyncio.start_server(self.serve, "127.0.0.1", port)
        try:
            yield
        finally:
            server.close()


def _bootstrap(port: int, admin: int, origin: list[int], idp: int, dead: int) -> Json:
    providers, rules, hosts = {}, [], []
    for name in (*ANSWERS, "dead", "unknown"):
        where = {"dead": "dead", "unknown": "nowhere"}.get(name, "idp")
        remote: Json = {
            "http_uri": {"uri": f"https://idp.test:99/keys/{name}", "cluster": where, "timeout": "1s"},
            "cache_duration": "600s",
        }
        if name == "retried":
            back_off = {"base_interval": "0.01s", "max_interval": "0.02s"}
            remote["retry_policy"] = {"num_retries": 3, "retry_back_off": back_off}
        providers[name] = {"issuer": "i", "remote_jwks": remote}
        authority = {"name": ":authority", "string_match": {"exact": f"{name}.test"}}
        rules.append({"match": {"prefix": "/", "headers": [authority]}, "requires": {"provider_name": name}})
        hosts.append(virtual_host(name, [to_cluster("a")], [f"{name}.test"]))
    jwt = {"@type": f"{_TYPE}.jwt_authn.v3.JwtAuthentication", "providers": providers, "rules": rules}
    filters = [
        {"name": "envoy.filters.http.jwt_authn", "typed_config": jwt},
        {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{_TYPE}.router.v3.Router"}},
    ]
    clusters = [cluster("a", origin), cluster("idp", [idp]), cluster("dead", [dead])]
    return bootstrap([http_listener(port, hosts, http_filters=filters)], clusters, admin)


def _ask(name: str) -> Ask:
    token = signers()["rsa"].token({"alg": "RS256", "kid": "rsa"}, {"iss": "i", "exp": int(time.time()) + 3600})
    return Ask("GET", f"{name}.test", "/", [("authorization", f"Bearer {token}")])


def test_same_answers() -> None:
    ours, theirs = (asyncio.run(_each(kind)) for kind in KINDS)
    assert ours == theirs
    answers = ours[0]
    for name in (*ANSWERS, "dead", "unknown"):
        first, second = answers[name]
        at_once = name in ("good", "retried")
        refused = (401, "Jwt verification fails") if name == "other-keys" else (401, _FAILED)
        assert first == ((200, "") if at_once else refused), name
        recovers = name not in ("dead", "unknown", "other-keys")
        assert second == ((200, "") if recovers else refused), name


async def _each(kind: str) -> tuple[dict[str, list[tuple[int, str]]], dict[str, int], Counter[str]]:
    """Two requests for each, one after the other; what was counted, and how often each was asked for."""
    port, idp_port, dead, origins = free_port(), free_port(), free_port(), {"a": free_ports(1)}
    idp, answers = Idp(), {}
    async with behind(origins, Counter()), idp.running(idp_port):
        with proxy(kind, _bootstrap(port, free_port(), list(origins["a"]), idp_port, dead)) as started:
            for name in (*ANSWERS, "dead", "unknown"):
                answers[name] = [await _status(port, name) for _ in range(2)]
            stats = await asyncio.to_thread(started.stats)
    fetch = {line for head in idp.heads for line in head.lower().split("\r\n") if line.startswith("host")}
    assert fetch == {"host: idp.test:99"}
    return answers, {name: value for name, value in stats.items() if ".jwt_authn." in name}, idp.asked


async def _status(port: int, name: str) -> tuple[int, str]:
    answer = (await ask_all(port, {0: _ask(name)}))[0]
    return answer["status"], "" if answer["status"] == 200 else answer["body"]


@pytest.mark.parametrize("workers", [1, 4])
def test_one_fetch_for_all_who_wait(workers: int) -> None:
    """Requests of all workers wait together."""

    async def run() -> None:
        port, idp_port, origins = free_port(), free_port(), {"a": free_ports(1)}
        idp = Idp(delay=0.5)
        async with behind(origins, Counter()), idp.running(idp_port):
            config = _bootstrap(port, free_port(), list(origins["a"]), idp_port, free_port())
            with proxy("pymesh", config, concurrency=workers):
                ask = _ask("good")
                answers = await ask_all(port, dict.fromkeys(range(64), ask))
                assert Counter(answer["status"] for answer in answers.values()) == {200: 64}
                assert idp.asked == {"good": 1}

    asyncio.run(run())
